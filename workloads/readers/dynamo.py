"""NVIDIA Dynamo's request trace: JSON lines of events, of which ``request_end`` describes a request.

Knows that format (schema ``dynamo.request.trace.v1``), written by the frontend to rotated shards
``request-trace.NNNNNN.jsonl.gz``. Must not know where the files are. Source: ai-dynamo/dynamo,
lib/data-gen/src/request_trace/load.rs @ 04daeb0: from source, not measured.

Read of a ``request_end``: ``request.request_received_ms`` (Unix), ``request.output_tokens``, ``request.model``,
``request.replay`` with ``trace_block_size``, ``input_length`` and ``input_sequence_hashes`` (one for every begun block,
each the hash of the whole prefix), ``agent_context.session_id`` and ``parent_session_id``. Requests arrive when they
were received, as recorded; DynoSim instead replays agents by their dependencies. An event may lie in an envelope
``{"timestamp": ..., "event": {...}}``. Tool events, payloads and lines without a schema are passed over and counted.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workloads.columns import I64, INT64_MAX
from workloads.errors import unknown_name
from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs, integers
from workloads.readers.lines import JsonLines, Record, files_of, source_of, stem_of
from workloads.trace import Trace

SUMMARY = "NVIDIA Dynamo's request trace: a file, or a folder of request-trace.*.jsonl(.gz)"
PATTERN = "request-trace.*.jsonl*"
SCHEMA = "dynamo.request.trace.v1"

_OTHER_EVENTS = frozenset(("request_payload", "tool_start", "tool_end", "tool_error"))


@dataclass
class _Shards:
    """What has been read so far."""

    rows: Rows = field(default_factory=Rows)
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    models: dict[str, int] = field(default_factory=dict)
    model_of: array[int] = field(default_factory=integers)
    passed_over: Counter[str] = field(default_factory=Counter)
    block_tokens: int = 0
    partial: int = 0


def matches(head: Head) -> bool:
    """Return whether the first line is such an event, or a folder has such shards."""
    if head.path.is_dir():
        return any(head.path.glob(PATTERN))
    first = head.first or {}
    event = first.get("event", first)
    return type(event) is dict and event.get("schema") == SCHEMA


def read(
    path: str | os.PathLike[str],
    model: str | None = None,
    name: str | None = None,
    repair: str | Iterable[str] = (),
) -> Trace:
    """Read a request trace.

    Args:
        path: A file, plain or packed, or the folder of the shards, which are read in the order of their names.
        model: Requests of this model only; default: of all. Equal hashes of different models are different blocks.
        name: Name of the trace; default: the file's name without suffixes, or the folder's.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`: ``rechain``.

    Returns:
        The trace, sorted by arrival; time 0 is the first request (``first_request_unix_ms`` in the provenance). Agents'
        sessions are sessions; ``request_type`` is 1 for sub-agents, else 0, if there are agents.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    given = Path(path)
    repairs = checked_repairs(repair, ("rechain",))
    files = files_of(given, PATTERN)
    source = JsonLines(given, files)
    shards = _read_shards(source, model)
    rows = shards.rows
    start_ms = rows.start_at_zero()
    provenance: dict[str, object] = {
        "format": "dynamo",
        "source": source_of(given, files),
        "time_unit": "ms",
        "first_request_unix_ms": start_ms,
        "models": list(shards.models),
        "events_passed_over": dict(shards.passed_over),
        "partial_tail_ids_dropped": shards.partial,
        "options": {"model": model, "repair": sorted(repairs)},
    }
    return assemble(
        source,
        rows,
        _ids(shards),
        name=name or stem_of(given),
        block_tokens=shards.block_tokens or 1,
        repairs=repairs,
        provenance=provenance,
        by_time=True,
    )


def _read_shards(source: JsonLines, model: str | None) -> _Shards:
    """Read all requests, or those of a model."""
    shards = _Shards()
    for record in source.records():
        event = _event(source, record, shards)
        if event is not None:
            _read_request(source, event, model, shards)
    if model is not None and shards.models and model not in shards.models:
        raise unknown_name(f"model in {source.path}", model, shards.models)
    return shards


def _event(source: JsonLines, record: Record, shards: _Shards) -> Record | None:
    """Return the ``request_end`` of a line, None if it is something else."""
    event = record.get("event", record)
    if type(event) is not dict or ("schema" not in event and "event_type" not in event):
        shards.passed_over["no event"] += 1
        return None
    kind = event.get("event_type")
    if type(kind) is str and kind in _OTHER_EVENTS:
        shards.passed_over[kind] += 1
        return None
    if event.get("schema") != SCHEMA:
        source.refuse("schema", repr(SCHEMA), event.get("schema"), "this version is not known")
    if kind != "request_end":
        source.refuse("event_type", f"request_end, {', '.join(sorted(_OTHER_EVENTS))}", kind)
    return event


def _read_request(source: JsonLines, event: Record, model: str | None, shards: _Shards) -> None:
    """Check a ``request_end`` and append it to the columns."""
    request = _object(source, event, "request")
    replay = _object(source, request, "replay")
    found = source.label(request, "model")
    found = "unknown" if found is None else str(found)
    number = shards.models.setdefault(found, len(shards.models))
    if model is not None and found != model:
        return
    block_tokens = source.integer(replay, "trace_block_size", 1)
    shards.block_tokens = shards.block_tokens or block_tokens
    if block_tokens != shards.block_tokens:
        fix = "pass model=..., or read the shards one by one"
        source.refuse("trace_block_size", f"{shards.block_tokens} as in the lines before", block_tokens, fix)
    tokens = source.integer(replay, "input_length", 0)
    hashes = source.block_ids(replay, "input_sequence_hashes", 2 * INT64_MAX + 1)
    begun = -(-tokens // block_tokens)
    if len(hashes) != begun:
        expected = f"{begun} hashes = input_length {tokens} / trace_block_size {block_tokens}, rounded up"
        source.refuse("input_sequence_hashes", expected, f"{len(hashes)} hashes")
    full = tokens // block_tokens
    shards.partial += begun - full
    shards.hashes.extend(hashes[:full])
    shards.model_of.append(number)
    arrival_ms = source.milliseconds(request, "request_received_ms")
    shards.rows.add(source.line, arrival_ms, tokens, source.integer(request, "output_tokens", 0), full)
    if event.get("agent_context") is not None:
        agent = _object(source, event, "agent_context")
        shards.rows.name("session", source.label(agent, "session_id"))
        shards.rows.put("request_type", int(agent.get("parent_session_id") is not None))


def _ids(shards: _Shards) -> I64:
    """Return int64[n_refs] ids of the blocks, one per model and hash."""
    ids: I64 = np.unique(np.asarray(shards.hashes, np.uint64), return_inverse=True)[1].astype(np.int64)
    ids *= len(shards.models)
    ids += np.repeat(np.asarray(shards.model_of, np.int64), np.asarray(shards.rows.counts, np.int64))
    return ids


def _object(source: JsonLines, record: Record, name: str) -> Record:
    """Return a field that is an object."""
    value = record.get(name)
    if type(value) is not dict:
        source.refuse(name, "an object", value if name in record else "nothing")
    return value
