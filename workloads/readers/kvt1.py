"""kvt1: a header line, then one request per line with run-length block ids and absolute times.

Knows that format (``t`` ms, ``in``, ``out``, optional ``s`` session, ``b`` runs of full-block ids). Must not know
where the files are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from workloads import runs
from workloads.errors import TraceError
from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs
from workloads.readers.lines import JsonLines, Record, source_of
from workloads.trace import Trace
from workloads.validation import check_block_tokens
from workloads.writers.kvt1 import KEEPS, SUFFIXES, write

__all__ = ["KEEPS", "SUFFIXES", "SUMMARY", "matches", "read", "read_header", "write"]

_USED = frozenset(("t", "in", "out", "s", "b"))
_MAX_REFS = 2**31 - 1

SUMMARY = "requests with absolute times and runs of block ids"


def matches(head: Head) -> bool:
    """Return whether a file says so in its header."""
    return (head.first or {}).get("format") == "kvt1"


def read(path: str | os.PathLike[str], name: str | None = None, repair: str | Iterable[str] = ()) -> Trace:
    """Read a kvt1 file, plain or gzipped.

    Args:
        path: The file.
        name: Name of the trace; default: the header's.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`: ``sort_time``, ``rechain``,
            ``clip_input`` (RAGPulse needs the last one: its prompts count chat-template tokens that no id covers).

    Returns:
        The trace; ``session`` and ``turn`` are set if the lines have ``s``.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    repairs = checked_repairs(repair)
    source, rows, flat = JsonLines(file), Rows(), list[list[int]]()
    run_rows = [0]
    header: Record | None = None
    for record in source.records():
        if header is None:
            header = read_header(source, record, "kvt1")
            continue
        flat += _read_request(source, record, header["block_size"], rows, repairs)
        run_rows.append(len(flat))
    if header is None:
        raise TraceError(f"{file}: empty file - fix: check that this is the right file")
    if sum(rows.counts) > _MAX_REFS:
        raise TraceError(f"{file}: {sum(rows.counts)} block references, at most {_MAX_REFS} are supported")
    both = np.array(flat, np.int64).reshape(-1, 2)
    _, ids = runs.expand(np.array(run_rows, np.int64), both[:, 0], both[:, 1])
    provenance: dict[str, object] = {
        "format": "kvt1",
        "source": source_of(file),
        "time_unit": "ms",
        "header": header,
        "options": {"repair": sorted(repairs)},
    }
    return assemble(
        source,
        rows,
        ids,
        name=name or str(header.get("name", file.name.removesuffix(".gz"))),
        block_tokens=header["block_size"],
        repairs=repairs,
        provenance=provenance,
    )


def read_header(source: JsonLines, record: Record, kind: str) -> Record:
    """Check the first line of a kvt1 or kvsess1 file and return it.

    Raises:
        TraceError: another format, or no usable ``block_size``.
    """
    if record.get("format") != kind:
        source.refuse("format", repr(kind), record.get("format"), "check that this is the right file for this reader")
    source.integer(record, "block_size", 1)
    check_block_tokens(record["block_size"])
    return record


def _read_request(
    source: JsonLines, record: Record, block_tokens: int, rows: Rows, repairs: frozenset[str]
) -> list[list[int]]:
    """Check one line, append it to the columns and return its runs."""
    arrival = source.milliseconds(record, "t")
    tokens = source.integer(record, "in", 0)
    output = source.integer(record, "out", 0)
    blocks = source.block_runs(record, "b")
    count = sum(length for _, length in blocks)
    full = tokens // block_tokens
    if count > full or (count < full and "clip_input" not in repairs):
        fix = "drop ids past the last full block" if count > full else "pass repair='clip_input' to lower 'in'"
        source.refuse("b", f"{full} blocks = in {tokens} // block_size {block_tokens}", f"{count} blocks", fix)
    rows.add(source.line, arrival, tokens, output, count)
    if "s" in record:
        rows.put("session", source.integer(record, "s", 0))
    source.note_unused(record, _USED)
    return blocks
