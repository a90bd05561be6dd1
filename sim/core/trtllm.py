"""TensorRT-LLM's V1 (C++) block manager: 101 priorities, least recently released first within one, durations; serial.

From source, not measured: TensorRT-LLM `batch_manager/{evictionPolicy,kvCacheManager}.cpp`, one level of memory, no
reuse inside a block. Every slot that no request uses is in the queue of its priority, whether it holds a block or not,
and a new block takes the front of the lowest queue that is not empty. A request's priority replaces what its blocks
had. At release, last block first, a slot goes to the tail of its queue; a priority other than 35 with a duration ends
after it: back to 35, to the tail. Taking a block makes those that continue it unreachable (`freeChildren`): their slots
stay where they are, empty. So leaves go first as long as priorities are equal, not by a rule (the comment in
`getFreeBlock` that queues hold leaves only is older than `releaseBlock`). A block computed twice is stored once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import lists, replay
from sim.core.compiled import kernel

DEFAULT_PRIORITY = 35
LAST_PRIORITY = 100


class Pool(NamedTuple):
    """Slots of memory and the tree of the blocks in them."""

    slots: npt.NDArray[np.void]
    """`lists.new_nodes` of slots with a list per priority: those no request uses, front first. `block`: what the slot
    holds, or `replay.NONE`; `priority`."""
    expiring: npt.NDArray[np.void]
    """`lists.new_nodes` of slots with one list: those whose priority will end, soonest first. `at_s`."""
    blocks: npt.NDArray[np.void]
    """`lists.new_nodes` of blocks with a list per block, of the stored blocks that continue it. `slot`: where the block
    is stored, or `replay.NONE`."""
    held: npt.NDArray[np.uint32]
    """Shape (capacity,): slots of the running request in prefix order."""
    lowest: npt.NDArray[np.int64]
    """Shape (1,): priority below which every queue is empty."""


def new_pool(n_blocks: int, capacity: int) -> Pool:
    """Return `capacity` empty slots, all at the default priority."""
    slots = lists.new_nodes(capacity, LAST_PRIORITY + 1, ("block", np.uint32), ("priority", np.int32))
    slots["block"][:capacity] = replay.NONE
    slots["priority"][:capacity] = DEFAULT_PRIORITY
    ring = np.array([capacity + DEFAULT_PRIORITY, *range(capacity)], np.uint32)
    slots["next"][ring] = np.roll(ring, -1)
    slots["prev"][ring] = np.roll(ring, 1)
    blocks = lists.new_nodes(n_blocks, n_blocks, ("slot", np.uint32))
    blocks["slot"] = replay.NONE
    return Pool(
        slots,
        lists.new_nodes(capacity, 1, ("at_s", np.float64)),
        blocks,
        np.zeros(capacity, np.uint32),
        np.array([DEFAULT_PRIORITY]),
    )


@kernel(inline=True)
def _queue(pool, slot, priority):
    """Put a slot that is in no queue at the tail of one."""
    pool.slots[slot].priority = priority
    lists.push_back(pool.slots, np.uint32(pool.slots.size - LAST_PRIORITY - 1 + priority), slot)
    pool.lowest[0] = min(pool.lowest[0], priority)


@kernel(inline=True)
def _claim(pool, slot):
    """Take a slot for a request."""
    lists.drop(pool.slots, slot)
    if lists.linked(pool.expiring, slot):
        lists.drop(pool.expiring, slot)


@kernel(inline=True)
def _release(pool, slot, priority, now_s, duration_s):
    _queue(pool, slot, priority)
    if priority != DEFAULT_PRIORITY and duration_s < np.inf:
        pool.expiring[slot].at_s = now_s + duration_s
        lists.push_back(pool.expiring, np.uint32(pool.expiring.size - 1), slot)


@kernel(inline=True)
def _expire(pool, now_s):
    """Return slots whose duration is over to the default priority, soonest first."""
    head = np.uint32(pool.expiring.size - 1)
    slot = pool.expiring[head].next
    while slot != head and pool.expiring[slot].at_s <= now_s:
        _claim(pool, slot)
        _queue(pool, slot, DEFAULT_PRIORITY)
        slot = pool.expiring[head].next


@kernel(inline=True)
def _forget(pool, parents, block, counts):
    """Take a block and all that continue it out of the tree, deepest first; their slots are empty then."""
    blocks, n = pool.blocks, np.uint32(pool.blocks.size // 2)
    at, last = block, False
    while not last:
        while blocks[n + at].next != n + at:
            at = blocks[n + at].next
        pool.slots[blocks[at].slot].block = replay.NONE
        blocks[at].slot = replay.NONE
        counts[replay.EVICTED] += 1
        counts[replay.RESIDENT] -= 1
        if lists.linked(blocks, at):
            lists.drop(blocks, at)
        last = at == block
        at = parents[at]


@kernel(inline=True)
def _take(pool, parents, counts):
    """Return the first slot of the lowest priority, empty; the caller knows there is one."""
    queues = pool.slots.size - LAST_PRIORITY - 1
    head = np.uint32(queues + pool.lowest[0])
    while pool.slots[head].next == head:
        head += np.uint32(1)
    pool.lowest[0] = np.int64(head) - queues
    slot = pool.slots[head].next
    if pool.slots[slot].block != replay.NONE:
        _forget(pool, parents, pool.slots[slot].block, counts)
    _claim(pool, slot)
    return slot


@kernel(inline=True)
def _store(pool, parents, requests, i, hits):
    """Put the computed blocks of request `i` behind `hits` into their slots; return how many were not stored yet."""
    blocks, start, new = pool.blocks, requests.offsets[i], 0
    for k in range(hits, requests.offsets[i + 1] - start):
        block = requests.block_ids[start + k]
        if blocks[block].slot != replay.NONE:
            continue
        blocks[block].slot = pool.held[k]
        pool.slots[pool.held[k]].block = block
        if parents[block] != replay.NONE:
            lists.push_back(blocks, np.uint32(blocks.size // 2) + parents[block], block)
        new += 1
    return new


def _signature() -> Any:
    values = (replay.sample_requests(), replay.frozen(np.zeros(0), np.uint32), replay.frozen(np.zeros(0), np.int32))
    kinds = (numba.typeof(value) for value in (*values, new_pool(1, 1)))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    return types.void(*kinds, types.float64, types.int64, types.int64, *outputs)


@kernel(_signature())
def replay_trtllm(requests, parents, priorities, pool, duration_s, capacity, block_tokens, hits_out, start_out, counts):
    """Replay all requests, one at a time.

    Args:
        requests: `replay.Requests`.
        parents: uint32 per id, `replay.NONE` for the first block of a prompt.
        priorities: int32 (n,), 0..100.
        pool: `new_pool(n_blocks, capacity)`.
        duration_s: How long a priority other than 35 holds after a release, infinite for ever.
        capacity: Blocks.
        block_tokens: Tokens per block.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        start_out: float64 (n,), filled with arrival times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    for i in range(requests.input_tokens.size):
        blocks, now_s = replay.prompt_blocks(requests, i, block_tokens), requests.arrival_s[i]
        if blocks > capacity:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        start, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
        limit, hits = min(replay.hit_limit(requests, i, block_tokens), full), 0
        _expire(pool, now_s)
        while hits < limit and pool.blocks[requests.block_ids[start + hits]].slot != replay.NONE:
            pool.held[hits] = pool.blocks[requests.block_ids[start + hits]].slot
            _claim(pool, pool.held[hits])
            hits += 1
        for k in range(hits, blocks):
            pool.held[k] = _take(pool, parents, counts)
        stored = _store(pool, parents, requests, i, hits)
        counts[replay.RESIDENT] += stored
        replay.account(counts, blocks - hits - stored)
        for k in range(blocks - 1, -1, -1):
            _release(pool, pool.held[k], np.int64(priorities[i]), now_s, duration_s)
        replay.tally(counts, full, hits, stored)
        hits_out[i], start_out[i] = hits, now_s
