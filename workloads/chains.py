"""Prefix chains: rows of block ids in compressed (CSR) form.

Knows ids, rows, predecessors and re-use. Must not know times, tokens or files. A row is a request's path from the
first block of its prompt; ids are prefix-chained when every id always follows the same predecessor, so that equal
ids mean equal whole prefixes. All functions are vectorised and linear or n log n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from workloads.columns import I32, I64

_Ids = TypeVar("_Ids", I32, I64)

CHUNK_REFS = 1 << 22
"""References handled at a time, so that temporaries stay small beside the ids themselves."""


class Numbering:
    """Dense numbers 0, 1, 2 ... in order of first appearance, for ids that come piece by piece.

    Attributes:
        count: Numbers given out so far.
    """

    def __init__(self, n_ids: int) -> None:
        """Start with no id seen; ids will be from 0 to ``n_ids - 1``."""
        self._number = np.full(n_ids, -1, np.int32)
        self.count = 0

    def __call__(self, ids: I64 | I32) -> I32:
        """Return int32[n] numbers of the next n ids."""
        numbers = self._number[ids]
        unseen = np.flatnonzero(numbers < 0)
        fresh = ids[unseen]
        positions = np.arange(len(fresh), dtype=np.int32)
        self._number[fresh[::-1]] = positions[::-1]  # the last write wins: position of the FIRST appearance
        firsts = fresh[self._number[fresh] == positions]
        self._number[firsts] = np.arange(self.count, self.count + len(firsts), dtype=np.int32)
        self.count += len(firsts)
        numbers[unseen] = self._number[fresh]
        return numbers


_LOOK_REFS = 1 << 12  # what is not dense seldom begins so


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
    if is_dense(ids[:_LOOK_REFS]) and is_dense(ids):
        return ids.astype(np.int32), int(ids.max()) + 1
    if int(ids.max()) > 8 * n_refs + 1_000_000:  # sparse ids: compress the range before using a table
        ids = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    number = Numbering(int(ids.max()) + 1)
    dense = np.empty(n_refs, np.int32)
    for start in range(0, n_refs, CHUNK_REFS):
        dense[start : start + CHUNK_REFS] = number(ids[start : start + CHUNK_REFS])
    return dense, number.count


def row_chunks(offsets: I64) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` of consecutive rows that hold about :data:`CHUNK_REFS` references together."""
    cuts = np.searchsorted(offsets, np.arange(CHUNK_REFS, offsets[-1], CHUNK_REFS)).tolist()
    yield from ((start, stop) for start, stop in pairwise([0, *cuts, len(offsets) - 1]) if start < stop)


def is_dense(ids: I64 | I32) -> bool:
    """Return whether ids are 0..n-1 in order of first appearance."""
    if len(ids) == 0:
        return True
    if ids[0] != 0 or int(ids.max()) >= len(ids):
        return False
    return int(ids.min()) == 0 and int(np.diff(np.maximum.accumulate(ids)).max(initial=0)) <= 1


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
    found = np.empty(taken[-1], values.dtype)
    first = offsets[rows] - taken[:-1]
    for start, stop in row_chunks(taken):
        source = np.repeat(first[start:stop], lengths[start:stop])
        source += np.arange(taken[start], taken[stop], dtype=np.int64)
        np.take(values, source, out=found[taken[start] : taken[stop]])
    return taken, found


def joined(parts: Sequence[I64]) -> I64:
    """Return the offsets of CSR structures put one after another.

    Args:
        parts: int64[rows + 1] offsets of each, from 0.

    Returns:
        int64[total rows + 1].
    """
    return np.concatenate([np.zeros(1, np.int64), *map(np.diff, parts)]).cumsum()


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
