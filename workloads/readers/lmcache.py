"""LMCache's lookup log: a line per lookup with the hashes of the chunks that were asked for.

Knows that format, written by ``--lookup-hash-log-dir`` to rotated files ``lookup_hashes_<time>_<number>.jsonl``. Must
not know where the files are. Source: LMCache/LMCache, lmcache/v1/mp_observability/subscribers/logging/lookup_hash.py
(PR #2928) and lmcache/tools/cache_simulator/simulator.py @ 0967a04 (PR #3021): from source, not measured.

Fields: ``timestamp`` (Unix s), ``request_id``, ``model_name``, ``chunk_size`` (tokens, 256), ``seq_len``, ``dtypes``,
``shapes``, ``chunk_hashes`` (hex, full chunks only, each the hash of the whole prefix). A lookup is taken for a
request, a chunk for a block; tokens behind the last full chunk are the partial tail. Output lengths are not logged:
they are 0. Equal hashes of different models are different blocks (LMCache's own simulator does not tell them apart).
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads.errors import unknown_name
from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs, integers
from workloads.readers.lines import JsonLines, Record, files_of, source_of, stem_of
from workloads.trace import Trace

SUMMARY = "LMCache's lookup log: a file, or a folder of lookup_hashes_*.jsonl"
PATTERN = "lookup_hashes_*.jsonl"

_USED = frozenset(("timestamp", "model_name", "chunk_size", "seq_len", "chunk_hashes"))


_HASH = re.compile(r"-?0x[0-9a-f]+")


@dataclass
class _Log:
    """What has been read so far; about 220 bytes per distinct chunk and 8 per reference to one."""

    rows: Rows = field(default_factory=Rows)
    ids: array[int] = field(default_factory=integers)
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    distinct: int = 0
    chunk_tokens: int = 0


def matches(head: Head) -> bool:
    """Return whether the first line has chunk hashes, or a folder such files."""
    if head.path.is_dir():
        return any(head.path.glob(PATTERN))
    return "chunk_hashes" in (head.first or {})


def read(
    path: str | os.PathLike[str],
    model: str | None = None,
    name: str | None = None,
    repair: str | Iterable[str] = (),
) -> Trace:
    """Read a lookup log.

    Args:
        path: A file, plain or packed, or the folder of the rotated files, which are read in the order of their names.
        model: Lookups of this model only; default: of all.
        name: Name of the trace; default: the file's name without suffixes, or the folder's.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`: ``sort_time``, ``clip_input``.

    Returns:
        The trace; time 0 is the first lookup (``first_lookup_unix_s`` in the provenance), ``request_type`` numbers the
        models (named in the provenance as ``request_types``).

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    given = Path(path)
    repairs = checked_repairs(repair, ("sort_time", "clip_input"))
    files = files_of(given, PATTERN)
    source = JsonLines(given, files)
    log = _read_log(source, model, "clip_input" in repairs)
    rows = log.rows
    start_ms = rows.start_at_zero()
    provenance: dict[str, object] = {
        "format": "lmcache",
        "source": source_of(given, files),
        "time_unit": "s",
        "first_lookup_unix_s": start_ms / 1000.0,
        "output_tokens": "not recorded",
        "options": {"model": model, "repair": sorted(repairs)},
    }
    return assemble(
        source,
        rows,
        np.asarray(log.ids, np.int64),
        name=name or stem_of(given),
        block_tokens=log.chunk_tokens or 1,
        repairs=repairs,
        provenance=provenance,
    )


def _read_log(source: JsonLines, model: str | None, clip: bool) -> _Log:
    """Read all lookups, or those of a model."""
    log = _Log()
    for record in source.records():
        found = record.get("model_name")
        if type(found) is not str:
            source.refuse("model_name", "a string", found if "model_name" in record else "nothing")
        numbers = log.numbers.setdefault(found, {})
        if model is None or found == model:
            _read_lookup(source, record, clip, log, numbers)
            log.rows.name("request_type", found)
        source.note_unused(record, _USED)
    if model is not None and log.numbers and model not in log.numbers:
        raise unknown_name(f"model in {source.path}", model, log.numbers)
    return log


def _read_lookup(source: JsonLines, record: Record, clip: bool, log: _Log, numbers: dict[str, int]) -> None:
    """Check one line and append it to the columns; ``numbers`` are those of its model."""
    chunk_tokens = source.integer(record, "chunk_size", 1)
    log.chunk_tokens = log.chunk_tokens or chunk_tokens
    if chunk_tokens != log.chunk_tokens:
        fix = "pass model=..., or read the files one by one"
        source.refuse("chunk_size", f"{log.chunk_tokens} as in the lines before", chunk_tokens, fix)
    hashes = record.get("chunk_hashes")
    if type(hashes) is not list:
        source.refuse("chunk_hashes", "a list of hashes", hashes if "chunk_hashes" in record else "nothing")
    tokens = source.integer(record, "seq_len", 0)
    full = tokens // chunk_tokens
    if len(hashes) > full or (len(hashes) < full and not clip):
        fix = "repair or remove the line" + (", or pass repair='clip_input'" if len(hashes) < full else "")
        expected = f"{full} hashes = seq_len {tokens} // chunk_size {chunk_tokens}"
        source.refuse("chunk_hashes", expected, f"{len(hashes)} hashes", fix)
    try:
        found: list[Any] = list(map(numbers.get, hashes))
    except TypeError:
        found = [None] * len(hashes)
    if None in found:
        for index in range(found.index(None), len(hashes)):
            if found[index] is None:
                found[index] = _number(source, hashes[index], numbers, log)
    log.ids.extend(found)
    log.rows.add(source.line, 1000.0 * source.seconds(record, "timestamp"), tokens, 0, len(hashes))


def _number(source: JsonLines, chunk: object, numbers: dict[str, int], log: _Log) -> int:
    """Return the number of a hash that may be new."""
    if type(chunk) is not str or not _HASH.fullmatch(chunk):
        source.refuse("chunk_hashes", "hashes as text, 0x and hex digits", chunk)
    if chunk not in numbers:
        numbers[chunk] = log.distinct
        log.distinct += 1
    return numbers[chunk]
