"""Logs of ``workloads.recording`` and of ``kvevolve trace anonymize``.

Knows that format (see :mod:`workloads.recording.line`) and what a killed recorder leaves behind. Must not know how logs
are made. Lines are written when a request is done, so they are sorted by arrival here, and counted.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads import chains
from workloads.columns import I64, INT32_MAX, renumbered
from workloads.errors import TraceError
from workloads.formats import Head
from workloads.readers.assemble import turns
from workloads.readers.lines import JsonLines, Record
from workloads.readers.members import first_bytes, source
from workloads.trace import Trace

SUMMARY = "recorded by workloads.recording, or anonymised"

_USED = frozenset(("timestamp", "input_length", "output_length", "hash_ids", "block_size", "session_id", "tenant_id"))
_COLUMNS = {"request_type": -1, "priority": -INT32_MAX}  # with their least values
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass
class _Lines(JsonLines):
    """Lines of a log whose last one may be unfinished."""

    unfinished: int = 0

    def _parse(self, raw: bytes) -> Record:
        try:
            return super()._parse(raw)
        except TraceError:
            if raw.endswith(b"\n"):
                raise
        self.unfinished += 1
        return {}


@dataclass
class _Columns:
    """Requests as read; optional columns are -1 where a line has none."""

    arrival_ms: array[float] = field(default_factory=lambda: array("d"))
    numbers: dict[str, array[int]] = field(default_factory=dict)
    ids: list[I64] = field(default_factory=list)
    names: dict[str, dict[str | int, int]] = field(default_factory=lambda: {"session_id": {}, "tenant_id": {}})
    unused: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: int) -> None:
        """Append a number of the current request, filling what earlier ones did not have."""
        column = self.numbers.setdefault(name, array("q"))
        column.extend([-1] * (len(self.arrival_ms) - 1 - len(column)))
        column.append(value)


def matches(head: Head) -> bool:
    """Return whether the first line has block hashes and their size."""
    if head.path.is_dir():
        start = first_bytes(head).partition(b"\n")[0]
        return b'"hash_ids"' in start and b'"block_size"' in start and b'"timestamp"' in start
    first = head.first or {}
    return "hash_ids" in first and "block_size" in first and "timestamp" in first


def read(path: str | os.PathLike[str], name: str | None = None) -> Trace:
    """Read a log.

    Args:
        path: A file, plain or packed, or the folder a recorder wrote to.
        name: Name of the trace; default: the file's without suffixes.

    Returns:
        The trace, with session, turn, tenant, request_type and priority where they were logged. Provenance counts
        partial blocks dropped, requests sorted by arrival, and unfinished last lines left out.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    files = sorted(item for item in file.iterdir() if item.name.endswith(_SUFFIXES)) if file.is_dir() else [file]
    columns, blocks, unfinished = _Columns(), 0, 0
    for item in files:
        lines = _Lines(item)
        for record in lines.records():
            if record:
                blocks = _read_request(lines, record, blocks, columns)
        unfinished += lines.unfinished
        for key, count in lines.unused_fields.items():
            columns.unused[key] = columns.unused.get(key, 0) + count
    if not columns.arrival_ms:
        raise TraceError(f"{file}: no requests in it - fix: check that this is the right file or folder")
    arrival_ms = np.array(columns.arrival_ms)
    order = np.argsort(arrival_ms, kind="stable")
    provenance: dict[str, object] = {"format": "recorded", "source": source(file), "time_unit": "ms"}
    counts = {
        "partial_tail_ids_dropped": int((np.array(columns.numbers["input_tokens"]) % blocks > 0).sum()),
        "requests_sorted_by_time": int((arrival_ms < np.maximum.accumulate(arrival_ms)).sum()),
        "unfinished_lines_dropped": unfinished,
    }
    provenance |= {key: count for key, count in counts.items() if count}
    if columns.unused:
        provenance["unused_fields"] = dict(sorted(columns.unused.items()))
    return _to_trace(columns, order, name or file.name.partition(".")[0], blocks, provenance)


def _read_request(source: JsonLines, record: Record, blocks: int, columns: _Columns) -> int:
    """Check one line and append it; return the block size."""
    size = source.integer(record, "block_size", 1)
    if blocks not in (0, size):
        source.refuse("block_size", f"{blocks}, as before", size, "read logs of different block sizes apart")
    tokens = source.integer(record, "input_length", 0)
    listed = source.block_ids(record, "hash_ids")
    if len(listed) != -(-tokens // size):
        expected = f"{-(-tokens // size)} ids = input_length {tokens} / block_size {size}, rounded up"
        source.refuse("hash_ids", expected, f"{len(listed)} ids")
    columns.arrival_ms.append(source.milliseconds(record, "timestamp"))
    columns.add("input_tokens", tokens)
    columns.add("output_tokens", source.integer(record, "output_length", 0))
    columns.ids.append(np.array(listed[: tokens // size], np.int64))
    for column, known in columns.names.items():
        value = record.get(column)
        if value is not None:
            if type(value) is not str and type(value) is not int:
                source.refuse(column, "text or an integer", value)
            columns.add(column, known.setdefault(value, len(known)))
    for column, least in _COLUMNS.items():
        if column in record:
            columns.add(column, source.integer(record, column, least))
    source.note_unused(record, _USED.union(_COLUMNS))
    return size


def _to_trace(
    columns: _Columns, order: np.ndarray[Any, Any], name: str, blocks: int, provenance: dict[str, object]
) -> Trace:
    n = len(order)
    found: dict[str, Any] = {}
    for column, values in columns.numbers.items():
        values.extend([-1] * (n - len(values)))
        found[column] = np.array(values, np.int64)[order]
    offsets = np.concatenate(([0], np.cumsum(np.array(columns.numbers["input_tokens"]) // blocks)))
    offsets, ids = chains.take_rows(offsets, np.concatenate(columns.ids), order)
    for given, meant in (("session_id", "session"), ("tenant_id", "tenant")):
        if given in found:
            found[meant] = renumbered(found.pop(given))
    if "session" in found:
        found["turn"] = turns(found["session"])
    arrival_s = np.array(columns.arrival_ms)[order] / 1000.0
    return Trace.build(
        name=name,
        block_tokens=blocks,
        offsets=offsets,
        block_ids=ids,
        arrival_s=arrival_s,
        provenance=provenance,
        **found,
    )
