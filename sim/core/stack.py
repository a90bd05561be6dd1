"""Exact LRU stack distances in one pass: at how many blocks a cache begins to hit, for every reference.

Mattson et al., IBM Systems Journal 1970: the blocks an LRU cache holds are the top of one recency order, whatever its
size. A request looks all its blocks up first, then uses them last to first, so that the head of its prefix ends on
top. Knows rows of ids; must not know engines: pins, partial tails and copies are none of its business.

The order lies in slots, a newer block in a higher one, a bit per slot in use; a Fenwick tree (Fenwick, SPE 1994)
counts the bits by words of 64. Prefixes lie in runs of slots, so most depths are one more than the one before.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import replay
from sim.core.compiled import kernel

WORD = 64


class Order(NamedTuple):
    """Blocks by recency."""

    slot_of: npt.NDArray[np.uint32]
    """Per id: its slot, or `replay.NONE` before its first use."""
    block_at: npt.NDArray[np.uint32]
    """Per slot: the id put there; the slot is in use if its bit is set."""
    used: npt.NDArray[np.uint64]
    """A bit per slot."""
    tree: npt.NDArray[np.int32]
    """Fenwick tree over words of `used`, from 1 on."""


def new_order(n_blocks: int, longest: int) -> Order:
    """Return an empty order of at most `n_blocks` ids for requests of at most `longest` blocks."""
    words = (2 * n_blocks + longest) // WORD + 1
    return Order(
        np.full(n_blocks, replay.NONE, np.uint32),
        np.zeros(words * WORD, np.uint32),
        np.zeros(words, np.uint64),
        np.zeros(words + 1, np.int32),
    )


@kernel(inline=True)
def bits(word):
    """Return how many bits of a word are set."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@kernel(inline=True)
def _below(order, slot):
    """Return how many slots below `slot` are in use."""
    word = slot // np.uint64(WORD)
    mask = (np.uint64(1) << (slot % np.uint64(WORD))) - np.uint64(1)
    total = np.int64(bits(order.used[word] & mask))
    while word > 0:
        total += order.tree[word]
        word &= word - np.uint64(1)
    return total


@kernel(inline=True)
def _count(order, word, change):
    """Note that `change` more slots of a word are in use."""
    i = word + np.uint64(1)
    while i < np.uint64(order.tree.size):
        order.tree[i] += change
        i += i & (~i + np.uint64(1))


@kernel(inline=True)
def _compact(order, top):
    """Move the blocks in use to the lowest slots, in order; return the first slot above them."""
    kept = np.uint64(0)
    for slot in range(top):
        block = order.block_at[slot]
        if order.slot_of[block] == slot:
            order.block_at[kept] = block
            order.slot_of[block] = kept
            kept += np.uint64(1)
    order.tree[:] = 0
    for word in range(order.used.size):
        full: int = min(max(int(kept) - word * WORD, 0), WORD)
        order.used[word] = ~np.uint64(0) if full == WORD else (np.uint64(1) << np.uint64(full)) - np.uint64(1)
        if full > 0:
            _count(order, np.uint64(word), np.int32(full))
    return kept


@kernel(inline=True)
def _look_up(order, block_ids, start, stop, live, distance_out):
    """Write the depths of a request's blocks; nothing moves."""
    previous, depth = replay.NONE, np.int64(0)
    for k in range(start, stop):
        slot = order.slot_of[block_ids[k]]
        if slot == replay.NONE:
            distance_out[k] = replay.NONE
        else:
            depth = depth + 1 if slot + np.uint32(1) == previous else live - _below(order, np.uint64(slot))
            distance_out[k] = depth
        previous = slot


@kernel(inline=True)
def _use(order, block_ids, start, stop, top):
    """Put a request's blocks on top, the first highest; return (first slot above, blocks that are new)."""
    word, change, new = np.uint64(0), np.int32(0), 0
    for k in range(start, stop):
        slot = np.uint64(order.slot_of[block_ids[k]])
        if slot == np.uint64(replay.NONE):
            new += 1
            continue
        if slot // np.uint64(WORD) != word:
            if change != 0:
                _count(order, word, change)
            word, change = slot // np.uint64(WORD), np.int32(0)
        order.used[word] &= ~(np.uint64(1) << (slot % np.uint64(WORD)))
        change -= np.int32(1)
    if change != 0:
        _count(order, word, change)
    word, change = top // np.uint64(WORD), np.int32(0)
    for k in range(stop - 1, start - 1, -1):
        if top // np.uint64(WORD) != word:
            _count(order, word, change)
            word, change = top // np.uint64(WORD), np.int32(0)
        block = block_ids[k]
        order.slot_of[block], order.block_at[top] = top, block
        order.used[word] |= np.uint64(1) << (top % np.uint64(WORD))
        change += np.int32(1)
        top += np.uint64(1)
    if change != 0:
        _count(order, word, change)
    return top, new


def _signature():
    order = numba.typeof(new_order(1, 1))
    requests = replay.sample_requests()
    return types.void(numba.typeof(requests.offsets), numba.typeof(requests.block_ids), order, types.uint32[::1])


@kernel(_signature())
def stack_distances(offsets, block_ids, order, distance_out):
    """Find at which capacity each reference is a hit of an LRU cache of independent blocks.

    Args:
        offsets: int64 (n + 1,); request i uses `block_ids[offsets[i]:offsets[i + 1]]`, no block twice.
        block_ids: uint32 (n_refs,), 0 <= id < n_blocks.
        order: `new_order(n_blocks, longest request)`.
        distance_out: uint32 (n_refs,), filled with the smallest capacity in blocks at which the reference is a hit
            (1: most recent), or `replay.NONE` for a block's first use.
    """
    top, live = np.uint64(0), 0
    for i in range(offsets.size - 1):
        start, stop = offsets[i], offsets[i + 1]
        if top + np.uint64(stop - start) > np.uint64(order.block_at.size):
            top = _compact(order, top)
        _look_up(order, block_ids, start, stop, live, distance_out)
        top, new = _use(order, block_ids, start, stop, top)
        live += new
