"""Run-length rows of block ids: [start, length] pairs instead of single ids.

Knows how runs are expanded, coarsened to larger blocks and checked for prefix chaining without expanding them.
Must not know times, tokens or files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from workloads.columns import I64, INT32_MAX
from workloads.errors import TraceError

_BYTES_PER_ID = 24  # while they are written and numbered


def row_positions(rows: I64, lengths: I64) -> I64:
    """Return the position in its row at which each run starts.

    Args:
        rows: int64[n_rows + 1], CSR over runs.
        lengths: int64[n_runs] run lengths in blocks.

    Returns:
        int64[n_runs].
    """
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends[:-1] - np.repeat(ends[rows[:-1]], np.diff(rows))


def expand(rows: I64, starts: I64, lengths: I64, factor: int = 1) -> tuple[I64, I64]:
    """Write runs out as ids, keeping every ``factor``-th block of a row: the factor-th, 2*factor-th, ...

    For prefix-chained ids that merging of blocks is exact: the last id of a group stands for the whole prefix.
    Only the kept ids are ever written, so memory is that of the coarse trace.

    Args:
        rows: int64[n_rows + 1], CSR over runs.
        starts: int64[n_runs] first id of each run.
        lengths: int64[n_runs] run lengths in blocks.
        factor: How many blocks become one.

    Returns:
        offsets int64[n_rows + 1] and ids int64[offsets[-1]].

    Raises:
        TraceError: so many ids that numbers or this machine's memory do not suffice: a short file can say that.
    """
    position = row_positions(rows, lengths)
    first = position // factor  # coarse blocks completed before the run
    counts = (position + lengths) // factor - first
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    _check_room(int(ends[-1]))
    head = starts + (first + 1) * factor - 1 - position  # id of the run's first kept block
    ids = np.repeat(head - ends[:-1] * factor, counts)
    ids += np.arange(ends[-1], dtype=np.int64) * factor
    return ends[rows], ids


def _check_room(ids: int) -> None:
    """Refuse more ids than can be written out."""
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if ids > INT32_MAX or ids * _BYTES_PER_ID > room:
        raise TraceError(
            f"{ids:,} block references: at most {min(INT32_MAX, room // _BYTES_PER_ID):,} are supported on a machine of"
            f" {room / 2**30:.0f} GiB - fix: cut the file, or merge blocks (block_tokens)"
        )


def compressed(rows: Sequence[I64]) -> tuple[I64, I64, I64]:
    """Return rows of ids as runs.

    Args:
        rows: int64[] ids of each row.

    Returns:
        int64[n_rows + 1] CSR over runs, int64[n_runs] first ids and int64[n_runs] lengths.
    """
    ends = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=ends[1:])
    ids = np.concatenate([np.empty(0, np.int64), *rows])
    first = np.ones(len(ids) + 1, np.bool_)  # one more: the end
    first[1:-1] = ids[1:] != ids[:-1] + 1
    first[ends] = True
    at = np.flatnonzero(first)
    return np.searchsorted(at, ends), ids[at[:-1]], np.diff(at)


def first_violation(rows: I64, starts: I64, lengths: I64) -> int:
    """Return the number of a run that breaks prefix chaining, or -1. Nothing is expanded.

    Inside a run every id follows its lower neighbour, so only run starts can disagree: with another run start of
    the same id, or with a run that has the id in its interior.

    Args:
        rows: int64[n_rows + 1], CSR over runs.
        starts: int64[n_runs] first id of each run (namespaced: equal id means equal block everywhere).
        lengths: int64[n_runs] run lengths in blocks, >= 1.

    Returns:
        Index into the runs, or -1.
    """
    if len(starts) == 0:
        return -1
    before = np.empty(len(starts), np.int64)
    before[1:] = starts[:-1] + lengths[:-1] - 1
    before[rows[:-1][np.diff(rows) > 0]] = -1
    order = np.lexsort((before, starts))
    same_start = starts[order][1:] == starts[order][:-1]
    disagree = same_start & (before[order][1:] != before[order][:-1])
    if disagree.any():
        return int(order[1:][disagree].min())
    by_start = np.argsort(starts, kind="stable")
    reach = np.maximum.accumulate((starts + lengths)[by_start])
    inside_of = np.searchsorted(starts[by_start], starts, side="left") - 1  # last run that starts at a lower id
    interior = (inside_of >= 0) & (reach[np.maximum(inside_of, 0)] > starts)
    wrong = np.flatnonzero(interior & (before != starts - 1))
    return int(wrong[0]) if wrong.size else -1
