"""The offline optimum: most hit blocks any policy can get at a capacity, one request at a time.

While request r runs its ceil(n / block_tokens) blocks are occupied; between two uses a block may be kept, which
yields one hit. Whenever too many are kept, the one whose next use lies farthest is dropped (Belady, for unit blocks
optimal as interval packing); of one chain the deepest goes first, so at a use the whole prefix is there. Occurrences
beyond the last-token limit, or in requests that are not counted, are no uses: until then a block need not be kept,
even if one that continues it is.
Knows the future; no policy process may import its results.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import heap, replay
from sim.core.compiled import kernel
from sim.core.heap import Heap

NEVER = -1


class Kept(NamedTuple):
    """What is kept between requests, per id."""

    next_use: npt.NDArray[np.int64]
    """Per reference: position of the block's next use, or `NEVER`."""
    kept: npt.NDArray[np.uint8]
    children: npt.NDArray[np.int32]
    """Kept blocks that continue it, itself kept or not."""
    leaves: Heap
    """Kept blocks without kept children, the farthest next use first."""
    parents: npt.NDArray[np.uint32]
    last: npt.NDArray[np.int64]
    """Scratch: position of the next use while walking backwards."""
    first_counted: int
    """Hits of requests before this one are worth nothing: they warm the cache up."""


def new_kept(n_refs: int, parents: npt.NDArray[np.int32], capacity: int, first_counted: int = 0) -> Kept:
    """Return an empty `Kept`; `parents` is -1 for the first block of a prompt."""
    n_ids = parents.size
    return Kept(
        np.empty(n_refs, np.int64),
        np.zeros(n_ids, np.uint8),
        np.zeros(n_ids, np.int32),
        heap.new_heap(n_ids, min(capacity, n_ids) + 1),
        replay.frozen(parents.view(np.uint32), np.uint32),
        np.full(n_ids, NEVER, np.int64),
        first_counted,
    )


@kernel(inline=True)
def _find_next_uses(requests, keep, block_tokens, capacity):
    for i in range(requests.input_tokens.size - 1, -1, -1):
        if replay.prompt_blocks(requests, i, block_tokens) > capacity:
            continue
        start, stop = requests.offsets[i], requests.offsets[i + 1]
        limit = replay.hit_limit(requests, i, block_tokens) if i >= keep.first_counted else 0
        for k in range(stop - start - 1, -1, -1):
            block = requests.block_ids[start + k]
            keep.next_use[start + k] = keep.last[block]
            keep.last[block] = start + k if k < limit else NEVER


@kernel(inline=True)
def _drop(keep, block):
    """Stop keeping a block; return its parent if that has no kept child any more, else `replay.NONE`."""
    keep.kept[block] = 0
    parent = keep.parents[block]
    if parent == replay.NONE:
        return replay.NONE
    keep.children[parent] -= 1
    return parent if keep.children[parent] == 0 and keep.kept[parent] == 1 else replay.NONE


@kernel(inline=True)
def _make_room(keep, others, room, next_of, stop):
    """Drop leaves, farthest next use first, until at most `room` blocks off the path of the request are kept."""
    while others > room:
        block = keep.leaves.node[0]
        parent = _drop(keep, block)
        if parent == replay.NONE or next_of[parent] < stop:
            heap.remove(keep.leaves, 0, True)
        else:
            heap.replace_first(keep.leaves, parent, -float(next_of[parent]), 0.0)
        others -= 1
    return others


@kernel(inline=True)
def _keep_path(keep, requests, start, full, hits, next_of):
    """Keep what will be asked for again; return how many blocks of the request. Its first `hits` were kept before."""
    stay = 0
    for k in range(full):
        block = requests.block_ids[start + k]
        next_of[block] = keep.next_use[start + k]
        if next_of[block] != NEVER:
            stay += 1
            if k >= hits:
                keep.kept[block] = 1
                if k > 0:
                    keep.children[requests.block_ids[start + k - 1]] += 1
        elif k < hits:
            _drop(keep, block)
    for k in range(full):
        block = requests.block_ids[start + k]
        if keep.kept[block] == 1 and keep.children[block] == 0:
            heap.add(keep.leaves, block, -float(next_of[block]), 0.0, True)
    return stay


def _signature():
    sample = new_kept(0, np.zeros(0, np.int32), 1)
    values = (replay.sample_requests(), sample, np.zeros(1, np.int64))
    return types.int64(*(numba.typeof(value) for value in values), types.int64, types.int64, types.int32[::1])


@kernel(_signature())
def replay_optimum(requests, keep, next_of, block_tokens, capacity, hits_out):
    """Return the most blocks that can be hit.

    Args:
        requests: `replay.Requests`; generated blocks are not considered.
        keep: `new_kept(...)`.
        next_of: int64 per id, scratch: position of the next use of a kept block.
        block_tokens: Tokens per block.
        capacity: Blocks.
        hits_out: int32 (n,), filled with hit blocks per request or `replay.UNSERVED`.
    """
    _find_next_uses(requests, keep, block_tokens, capacity)
    total, kept = 0, 0
    for i in range(requests.input_tokens.size):
        blocks = replay.prompt_blocks(requests, i, block_tokens)
        if blocks > capacity:
            hits_out[i] = replay.UNSERVED
            continue
        start, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
        hits = 0
        while hits < full and keep.kept[requests.block_ids[start + hits]] == 1:
            hits += 1
        if hits > 0:
            deepest = requests.block_ids[start + hits - 1]
            if keep.leaves.place_of[deepest] != replay.NONE:
                heap.remove(keep.leaves, keep.leaves.place_of[deepest], True)
        others = _make_room(keep, kept - hits, capacity - blocks, next_of, start + full)
        kept = others + _keep_path(keep, requests, start, full, hits, next_of)
        hits_out[i] = hits
        total += hits
    return total
