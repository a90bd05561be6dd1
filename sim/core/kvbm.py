"""Dynamo KVBM's block pool with the inactive pools of `kvbm-logical`: MultiLRU, LRU and Lineage; serial.

From source, not measured: ai-dynamo `lib/kvbm-logical`, `pools/{store.rs,inactive/backends}`, `registry`, `tinylfu.rs`.
Unused blocks are taken first, then the inactive pool gives blocks up. MultiLRU puts a released block in one of four
lists by its frequency (thresholds 3, 8, 15) and evicts the oldest of the coldest. A frequency is a 4-bit count, plus 1
at every match and every new registration, that outlives the block; all are halved after 10 x `decay` increments, half
of which count on (the engine subtracts a little more). Counts are exact here, the engine estimates them by a sketch.
Lineage evicts the oldest leaf, and a parent that becomes a leaf keeps its place in time. A block computed twice is kept
once, and that is no new registration.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import heap, lists, replay
from sim.core.compiled import kernel

MULTILRU, LRU, LINEAGE = range(3)
LEVELS = 4
MOST_COUNTED = 15
"""A 4-bit counter saturates here."""


class Inactive(NamedTuple):
    """Blocks no request uses, and how often each id was seen."""

    nodes: npt.NDArray[np.void]
    """`lists.new_nodes` with a list per level, oldest first. `resident`: 1 while the block is in the pool, used or not;
    `children`: inactive blocks that continue it; `count`: frequency; `released`: order of its last release."""
    leaves: heap.Heap
    """Lineage only: inactive blocks that nothing inactive continues, by order of release."""
    seen: npt.NDArray[np.int64]
    """Shape (2,): increments since the last halving; releases."""


def new_inactive(n_blocks: int) -> Inactive:
    """Return an empty pool."""
    fields = (("resident", np.uint32), ("children", np.uint32), ("count", np.uint32), ("released", np.float64))
    return Inactive(
        lists.new_nodes(n_blocks, LEVELS, *fields), heap.new_heap(n_blocks, n_blocks + 1), np.zeros(2, np.int64)
    )


@kernel(inline=True)
def _level(count, thresholds):
    level = 0
    for bound in thresholds:
        level += count >= bound
    return level


@kernel(inline=True)
def _count(pool, block, decay):
    nodes = pool.nodes
    if nodes[block].count < MOST_COUNTED:
        nodes[block].count += np.uint32(1)
        pool.seen[0] += 1
        if pool.seen[0] >= 10 * decay:
            pool.seen[0] //= 2
            for i in range(nodes.size):
                nodes[i].count //= np.uint32(2)


@kernel(inline=True)
def _parent_loses(pool, parents, block):
    """Note that a block left the inactive blocks; its parent may be a leaf now."""
    parent = parents[block]
    if parent == replay.NONE:
        return
    pool.nodes[parent].children -= np.uint32(1)
    if pool.nodes[parent].children == 0 and lists.linked(pool.nodes, parent):
        heap.add(pool.leaves, parent, pool.nodes[parent].released, 0.0, True)


@kernel(inline=True)
def _take(pool, parents, block, policy):
    """Take a block out of the inactive ones."""
    lists.drop(pool.nodes, block)
    if policy == LINEAGE:
        if pool.leaves.place_of[block] != replay.NONE:
            heap.remove(pool.leaves, pool.leaves.place_of[block], True)
        _parent_loses(pool, parents, block)


@kernel(inline=True)
def _give(pool, parents, block, policy, thresholds):
    """Put a block no request uses any more among the inactive ones."""
    nodes = pool.nodes
    level = _level(nodes[block].count, thresholds) if policy == MULTILRU else 0
    lists.push_back(nodes, np.uint32(nodes.size - LEVELS + level), block)
    if policy != LINEAGE:
        return
    pool.seen[1] += 1
    nodes[block].released = pool.seen[1]
    if nodes[block].children == 0:
        heap.add(pool.leaves, block, nodes[block].released, 0.0, True)
    parent = parents[block]
    if parent != replay.NONE:
        nodes[parent].children += np.uint32(1)
        if pool.leaves.place_of[parent] != replay.NONE:
            heap.remove(pool.leaves, pool.leaves.place_of[parent], True)


@kernel(inline=True)
def _evict(pool, parents, policy):
    nodes = pool.nodes
    if policy == LINEAGE:
        block = pool.leaves.node[0]
    else:
        head = np.uint32(nodes.size - LEVELS)
        while nodes[head].next == head:
            head += np.uint32(1)
        block = nodes[head].next
    _take(pool, parents, block, policy)
    nodes[block].resident = np.uint32(0)


def _signature() -> Any:
    values = (replay.sample_requests(), replay.frozen(np.zeros(0), np.uint32), new_inactive(1))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    thresholds = types.UniTuple(types.int64, LEVELS - 1)
    kinds = (*(numba.typeof(value) for value in values), types.int64, types.int64)
    return types.void(*kinds, thresholds, types.int64, types.boolean, types.int64, *outputs)


@kernel(_signature())
def replay_kvbm(
    requests, parents, pool, policy, capacity, thresholds, decay, tail_first, block_tokens, hits_out, start_out, counts
):
    """Replay all requests, one at a time.

    Args:
        requests: `replay.Requests`.
        parents: uint32 per id, `replay.NONE` for the first block of a prompt.
        pool: `new_inactive(n_blocks)`.
        policy: MULTILRU, LRU or LINEAGE.
        capacity: Blocks.
        thresholds: Three ascending frequencies: the least of levels 1, 2 and 3.
        decay: Frequencies are halved after 10 times as many increments.
        tail_first: Whether a request gives its blocks back last to first.
        block_tokens: Tokens per block.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        start_out: float64 (n,), filled with arrival times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    for i in range(requests.input_tokens.size):
        blocks = replay.prompt_blocks(requests, i, block_tokens)
        if blocks > capacity:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        start, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
        limit, hits = min(replay.hit_limit(requests, i, block_tokens), full), 0
        while hits < limit and pool.nodes[requests.block_ids[start + hits]].resident:
            _take(pool, parents, requests.block_ids[start + hits], policy)
            _count(pool, requests.block_ids[start + hits], decay)
            hits += 1
        for _ in range(blocks - hits - (capacity - counts[replay.RESIDENT])):
            _evict(pool, parents, policy)
            counts[replay.EVICTED] += 1
            counts[replay.RESIDENT] -= 1
        admitted = 0
        for k in range(start + hits, start + full):
            block = requests.block_ids[k]
            if pool.nodes[block].resident:
                _take(pool, parents, block, policy)  # registered already: the second copy is given back at once
            else:
                pool.nodes[block].resident = np.uint32(1)
                _count(pool, block, decay)
                admitted += 1
        counts[replay.RESIDENT] += admitted
        replay.account(counts, blocks - full)
        for k in range(full):
            block = requests.block_ids[start + (full - 1 - k if tail_first else k)]
            _give(pool, parents, block, policy, thresholds)
        replay.tally(counts, full, hits, admitted)
        hits_out[i], start_out[i] = hits, requests.arrival_s[i]
