"""Prefix chains: rows of block ids in compressed (CSR) form.

Knows ids, rows, predecessors and re-use. Must not know times, tokens or files. A row is a request's path from the
first block of its prompt; ids are prefix-chained when every id always follows the same predecessor, so that equal
ids mean equal whole prefixes. All functions are vectorised and linear or n log n.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from workloads.columns import I32, I64

_Ids = TypeVar("_Ids", I32, I64)


def densify(ids: I64 | I32) -> tuple[I32, int]:
    """Renumber ids 0..n-1 in order of first appearance.

    Args:
        ids: [n_refs] non-negative ids, any range.

    Returns:
        int32[n_refs] dense ids, and how many distinct ids there are.
    """
    n_refs = len(ids)
    if n_refs == 0:
        return np.empty(0, np.int32), 0
    if _is_dense(ids[:_LOOK]) and _is_dense(ids):
        return ids.astype(np.int32), int(ids.max()) + 1
    if int(ids.max()) > 8 * n_refs + 1_000_000:  # sparse ids: compress the range before using a table
        ids = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    positions = np.arange(n_refs, dtype=np.int32)
    table = np.empty(int(ids.max()) + 1, np.int32)
    table[ids[::-1]] = positions[::-1]  # the last write wins: position of the FIRST appearance
    is_first = table[ids] == positions
    firsts = ids[is_first]
    table[firsts] = np.arange(len(firsts), dtype=np.int32)
    return table[ids], len(firsts)


_LOOK = 1 << 12


def _is_dense(ids: I64 | I32) -> bool:
    """Return whether ids are 0..n-1 in order of first appearance already."""
    highest = np.maximum.accumulate(ids)
    return bool(ids[0] == 0 and (highest[1:] - highest[:-1] <= 1).all() and ids.min() >= 0)


def predecessors(offsets: I64, ids: I32) -> I32:
    """Return the id before each reference in its row, -1 at the start of a row. Shapes as in ``offsets``/``ids``."""
    before = np.empty(len(ids), np.int32)
    if len(ids):
        before[1:] = ids[:-1]
        starts = offsets[:-1][np.diff(offsets) > 0]
        before[starts] = -1
    return before


def parents(before: I32, ids: I32, n_blocks: int) -> I32:
    """Return the predecessor of each id at its first appearance; -1 for roots.

    Args:
        before: int32[n_refs] from :func:`predecessors`.
        ids: int32[n_refs] dense ids in order of first appearance.
        n_blocks: Number of distinct ids.

    Returns:
        int32[n_blocks].
    """
    if n_blocks == 0:
        return np.empty(0, np.int32)
    highest = np.maximum.accumulate(ids)
    is_first = np.empty(len(ids), np.bool_)
    is_first[0] = True
    is_first[1:] = highest[1:] > highest[:-1]  # dense in order of appearance: a new id is a new maximum
    return before[is_first]


def first_violation(before: I32, ids: I32, parent: I32) -> int:
    """Return the index of the first reference whose predecessor differs from its id's parent, or -1."""
    if len(ids) == 0:
        return -1
    wrong = parent[ids] != before
    where = int(np.argmax(wrong))
    return where if wrong[where] else -1


def next_use(ids: I32) -> I64:
    """Return, for each reference, the index of the next reference of the same id.

    Args:
        ids: int32[n_refs].

    Returns:
        int64[n_refs], ``n_refs`` where the id never comes back.
    """
    n_refs = len(ids)
    result = np.full(n_refs, n_refs, np.int64)
    if n_refs > 1:
        order = ids.astype(np.int64)
        order <<= 32
        order |= np.arange(n_refs, dtype=np.int64)
        order.sort()  # by id, then by position
        same = (order[1:] >> 32) == (order[:-1] >> 32)
        order &= 0xFFFFFFFF
        result[order[:-1][same]] = order[1:][same]
    return result


def take_rows(offsets: I64, values: _Ids, rows: I64) -> tuple[I64, _Ids]:
    """Gather rows of a CSR structure in the given order.

    Args:
        offsets: int64[n_rows + 1].
        values: [offsets[-1]] values.
        rows: int64[m] row numbers, any order.

    Returns:
        The new offsets int64[m + 1] and values.
    """
    lengths = np.diff(offsets)[rows]
    taken = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    source = np.repeat(offsets[rows] - taken[:-1], lengths)
    source += np.arange(taken[-1], dtype=np.int64)
    return taken, values[source]


def rechain(offsets: I64, ids: I32) -> tuple[I64, int]:
    """Re-key ids by (path so far, id), so that the result is prefix-chained whatever the input was.

    Args:
        offsets: int64[n_rows + 1].
        ids: int32[n_refs] dense ids.

    Returns:
        int64[n_refs] new ids, and by how many the number of distinct ids grew (0: they were chained already).
    """
    n_old = int(ids.max()) + 1 if len(ids) else 0
    new = np.empty(len(ids), np.int64)
    lengths = np.diff(offsets)
    rows = np.flatnonzero(lengths > 0)
    path = np.zeros(len(rows), np.int64)  # new id of the previous block + 1; 0 at the root
    used = 0
    depth = 0
    while len(rows):
        at = offsets[rows] + depth
        level, label = np.unique(path * np.int64(n_old) + ids[at], return_inverse=True)
        new[at] = label + used
        path = label + (used + 1)
        used += len(level)
        depth += 1
        deeper = lengths[rows] > depth
        rows, path = rows[deeper], path[deeper]
    return new, used - n_old
