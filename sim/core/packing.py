"""The offline optimum under the accounting of block-level studies: most hits a cache of independent blocks can get.

A request looks all its blocks up, then each of them may stay or enter, and only between requests there are at most as
many as the capacity (no request occupies blocks while it runs: that is `sim.core.belady`). Keeping a block from one use
to the next yields one hit, so the question is interval packing, where Belady's rule is optimal: drop what is used
farthest in the future. A block is kept under the position of its next use: of one chain the deepest goes first.
Knows the future; no policy process may import its results.

Positions lie in a bit set with two levels of summary, so that the farthest one is found in a few steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.stack import bits

_ONE = np.uint64(1)


class Kept(NamedTuple):
    """Positions of next uses of the blocks that are kept."""

    words: npt.NDArray[np.uint64]
    """A bit per block reference."""
    pages: npt.NDArray[np.uint64]
    """A bit per word that is not 0."""
    books: npt.NDArray[np.uint64]
    """A bit per page that is not 0."""


def new_kept(n_refs: int) -> Kept:
    """Return an empty set for the positions 0 to n_refs - 1."""
    return Kept(*(np.zeros((n_refs >> shift) + 1, np.uint64) for shift in (6, 12, 18)))


@kernel(inline=True)
def _highest(word):
    """Return the number of the highest bit that is set."""
    for shift in (1, 2, 4, 8, 16, 32):
        word |= word >> np.uint64(shift)
    return np.int64(bits(word)) - 1


@kernel(inline=True)
def _clear(kept, position):
    kept.words[position >> 6] &= ~(_ONE << np.uint64(position & 63))
    if kept.words[position >> 6] == 0:
        kept.pages[position >> 12] &= ~(_ONE << np.uint64(position >> 6 & 63))
        if kept.pages[position >> 12] == 0:
            kept.books[position >> 18] &= ~(_ONE << np.uint64(position >> 12 & 63))


@kernel(inline=True)
def _drop_farthest(kept, book):
    """Drop the highest position, at most in this book; return its book."""
    while kept.books[book] == 0:
        book -= 1
    page = (book << 6) + _highest(kept.books[book])
    word = (page << 6) + _highest(kept.pages[page])
    _clear(kept, (word << 6) + _highest(kept.words[word]))
    return book


def _signature():
    positions, kept = numba.typeof(replay.sample_requests().offsets), numba.typeof(new_kept(1))
    return types.int64(positions, positions, types.int64, kept, types.int32[::1])


@kernel(_signature())
def most_hits(offsets, next_use, capacity, kept, hits_out):
    """Return the most hits over all requests.

    Args:
        offsets: int64 (n + 1,); request i references positions `offsets[i]` to `offsets[i + 1] - 1`, no block twice.
        next_use: int64 (n_refs,), position of the next reference of the same block, n_refs if there is none.
        capacity: Blocks, >= 1.
        kept: `new_kept(n_refs)`.
        hits_out: int32 (n,), filled with hit blocks per request.
    """
    total, size, book = 0, 0, 0
    for i in range(offsets.size - 1):
        hits = 0
        for k in range(offsets[i], offsets[i + 1]):
            if (kept.words[k >> 6] >> np.uint64(k & 63)) & _ONE:
                _clear(kept, k)
                hits += 1
        size -= hits
        for k in range(offsets[i], offsets[i + 1]):
            position = next_use[k]
            if position < next_use.size:
                kept.words[position >> 6] |= _ONE << np.uint64(position & 63)
                kept.pages[position >> 12] |= _ONE << np.uint64(position >> 6 & 63)
                kept.books[position >> 18] |= _ONE << np.uint64(position >> 12 & 63)
                book = max(book, position >> 18)
                size += 1
        while size > capacity:
            book = _drop_farthest(kept, book)
            size -= 1
        hits_out[i] = hits
        total += hits
    return total
