"""KV-cache events in JSON lines, brought into the frames that engines publish.

Knows the lines of subscribers that write JSON, and those of NVIDIA Dynamo's recorder. Must not know streams.

Dynamo (``KvRecorder`` = ``Recorder<RouterEvent>``, dynamo ``lib/llm/src/recorder.rs`` and ``kv_router/protocols.rs``;
from source, not measured): ``{"timestamp": ms since the recording began, "event": {"worker_id": 1, "event":
{"event_id": 42, "data": {"stored": {"parent_hash": null, "blocks": [{"block_hash": 1, "tokens_hash": 2}]}},
"dp_rank": 0}}}``, or ``{"removed": {"block_hashes": [1]}}``, or ``"cleared"``. Event ids count per worker, so gaps
are seen. Lines do not say how many tokens a block has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.errors import TraceError
from workloads.readers.lines import JsonLines, Record

NO_NUMBER = 2**64 - 1
"""Sequence number of a batch that has none."""

_RANKS = ("data_parallel_rank", "attn_dp_rank", "dp_rank")
_TOKENS = 3
"""Position of the token ids in an event that is an array."""


class _Lines(JsonLines):
    def _parse(self, raw: bytes) -> Record:
        """Return a batch written as an array as an object too."""
        if raw.lstrip()[:1] != b"[":
            return super()._parse(raw)
        record = super()._parse(b'{"batch":' + raw.rstrip(b"\r\n") + b"}")["batch"]
        return dict(zip(("ts", "events", "data_parallel_rank"), record, strict=False))


def frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line number and frames of each batch; token ids are left out.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    try:
        import msgspec
    except ImportError:
        raise TraceError(f"{path}: events in JSON need msgspec - fix: pip install 'kvevolve[traces]'") from None
    encode = msgspec.msgpack.Encoder().encode
    source = _Lines(path)
    for record in source.records():
        topic, number, batch = _recorded(source, record) if "event" in record else _batch(source, record)
        try:
            payload = encode(batch)
        except (OverflowError, RecursionError) as error:
            source.refuse("events", "integers of at most 64 bits", str(error))
        parts = (topic.encode(), number.to_bytes(8, "big"), payload)
        yield source.line, b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _batch(source: JsonLines, record: Record) -> tuple[str, int, list[Any]]:
    """Return topic, sequence number and batch of a line of batches."""
    events = record.get("events")
    if type(events) is not list:
        source.refuse("events", "a list of events", events if "events" in record else "nothing")
    for event in events:
        if type(event) is dict:
            event.pop("token_ids", None)
        elif type(event) is list and len(event) > _TOKENS and event[0] == "BlockStored":
            event[_TOKENS] = None
    rank = next((record[name] for name in _RANKS if name in record), None)
    number = source.integer(record, "seq", 0, 2**63 - 1) if "seq" in record else NO_NUMBER
    return "", number, [_seconds(source, record, "ts"), events, rank]


def _recorded(source: JsonLines, record: Record) -> tuple[str, int, list[Any]]:
    """Return the same of a line of Dynamo's recorder."""
    routed = record["event"]
    event = routed.get("event") if type(routed) is dict else None
    if type(event) is not dict or "data" not in event:
        source.refuse("event", "{worker_id, event: {event_id, data}}", routed)
    data, found = event["data"], dict[str, Any]()
    stored, removed = (data.get(name) if type(data) is dict else None for name in ("stored", "removed"))
    if type(stored) is dict and type(stored.get("blocks")) is list and all(type(b) is dict for b in stored["blocks"]):
        hashes = [block.get("block_hash") for block in stored["blocks"]]
        found = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": stored.get("parent_hash")}
    elif type(removed) is dict:
        found = {"type": "BlockRemoved", "block_hashes": removed.get("block_hashes")}
    elif data == "cleared":
        found = {"type": "AllBlocksCleared"}
    else:
        source.refuse("data", '{"stored": {parent_hash, blocks}}, {"removed": {block_hashes}} or "cleared"', data)
    number = source.integer(event, "event_id", 0, 2**63 - 1)
    seconds = _seconds(source, record, "timestamp") / 1000.0
    return f"worker {routed.get('worker_id')}", number, [seconds, [found], event.get("dp_rank")]


def _seconds(source: JsonLines, record: Record, name: str) -> float:
    value = record.get(name)
    if type(value) is not int and type(value) is not float:
        source.refuse(name, "a time", value if name in record else "nothing")
    return float(min(value, 1e300))
