"""The trace schema of prefix-cache-evolve: JSON lines of request metadata without content, in and out.

Knows that schema. Must not know where the files are. Source: ptuls/prefix-cache-evolve,
src/prefix_cache_evolve/problems/prefix_kv_cache/trace_replay.py @ 427a4f9: from source, not measured.

Fields: ``timestamp_ms``, ``tenant_id`` or ``tenant_hash``, ``session_id`` or ``session_hash``, ``prompt_length``,
``output_length``, ``prefix_path`` or ``prefix_hashes`` (a name per begun block; equal path, equal prefix), optional
``request_type`` (text), ``priority``, ``predicted_output_length``. Content is refused, there as here. Its simulator
knows no requests without tokens, tenant or session.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from workloads.errors import TraceError
from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs, integers
from workloads.readers.lines import JsonLines, Record, source_of, stem_of
from workloads.trace import Trace
from workloads.validation import check_block_tokens
from workloads.writers.text import write_lines

SUMMARY = "prefix-cache-evolve's metadata, in and out"
SUFFIXES = (".pce.jsonl",)
KEEPS = ("session", "tenant", "request_type", "priority")

_PATHS = ("prefix_path", "prefix_hashes")
_TENANTS = ("tenant_hash", "tenant_id")
_SESSIONS = ("session_hash", "session_id")
_USED = frozenset(
    (*_PATHS, *_TENANTS, *_SESSIONS, "timestamp_ms", "prompt_length", "output_length", "request_type", "priority")
)
_CONTENT = frozenset(
    ("content", "input", "messages", "prompt", "prompt_text", "prompt_tokens", "raw_prompt", "text", "tokens")
)


def matches(head: Head) -> bool:
    """Return whether the first line has a prefix path and this schema's time."""
    first = head.first or {}
    return "timestamp_ms" in first and any(name in first for name in _PATHS)


def read(
    path: str | os.PathLike[str],
    block_tokens: int = 16,
    name: str | None = None,
    repair: str | Iterable[str] = (),
) -> Trace:
    """Read a file of this schema, plain or packed.

    Args:
        path: The file.
        block_tokens: Tokens per block; the file does not say.
        name: Name of the trace; default: the file's name without suffixes.
        repair: ``sort_time``, see :func:`workloads.readers.assemble.assemble`.

    Returns:
        The trace. Names are numbered in order of first appearance; blocks are re-keyed by (path so far, name), as that
        simulator does, and how many ids that made is counted (``repairs.rechain``).

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    check_block_tokens(block_tokens)
    repairs = checked_repairs(repair, ("sort_time",))
    source, rows, ids = JsonLines(file), Rows(), integers()
    blocks: dict[str | int, int] = {}
    partial = 0
    for record in source.records():
        partial += _read_request(source, record, block_tokens, rows, ids, blocks)
    provenance: dict[str, object] = {
        "format": "prefix_cache_evolve",
        "source": source_of(file),
        "time_unit": "ms",
        "options": {"block_tokens": block_tokens, "repair": sorted(repairs)},
        "partial_tail_ids_dropped": partial,
    }
    return assemble(
        source,
        rows,
        np.asarray(ids, np.int64),
        name=name or stem_of(file).removesuffix(".pce"),
        block_tokens=block_tokens,
        repairs=repairs | {"rechain"},
        provenance=provenance,
    )


def _read_request(
    source: JsonLines, record: Record, block_tokens: int, rows: Rows, ids: array[int], blocks: dict[str | int, int]
) -> bool:
    """Check one line and append it to the columns; return whether a partial last block was dropped."""
    for content in _CONTENT & record.keys():
        source.refuse(content, "no content, metadata only", "content", "remove the field from every line")
    arrival_ms = source.milliseconds(record, "timestamp_ms")
    tokens = source.integer(record, "prompt_length", 0)
    output = source.integer(record, "output_length", 0)
    listed = record[_one_of(source, record, _PATHS)]
    begun, full = -(-tokens // block_tokens), tokens // block_tokens
    if type(listed) is not list or len(listed) != begun:
        expected = f"{begun} names = prompt_length {tokens} / block_tokens {block_tokens}, rounded up"
        got = f"{len(listed)} names" if type(listed) is list else listed
        source.refuse(_one_of(source, record, _PATHS), expected, got, "give the trace's own block_tokens")
    if not set(map(type, listed)) <= {str, int}:
        source.refuse(_one_of(source, record, _PATHS), "names that are strings or integers", listed)
    numbers: list[Any] = list(map(blocks.get, listed[:full]))
    if None in numbers:
        for index in range(numbers.index(None), full):
            name = listed[index]
            numbers[index] = blocks.setdefault(name, blocks.setdefault(str(name), len(blocks)))
    ids.extend(numbers)
    rows.add(source.line, arrival_ms, tokens, output, full)
    rows.name("tenant", source.label(record, _one_of(source, record, _TENANTS)))
    rows.name("session", source.label(record, _one_of(source, record, _SESSIONS)))
    rows.name("request_type", source.label(record, "request_type"))
    if "priority" in record:
        rows.put("priority", source.integer(record, "priority", 0))
    source.note_unused(record, _USED)
    return begun > full


def _one_of(source: JsonLines, record: Record, names: tuple[str, str]) -> str:
    """Return which of two fields is there."""
    present = [name for name in names if name in record]
    if len(present) != 1:
        source.refuse(names[0], f"exactly one of {' and '.join(names)}", f"{len(present)} of them")
    return present[0]


def write(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace in this schema, whole or not at all.

    A partial last block gets a name of its own. Where the trace knows no tenant, it is 0; where it knows no session,
    every request is one. Turns are lost.

    Args:
        trace: What to write.
        path: File name, used as given; missing folders are created.

    Raises:
        TraceError: a request without tokens, or a priority below 0: the schema has none.
        OSError: the file cannot be written.
    """
    for field, column in (("input_tokens", trace.input_tokens - 1), ("priority", trace.priority)):
        if column is not None and int(column.min()) < 0:
            row = int(np.argmax(column < 0))
            raise TraceError(
                f"request {row}: field {field!r}: this schema has no requests without tokens and no priority below 0"
                " - fix: choose another format",
                request=row,
                field=field,
            )
    write_lines(Path(path), (_record(trace, row) for row in range(trace.n_requests)), trace.n_requests)


def _record(trace: Trace, row: int) -> Record:
    """Return a request as a line of this schema."""
    path: list[str | int] = trace.block_ids[trace.offsets[row] : trace.offsets[row + 1]].tolist()
    if trace.input_tokens[row] % trace.block_tokens:
        path.append(f"tail {row}")
    record: Record = {
        "timestamp_ms": float(trace.arrival_s[row]) * 1000.0,
        "tenant_id": 0 if trace.tenant is None else int(trace.tenant[row]),
        "session_id": f"request {row}" if trace.session is None or trace.session[row] < 0 else int(trace.session[row]),
        "prompt_length": int(trace.input_tokens[row]),
        "output_length": int(trace.output_tokens[row]),
        "prefix_path": path,
    }
    if trace.request_type is not None and trace.request_type[row] >= 0:
        record["request_type"] = str(int(trace.request_type[row]))
    if trace.priority is not None:
        record["priority"] = int(trace.priority[row])
    return record
