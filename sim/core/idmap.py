"""Dense ids for blocks known by 64-bit ids, in memory bounded by what a cache remembers, not by what it has seen.

Knows ids and parents; must not know what a cache keeps or why. An id is handed out when a block is first asked for.
When none is left, the caller marks the blocks its cache still knows and `collect` takes the other ids back: the table
is built again from the marked ones, so it needs no deletion and holds no tombstones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import replay
from sim.core.compiled import kernel

UNKNOWN = np.uint32(0xFFFFFFFE)
"""Parent of an id that is not in use, or whose parent has been forgotten."""

DROPPED, LIVE, PARENT = range(3)
"""Marks of ids for `collect`: not needed; the cache knows the block; only a block the cache knows continues it."""

MOST_IDS = int(UNKNOWN) // 2
"""More would leave the table's places, twice as many, without a 32-bit number."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 / golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4)."""


class IdMap(NamedTuple):
    """Open addressing with linear probing over ids; a block's 64-bit id is held once, by dense id."""

    table: npt.NDArray[np.uint32]
    """Shape (a power of two, at least twice n_ids,): a dense id or `replay.NONE`."""
    key_of: npt.NDArray[np.uint64]
    """Shape (n_ids,): the 64-bit id."""
    parents: npt.NDArray[np.uint32]
    """Shape (n_ids,): the dense id before it, `replay.NONE` for the first block of a prompt, or `UNKNOWN`."""
    vacant: npt.NDArray[np.uint32]
    """Shape (n_ids,): stack of ids not in use, lowest on top, so that a new path gets consecutive ids."""
    n_vacant: npt.NDArray[np.int64]
    """Shape (1,)."""


def new_idmap(n_ids: int) -> IdMap:
    """Return an empty map with room for `n_ids` blocks at a time; 28 to 36 bytes each.

    Raises:
        ValueError: If that is more than 32-bit ids can name.
    """
    if not 0 < n_ids <= MOST_IDS:
        raise ValueError(
            f"{n_ids:,} blocks at a time: expected 1 to {MOST_IDS:,}; choose a smaller cache or ghost list"
        )
    places = 1 << (2 * n_ids - 1).bit_length()
    return IdMap(
        np.full(places, replay.NONE, np.uint32),
        np.zeros(n_ids, np.uint64),
        np.full(n_ids, UNKNOWN, np.uint32),
        np.arange(n_ids - 1, -1, -1, dtype=np.uint32),
        np.full(1, n_ids, np.int64),
    )


@kernel(inline=True)
def _home(table, key):
    """Return the place at which the search for a key begins."""
    mixed = (key ^ (key >> np.uint64(32))) * _GOLDEN
    return (mixed >> np.uint64(32)) & np.uint64(table.size - 1)


@kernel(inline=True)
def _place_of(idmap, key):
    """Return the place that holds the id of a key, or the empty one where it belongs."""
    last = np.uint64(idmap.table.size - 1)
    place = _home(idmap.table, key)
    while idmap.table[place] != replay.NONE and idmap.key_of[idmap.table[place]] != key:
        place = (place + np.uint64(1)) & last
    return place


@kernel(inline=True)
def _new_id(idmap, place, key, parent):
    idmap.n_vacant[0] -= 1
    block = idmap.vacant[idmap.n_vacant[0]]
    idmap.table[place] = block
    idmap.key_of[block] = key
    idmap.parents[block] = parent
    return block


def _signature() -> Any:
    offsets, keys = replay.frozen(np.zeros(0), np.int64), replay.frozen(np.zeros(0), np.uint64)
    served = replay.frozen(np.zeros(0), np.bool_)
    kinds = [numba.typeof(value) for value in (new_idmap(1), offsets, keys, served)]
    return types.int64(*kinds, types.int64, types.uint32[::1])


@kernel(_signature())
def map_requests(idmap, offsets, keys, served, first, blocks_out):
    """Translate requests from `first` on, in order, until one might need more new ids than are left.

    Args:
        idmap: `IdMap`.
        offsets: int64 (n + 1,), CSR over `keys`.
        keys: uint64 (offsets[n],), the 64-bit ids.
        served: bool (n,); a request that is not (larger than the cache) is passed over, its ids come out as 0.
        first: Request to begin with.
        blocks_out: uint32, the shape of `keys`, filled with dense ids.

    Returns:
        One past the last request translated; or -1 - r if reference r follows another block than before, as far as
        its parent is remembered.
    """
    ids = np.uint32(idmap.key_of.size)
    for i in range(first, served.size):
        start, stop = offsets[i], offsets[i + 1]
        if not served[i]:
            blocks_out[start:stop] = 0
            continue
        if stop - start > idmap.n_vacant[0]:
            return i
        before = replay.NONE
        for r in range(start, stop):
            key = keys[r]
            block = np.uint32(before + np.uint32(1))  # a path mostly has consecutive ids; 0 at its start
            if not (block < ids and idmap.key_of[block] == key and idmap.parents[block] == before):
                place = _place_of(idmap, key)
                block = idmap.table[place]
                if block == replay.NONE:
                    block = _new_id(idmap, place, key, before)
                elif idmap.parents[block] == UNKNOWN:
                    idmap.parents[block] = before
                elif idmap.parents[block] != before:
                    return -1 - r
            blocks_out[r] = block
            before = block
    return served.size


@kernel(types.void(numba.typeof(new_idmap(1)), types.uint8[::1]))
def collect(idmap, marks):
    """Take back the ids that are not marked, except the parents of marked ones.

    Args:
        idmap: `IdMap`.
        marks: uint8 (n_ids,): `LIVE` where the cache knows the block, else `DROPPED`; parents are marked here.
    """
    ids = np.uint32(marks.size)
    for k in range(ids):
        parent = idmap.parents[k]
        if marks[k] == LIVE and parent < ids and marks[parent] == DROPPED:
            marks[parent] = PARENT
    idmap.table[:] = replay.NONE
    idmap.n_vacant[0] = 0
    for k in range(ids):
        block = ids - np.uint32(1) - np.uint32(k)
        if marks[block] == DROPPED:
            idmap.parents[block] = UNKNOWN
            idmap.vacant[idmap.n_vacant[0]] = block
            idmap.n_vacant[0] += 1
            continue
        parent = idmap.parents[block]
        if parent < ids and marks[parent] == DROPPED:
            idmap.parents[block] = UNKNOWN
        idmap.table[_place_of(idmap, idmap.key_of[block])] = block
