"""The CPU tier of vLLM with its own policies: LRU or ARC over blocks, admission by count, all-or-nothing stores.

Source: vLLM 0.33.0 `CPUOffloadingManager`, `cpu/policies/{lru,arc}.py`, `OffloadingConnectorScheduler`; equal request
by request to the recorded hits of the manager. Per request: the contiguous prefix behind what the pool in front has is
loaded; then one offer, of what is behind it, or of the whole prompt when nothing was loaded. Offered blocks that are
stored already are protected and count as used; if room for all the others cannot be made, none is stored. Knows nothing
of user policies or of the pool in front but its hits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import lists, replay
from sim.core.compiled import kernel

LRU, ARC = range(2)
ABSENT, T1, T2, B1, B2 = range(5)
"""Where a block is; LRU uses T1 only. B1 and B2 are ARC's ghosts."""


class Tier(NamedTuple):
    """The stored blocks and ARC's ghosts."""

    nodes: npt.NDArray[np.void]
    """`lists.new_nodes`, oldest first: lists T1 - 1, T2 - 1, B1 - 1, B2 - 1. `where`; `offered`: 1 + the request that
    last offered the block while it was stored."""
    sizes: npt.NDArray[np.int64]
    """Shape (5,): length of each list, by `where`."""
    target: npt.NDArray[np.float64]
    """Shape (1,): ARC's adaptive size of T1."""


class Tracker(NamedTuple):
    """How often blocks were offered, least recently offered first; empty arrays if admission is off."""

    nodes: npt.NDArray[np.void]
    """`lists.new_nodes` with one list. `count`; `kept`: 1 + the request whose offer protects the entry."""
    size: npt.NDArray[np.int64]
    """Shape (1,)."""


def new_tier(n_blocks: int) -> Tier:
    """Return an empty tier."""
    nodes = lists.new_nodes(n_blocks, 4, ("where", np.uint32), ("offered", np.uint32))
    return Tier(nodes, np.zeros(5, np.int64), np.zeros(1))


def new_tracker(n_blocks: int) -> Tracker:
    """Return an empty tracker; `n_blocks` = 0 where admission is off."""
    return Tracker(lists.new_nodes(n_blocks, 1, ("count", np.uint32), ("kept", np.uint32)), np.zeros(1, np.int64))


@kernel(inline=True)
def _head(tier, where):
    return np.uint32(tier.nodes.size - 5 + where)


@kernel(inline=True)
def _move(tier, block, where):
    """Put a block at the end of a list, wherever it was."""
    node = tier.nodes[block]
    if node.where != ABSENT:
        lists.unlink(tier.nodes, block)
        tier.sizes[node.where] -= 1
    node.where = where
    tier.sizes[where] += 1
    lists.push_back(tier.nodes, _head(tier, where), block)


@kernel(inline=True)
def _stored(tier, block):
    where = tier.nodes[block].where
    return where in (T1, T2)


@kernel(inline=True)
def _count_offers(tracker, blocks, first, last, mark, most):
    """Count the offer of `blocks[first:last]`; an entry of this offer is never dropped for another of it."""
    nodes, head = tracker.nodes, np.uint32(tracker.nodes.size - 1)
    others = tracker.size[0]
    for k in range(first, last):
        if lists.linked(nodes, blocks[k]):
            lists.move_back(nodes, head, blocks[k])
            nodes[blocks[k]].count += np.uint32(1)
            nodes[blocks[k]].kept = mark
            others -= 1
    for k in range(first, last):
        if lists.linked(nodes, blocks[k]):
            continue
        if tracker.size[0] >= most:
            if others == 0:
                continue
            lists.drop(nodes, nodes[head].next)
            tracker.size[0] -= 1
            others -= 1
        lists.push_back(nodes, head, blocks[k])
        nodes[blocks[k]].count = np.uint32(1)
        tracker.size[0] += 1


@kernel(inline=True)
def _adapt(tier, block, capacity):
    """ARC learns from a block that is to be stored: a ghost of T1 wants a larger T1, one of T2 a smaller one."""
    where = tier.nodes[block].where
    if where == B1:
        more = max(1.0, tier.sizes[B2] / tier.sizes[B1])
        tier.target[0] = min(tier.target[0] + more, float(capacity))
        _move(tier, block, B1)
    elif where == B2:
        less = max(1.0, tier.sizes[B1] / tier.sizes[B2])
        tier.target[0] = max(tier.target[0] - less, 0.0)
        _move(tier, block, B2)


@kernel(inline=True)
def _next_unoffered(tier, at, mark):
    """Return the last of the blocks that follow `at` without a gap and are part of the offer `mark`, or `at`."""
    nodes = tier.nodes
    while nodes[nodes[at].next].offered == mark:
        at = nodes[at].next
    return at


