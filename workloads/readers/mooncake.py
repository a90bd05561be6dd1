"""Mooncake JSONL: one request per line with ``timestamp``, ``input_length``, ``output_length``, ``hash_ids``.

Knows that format and its partial tail id. Must not know where the files are. Source: kvcache-ai/Mooncake,
FAST25-release (Qin et al., USENIX FAST'25). Later variants add ``session_id`` and the aliases ``input_tokens`` and
``output_tokens``, which are read too; closed-loop rows (``delay`` instead of ``timestamp``) are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from workloads.errors import TraceError
from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs, recorded_lengths
from workloads.readers.lines import JsonLines, Record, source_of
from workloads.trace import Trace
from workloads.validation import check_block_tokens
from workloads.writers.mooncake import SUFFIXES, write

__all__ = ["SUFFIXES", "SUMMARY", "matches", "read", "write"]

_USED = frozenset(
    ("timestamp", "input_length", "output_length", "hash_ids", "input_tokens", "output_tokens", "session_id")
)

SUMMARY = "Mooncake, NVIDIA Dynamo, AIPerf"


def matches(head: Head) -> bool:
    """Return whether the first line has block hashes."""
    return "hash_ids" in (head.first or {})


def read(
    path: str | os.PathLike[str],
    block_tokens: int = 512,
    name: str | None = None,
    repair: str | Iterable[str] = (),
    partial_tail: str = "drop",
) -> Trace:
    """Read a Mooncake JSONL file, plain or gzipped.

    Args:
        path: The file.
        block_tokens: Tokens per block; the file does not say (Mooncake's own traces: 512).
        name: Name of the trace; default: the file's name without suffixes.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`: ``sort_time``, ``rechain``.
        partial_tail: What becomes of the last id of a request, a partial block unless ``input_length`` is a multiple of
            ``block_tokens``. "drop", as engines do: full blocks only. "block", as simulators do that ignore lengths: a
            block like any other, the prompt rounded up to whole blocks (``kvevolve fidelity`` shows what that costs).

    Returns:
        The trace. Provenance counts the partial ids (``partial_tail_ids_dropped`` or ``_kept``).

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    check_block_tokens(block_tokens)
    if partial_tail not in ("drop", "block"):
        raise TraceError(f"{file}: partial_tail={partial_tail!r}; fix: give drop or block")
    repairs = checked_repairs(repair, ("sort_time", "rechain"))
    source, rows, ids = JsonLines(file), Rows(), list[int]()
    sessions: dict[str | int, int] = {}
    for record in source.records():
        _read_request(source, record, block_tokens, partial_tail == "block", rows, ids)
        if "session_id" in record or rows.session:
            rows.session += [-1] * (len(rows.line) - 1 - len(rows.session))
            rows.session.append(_session(source, record, sessions))
    partial = sum(1 for tokens in rows.input_tokens if tokens % block_tokens)
    recorded: dict[str, object] = {}
    if partial_tail == "block":
        recorded = recorded_lengths(rows.input_tokens)
        rows.input_tokens = [-(-tokens // block_tokens) * block_tokens for tokens in rows.input_tokens]
    provenance = recorded | {
        "format": "mooncake",
        "source": source_of(file),
        "time_unit": "ms",
        "options": {"block_tokens": block_tokens, "repair": sorted(repairs), "partial_tail": partial_tail},
        f"partial_tail_ids_{'dropped' if partial_tail == 'drop' else 'kept'}": partial,
    }
    return assemble(
        source,
        rows,
        np.array(ids, np.int64),
        name=name or file.name.removesuffix(".gz").removesuffix(".jsonl"),
        block_tokens=block_tokens,
        repairs=repairs,
        provenance=provenance,
    )


def _read_request(
    source: JsonLines, record: Record, block_tokens: int, keep_tail: bool, rows: Rows, ids: list[int]
) -> None:
    """Check one line and append it to the columns."""
    if "timestamp" not in record and ("delay" in record or "delay_ms" in record):
        source.refuse("timestamp", "an arrival time", None, "closed-loop rows: convert delays to absolute times first")
    arrival = source.milliseconds(record, "timestamp")
    tokens = source.integer(record, "input_length" if "input_length" in record else "input_tokens", 0)
    output = source.integer(record, "output_length" if "output_length" in record else "output_tokens", 0)
    listed = source.block_ids(record, "hash_ids")
    if len(listed) != -(-tokens // block_tokens):
        source.refuse(
            "hash_ids",
            f"{-(-tokens // block_tokens)} ids = input_length {tokens} / block_tokens {block_tokens}, rounded up",
            f"{len(listed)} ids",
            "give the trace's own block_tokens, or repair the line",
        )
    kept = len(listed) if keep_tail else tokens // block_tokens
    ids.extend(listed[:kept])
    rows.line.append(source.line)
    rows.arrival_ms.append(arrival)
    rows.input_tokens.append(tokens)
    rows.output_tokens.append(output)
    rows.counts.append(kept)
    source.note_unused(record, _USED)


def _session(source: JsonLines, record: Record, known: dict[str | int, int]) -> int:
    """Return the dense number of the record's session, -1 if it has none."""
    value = record.get("session_id")
    if value is None:
        return -1
    if type(value) is not str and type(value) is not int:
        source.refuse("session_id", "a string or an integer", value)
    return known.setdefault(value, len(known))
