"""Recordings of KV-cache events: how they lie in a file, and from there to streams.

Knows the file forms. Must not know what events mean. Engines publish over ZeroMQ and write no files; what a subscriber
records, gzip or zstd or plain, is one of

- payloads: the third frame of each message, one after another. Sequence numbers are not kept, so gaps cannot be seen.
- frames: of each message topic, sequence number (8 bytes, big-endian) and payload, each behind its length (4 bytes,
  big-endian). Told by the first byte: a length begins with 0, a payload does not. The marker that ends a replay
  (sequence number -1, no payload) is passed over, a message that a replay delivered again too, and counted.
- lines: a batch per line in JSON, ``[ts, events, rank]`` as ``msgspec.json`` writes vLLM's batches, or
  ``{"ts": ..., "events": [...], "data_parallel_rank": ...}``; a ``seq`` is optional there. Lines of NVIDIA Dynamo's
  recorder are such lines too, see :mod:`workloads.events.lines`.

From source, not measured: no recording of a live server was at hand; vLLM 0.33.0's and SGLang 0.5.23's own cache code
made those this was tried on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from workloads import progress
from workloads.errors import TraceError
from workloads.events import msgpack as wire
from workloads.events.collect import Collector
from workloads.events.layout import EXPECTED, room
from workloads.events.lines import frames
from workloads.events.stream import Source, Stream
from workloads.readers.lines import source_of
from workloads.readers.packed import opened

CHUNK_BYTES = 1 << 19
_LINES = (
    b'"BlockStored"',
    b'"BlockRemoved"',
    b'"AllBlocksCleared"',
    b'"stored":{"parent_hash"',
    b'"removed":{"block_hashes"',
)


def matches(start: bytes) -> bool:
    """Return whether a file that begins like this holds events; never raises."""
    if start[:1] in b"[{":
        return any(name in start for name in _LINES)
    if start[:1] != b"\0" and (not start or start[0] >> 4 != 9):
        return False
    return any(name in start for name in (b"BlockStored", b"BlockRemoved", b"AllBlocksCleared"))


def read_streams(path: Path) -> dict[Source, Stream]:
    """Read a recording.

    Returns:
        The stream of each source, by source. Provenance tells form, sequence gaps and messages that came twice.

    Raises:
        TraceError: naming file, message or line, what was expected and the fix.
    """
    collector = Collector(str(path))
    with opened(path, lambda: f"{path}: message {collector.messages}") as (handle, file, size):
        first = handle.read(1)
        form = {b"\0": "frames", b"[": "lines", b"{": "lines"}.get(first, "payloads")
        if form != "lines":
            _read_binary(path, handle, first, form == "frames", collector, file, size)
    if form == "lines":
        _read_lines(path, collector)
    found: dict[str, object] = {
        "format": f"kv-events, {form}",
        "source": source_of(path),
        "messages": collector.messages,
    }
    if collector.sequences.gaps:
        found["sequence_gaps"] = collector.sequences.gaps
    if collector.sequences.twice:
        found["messages_received_twice"] = collector.sequences.twice
    return collector.streams(found)


def choose(
    streams: dict[Source, Stream],
    file: str,
    rank: int | None = None,
    medium: str | None = None,
    group: int | None = None,
) -> Stream:
    """Return the only stream of the GPU, or the one asked for.

    Args:
        streams: From `read_streams`.
        file: Name of the recording, for messages.
        rank: Data-parallel rank.
        medium: Medium; by default that of the GPU, or the only one.
        group: KV-cache group.

    Raises:
        TraceError: none, or several.
    """
    asked = {"rank": rank, "medium": medium, "group": group}
    left = [s for s in streams if all(value is None or getattr(s, name) == value for name, value in asked.items())]
    if medium is None and len(left) > 1:
        left = [source for source in left if source.medium.upper() in ("", "GPU")] or left
    if len(left) == 1:
        return streams[left[0]]
    wanted = " ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
    raise TraceError(
        f"{file}: expected one source of events{' with ' * bool(wanted)}{wanted}, got {len(left)} - fix: choose by"
        f" rank, medium or group; in the file: {'; '.join(map(str, streams)) or 'none that stores blocks'}"
    )


def _read_binary(
    path: Path, handle: IO[bytes], rest: bytes, framed: bool, collector: Collector, file: IO[bytes], size: int
) -> None:
    """Parse a chunk at a time; a message cut off at its end is read again with the next."""
    at, parsed, wanted = 0, room(0), CHUNK_BYTES
    while True:
        more = handle.read(wanted)
        buffer = np.frombuffer(rest + more, np.uint8)
        if len(parsed.hashes) <= len(buffer):
            parsed = room(max(len(buffer), CHUNK_BYTES))
        status, messages, done = wire.parse(buffer, framed, parsed)
        if status not in (wire.DONE, wire.SHORT) or (status == wire.SHORT and not more):
            expected = "the rest of the message" if status == wire.SHORT else EXPECTED[status]
            got = "the end of the file" if status == wire.SHORT else f"bytes {bytes(buffer[done : done + 8]).hex(' ')}"
            raise TraceError(
                f"{path}: message {collector.messages + messages}, byte {at + done}: expected {expected}, got {got}"
                " - fix: check that this is a recording of KV-cache events, and whole"
            )
        if messages:
            collector.add(buffer, parsed, messages)
        if not more:
            return
        rest, at = bytes(buffer[done:]), at + done
        wanted = CHUNK_BYTES - len(rest) if len(rest) < CHUNK_BYTES else len(rest)
        progress.tell(f"reading {path.name}, MB", file.tell() / 1e6, size / 1e6)


def _read_lines(path: Path, collector: Collector) -> None:
    """Parse lines, turned into frames."""
    for lines, buffer in _chunks(frames(path)):
        raw = np.frombuffer(buffer, np.uint8)
        parsed = room(len(raw))
        status, messages, done = wire.parse(raw, True, parsed)
        if status != wire.DONE:
            raise TraceError(
                f"{path}:{lines[messages]}: expected {EXPECTED[status]}, got bytes"
                f" {bytes(raw[done : done + 8]).hex(' ')} in msgpack - fix: repair or remove the line"
            )
        collector.add(raw, parsed, messages)


def _chunks(messages: Iterator[tuple[int, bytes]]) -> Iterator[tuple[list[int], bytes]]:
    lines, held, size = list[int](), list[bytes](), 0
    for line, message in messages:
        lines.append(line)
        held.append(message)
        size += len(message)
        if size > CHUNK_BYTES:
            yield lines, b"".join(held)
            lines, held, size = [], [], 0
    if held:
        yield lines, b"".join(held)