@kernel(inline=True)
def _evict(tier, need, mark, policy, capacity):
    """Evict `need` blocks outside the offer `mark`; the caller knows there are as many."""
    nodes = tier.nodes
    recent, frequent = _head(tier, T1), _head(tier, T2)
    behind, behind_frequent = recent, frequent
    for _ in range(need):
        where = T1
        behind = _next_unoffered(tier, behind, mark)
        if policy == ARC:
            exhausted = nodes[behind].next == recent
            if exhausted or tier.sizes[T1] < int(tier.target[0]):
                behind_frequent = _next_unoffered(tier, behind_frequent, mark)
                if exhausted or nodes[behind_frequent].next != frequent:
                    where = T2
        block = nodes[behind].next if where == T1 else nodes[behind_frequent].next
        if policy == LRU:
            lists.drop(nodes, block)
            nodes[block].where = ABSENT
            tier.sizes[T1] -= 1
        else:
            _move(tier, block, B1 if where == T1 else B2)
    for ghosts in (B1, B2):
        while tier.sizes[ghosts] > capacity:
            oldest = nodes[_head(tier, ghosts)].next
            lists.drop(nodes, oldest)
            nodes[oldest].where = ABSENT
            tier.sizes[ghosts] -= 1


@kernel(inline=True)
def _wanted(tracker, block, threshold):
    return threshold < 2 or (lists.linked(tracker.nodes, block) and tracker.nodes[block].count >= threshold)


@kernel(inline=True)
def _offer(tier, tracker, requests, i, first, policy, capacity, threshold, most):
    """Offer the blocks from `first` on; return how many have to be stored and how many are there already."""
    blocks, start, stop = requests.block_ids, requests.offsets[i], requests.offsets[i + 1]
    mark = np.uint32(i + 1)
    if threshold >= 2:
        _count_offers(tracker, blocks, start + first, stop, mark, most)
    wanted, present = 0, 0
    for k in range(stop - 1, start + first - 1, -1):
        if _stored(tier, blocks[k]):
            tier.nodes[blocks[k]].offered = mark
            present += 1
        elif _wanted(tracker, blocks[k], threshold):
            wanted += 1
            if policy == ARC:
                _adapt(tier, blocks[k], capacity)
    return wanted, present


@kernel(inline=True)
def _use(tier, tracker, requests, i, first, last, store, policy, threshold):
    """Bring blocks `first` to `last` of request `i` to the end of their list, last to first.

    With `store`, missing ones that are wanted enter T1. Stored ones move to T2 under ARC, for they were used again.
    """
    start = requests.offsets[i]
    for k in range(start + last - 1, start + first - 1, -1):
        block = requests.block_ids[k]
        if _stored(tier, block):
            _move(tier, block, T2 if policy == ARC else T1)
        elif store and _wanted(tracker, block, threshold):
            _move(tier, block, T1)


def _signature() -> Any:
    values = (replay.sample_requests(), replay.frozen(np.zeros(0), np.int32), new_tier(1), new_tracker(1))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    return types.void(*(numba.typeof(value) for value in values), *(types.int64,) * 5, *outputs)


@kernel(_signature())
def replay_cpu_tier(
    requests, gpu_hits, tier, tracker, policy, capacity, threshold, most, block_tokens, hits_out, start_out, counts
):
    """Replay all requests, one at a time.

    Args:
        requests: `replay.Requests`.
        gpu_hits: int32 (n,), leading blocks found in the pool in front, -1 for requests it cannot run; zeros without.
        tier: `new_tier(n_blocks)`.
        tracker: `new_tracker(n_blocks)`, of no blocks for `threshold` < 2.
        policy: LRU or ARC.
        capacity: Blocks of the tier.
        threshold: Offers a block needs to be stored (`store_threshold`); below 2 every block is stored.
        most: Entries of the tracker (`max_tracker_size`).
        block_tokens: Tokens per block.
        hits_out: int32 (n,), filled with hit blocks, those of `gpu_hits` included, or `replay.UNSERVED`.
        start_out: float64 (n,), filled with arrival times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    for i in range(requests.input_tokens.size):
        if gpu_hits[i] < 0:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        start, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
        limit = min(replay.hit_limit(requests, i, block_tokens), full)
        found = np.int64(gpu_hits[i])
        while found < limit and _stored(tier, requests.block_ids[start + found]):
            found += 1
        first = found if found > gpu_hits[i] else 0
        wanted, present = _offer(tier, tracker, requests, i, first, policy, capacity, threshold, most)
        need = max(wanted - (capacity - counts[replay.RESIDENT]), 0)
        fits = need <= counts[replay.RESIDENT] - present
        if fits and need > 0:
            if policy == LRU:  # what was loaded is the most recent already; ARC sees it when the request finishes
                _use(tier, tracker, requests, i, gpu_hits[i], found, False, policy, threshold)
            _evict(tier, need, np.uint32(i + 1), policy, capacity)
            counts[replay.EVICTED] += need
        _use(tier, tracker, requests, i, first, full, fits, policy, threshold)
        _use(tier, tracker, requests, i, gpu_hits[i], found, False, policy, threshold)
        counts[replay.RESIDENT] = tier.sizes[T1] + tier.sizes[T2]
        replay.tally(counts, full, found, wanted if fits else 0)
        replay.account(counts, 0)
        hits_out[i], start_out[i] = found, requests.arrival_s[i]
