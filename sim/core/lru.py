"""Native vLLM engine: physical blocks, one free queue, LRU by release order; >= 0.23 and <= 0.22.

Source: vLLM 0.33.0 / 0.22.1 `BlockPool` and `KVCacheManager`, equal request by request to the recorded hits of both.
Knows nothing of policies: an engine's own eviction order is all there is here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import replay
from sim.core.compiled import kernel

UNHASHED = replay.NONE
"""Content of a slot that no lookup can return."""


class Pool(NamedTuple):
    """Physical blocks 0..capacity-1 and one more, the sentinel of the free queue."""

    content: npt.NDArray[np.uint32]
    """Block id a slot holds, or `UNHASHED`."""
    next: npt.NDArray[np.uint32]
    """Towards the tail of the free queue (released later)."""
    prev: npt.NDArray[np.uint32]
    references: npt.NDArray[np.int32]
    """Running requests that use the slot; it is in the free queue when 0."""
    first_copy: npt.NDArray[np.uint32]
    """Per block id: the slot a lookup returns, or `replay.NONE`."""
    next_copy: npt.NDArray[np.uint32]
    """Per slot: the next physical copy of the same id (vLLM does not deduplicate), or `replay.NONE`."""
    free: npt.NDArray[np.int64]
    """Shape (1,): length of the free queue."""


def new_pool(capacity: int, n_blocks: int) -> Pool:
    """Return an empty pool; every slot is in the free queue."""
    around = np.arange(capacity + 1)
    nxt, prv = np.roll(around, -1).astype(np.uint32), np.roll(around, 1).astype(np.uint32)
    return Pool(
        np.full(capacity, UNHASHED, np.uint32),
        nxt,
        prv,
        np.zeros(capacity, np.int32),
        np.full(n_blocks, replay.NONE, np.uint32),
        np.full(capacity, replay.NONE, np.uint32),
        np.full(1, capacity, np.int64),
    )


@kernel(inline=True)
def _unlink(pool, slot):
    after, before = pool.next[slot], pool.prev[slot]
    pool.next[before] = after
    pool.prev[after] = before


@kernel(inline=True)
def _drop_copy(pool, slot, block):
    """Take a slot out of the copies a lookup of `block` may return."""
    copy, after = pool.first_copy[block], pool.next_copy[slot]
    if copy == slot:
        pool.first_copy[block] = after
    else:
        while pool.next_copy[copy] != slot:
            copy = pool.next_copy[copy]
        pool.next_copy[copy] = after
    if after != replay.NONE:
        pool.next_copy[slot] = replay.NONE


@kernel(inline=True)
def _take(pool, held, first, last, shared, counts):
    """Fill `held[first:last]` from the head of the free queue; a slot with a hash is evicted at this moment.

    The caller writes the content of every slot taken.
    """
    sentinel = np.uint32(pool.content.size)
    slot = pool.next[sentinel]
    evicted = 0
    for k in range(first, last):
        block = pool.content[slot]
        if block != UNHASHED:
            evicted += 1
            _drop_copy(pool, slot, block)
        if shared:
            pool.references[slot] = 1
        held[k] = slot
        slot = pool.next[slot]
    pool.next[sentinel] = slot
    pool.prev[slot] = sentinel
    pool.free[0] -= last - first
    counts[replay.EVICTED] += evicted
    counts[replay.RESIDENT] -= evicted


@kernel(inline=True)
def _hash(pool, slot, block):
    pool.content[slot] = block
    copy = pool.first_copy[block]
    if copy == replay.NONE:
        pool.first_copy[block] = slot
    else:
        while pool.next_copy[copy] != replay.NONE:
            copy = pool.next_copy[copy]
        pool.next_copy[copy] = slot


@kernel(inline=True)
def _match(pool, requests, i, shared, block_tokens):
    """Return (hit blocks, hit blocks that lie in the free queue) of request `i`; changes nothing.

    `shared` is a literal here and below: False compiles the serial kernel, where no running request uses a block and
    so no references are counted.
    """
    start = requests.offsets[i]
    limit = min(replay.hit_limit(requests, i, block_tokens), requests.offsets[i + 1] - start)
    hits, queued = 0, 0
    while hits < limit:
        slot = pool.first_copy[requests.block_ids[start + hits]]
        if slot == replay.NONE:
            break
        if not shared or pool.references[slot] == 0:
            queued += 1
        hits += 1
    return hits, queued


@kernel(inline=True)
def _admit(pool, requests, i, hits, held, shared, block_tokens, counts):
    """Touch the hit blocks, then take and hash the others; `held` receives the slots in prefix order."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    queued = 0
    for k in range(hits):
        slot = pool.first_copy[requests.block_ids[start + k]]
        if not shared or pool.references[slot] == 0:
            _unlink(pool, slot)
            queued += 1
        if shared:
            pool.references[slot] += 1
        held[k] = slot
    pool.free[0] -= queued
    full, blocks = stop - start, replay.prompt_blocks(requests, i, block_tokens)
    _take(pool, held, hits, blocks, shared, counts)
    for k in range(hits, full):
        _hash(pool, held[k], requests.block_ids[start + k])
    for k in range(full, blocks):
        pool.content[held[k]] = UNHASHED
    counts[replay.HIT] += hits
    counts[replay.LOOKED_UP] += full
    counts[replay.ADMITTED] += full - hits
    counts[replay.RESIDENT] += full - hits
    return blocks


@kernel(inline=True)
def _generate(pool, requests, i, held, blocks, shared, counts):
    """Take the blocks that generated tokens fill, as far as the queue reaches, and hash the complete ones."""
    reached = min(requests.total_blocks[i], blocks + pool.free[0])
    if reached > blocks:
        _take(pool, held, blocks, reached, shared, counts)
    first = requests.generated_offsets[i]
    generated = requests.generated_offsets[i + 1] - first
    full = requests.offsets[i + 1] - requests.offsets[i]
    kept = min(generated, reached - full)
    for k in range(kept):
        _hash(pool, held[full + k], requests.generated_ids[first + k])
    for k in range(max(blocks, full + kept), reached):
        pool.content[held[k]] = UNHASHED
    counts[replay.RESIDENT] += kept
    counts[replay.GENERATED] += kept
    counts[replay.DROPPED] += generated - kept
    return reached


@kernel(inline=True)
def _release(pool, held, blocks, shared, tail_slot_first):
    """Give the blocks back last to first; from 0.23 a block without hash goes to the head and is reused first."""
    sentinel = np.uint32(pool.content.size)
    tail, head = pool.prev[sentinel], pool.next[sentinel]
    freed = 0
    for k in range(blocks - 1, -1, -1):
        slot = held[k]
        if shared:
            pool.references[slot] -= 1
            if pool.references[slot] > 0:
                continue
        freed += 1
        if tail_slot_first and pool.content[slot] == UNHASHED:
            pool.next[slot] = head
            pool.prev[head] = slot
            head = slot
            if tail == sentinel:
                tail = slot
        else:
            pool.prev[slot] = tail
            pool.next[tail] = slot
            tail = slot
            if head == sentinel:
                head = slot
    pool.next[sentinel], pool.prev[head] = head, sentinel
    pool.prev[sentinel], pool.next[tail] = tail, sentinel
    pool.free[0] += freed


class Slots(NamedTuple):
    """The physical blocks each running request holds; a row is reused when its request has finished."""

    held: npt.NDArray[np.uint32]
    """Shape (max_running, longest request in blocks)."""
    blocks: npt.NDArray[np.uint32]
    """Per row: blocks in use."""
    row_of: npt.NDArray[np.uint32]
    """Per request: its row."""
    vacant: npt.NDArray[np.int64]
    """Stack of rows not in use; its top is at the number of running requests."""
    unhashed: npt.NDArray[np.int64]
    """Shape (1,): blocks held without a hash (partial tails)."""


def new_slots(requests: replay.Requests, capacity: int, max_running: int) -> Slots:
    """Return room for `max_running` requests, none of them running."""
    width = min(capacity, int(requests.total_blocks.max(initial=1)))
    return Slots(
        np.empty((max_running, width), np.uint32),
        np.empty(max_running, np.int32),
        np.empty(requests.input_tokens.size, np.int32),
        np.arange(max_running),
        np.zeros(1, np.int64),
    )


@kernel()
def _finish_next(pool, slots, requests, running, tail_slot_first, counts):
    """Finish the running request that is due first: its generated blocks are taken now, then all are released."""
    i = replay.next_finish(running)
    row = slots.row_of[i]
    slots.unhashed[0] -= slots.blocks[row] - (requests.offsets[i + 1] - requests.offsets[i])
    blocks = _generate(pool, requests, i, slots.held[row], slots.blocks[row], True, counts)
    _release(pool, slots.held[row], blocks, True, tail_slot_first)
    slots.vacant[running.size[0]] = row


@kernel()
def _wait_for_room(pool, slots, requests, i, running, now, tail_slot_first, block_tokens, counts):
    """Let running requests finish until request `i`, head of the line, can be admitted; return (hits, time)."""
    waited = False
    while True:
        hits, queued = _match(pool, requests, i, True, block_tokens)
        need = replay.prompt_blocks(requests, i, block_tokens) - hits
        if need <= pool.free[0] - queued and running.size[0] < running.finish_s.size:
            counts[replay.WAITED] += waited
            return hits, now
        waited = True
        now = max(now, running.finish_s[0])
        _finish_next(pool, slots, requests, running, tail_slot_first, counts)


@kernel()
def _serial(requests, pool, held, block_tokens, tail_slot_first, hits_out, start_out, counts):
    for i in range(requests.input_tokens.size):
        if replay.prompt_blocks(requests, i, block_tokens) > pool.content.size:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        hits, _ = _match(pool, requests, i, False, block_tokens)
        blocks = _admit(pool, requests, i, hits, held, False, block_tokens, counts)
        replay.account(counts, blocks - (requests.offsets[i + 1] - requests.offsets[i]))
        blocks = _generate(pool, requests, i, held, blocks, False, counts)
        _release(pool, held, blocks, False, tail_slot_first)
        hits_out[i], start_out[i] = hits, requests.arrival_s[i]


@kernel()
def _overlap(requests, pool, slots, running, block_tokens, tail_slot_first, server, hits_out, start_out, counts):
    now = 0.0
    for i in range(requests.input_tokens.size):
        if replay.prompt_blocks(requests, i, block_tokens) > pool.content.size:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        now = max(now, requests.arrival_s[i])
        while running.size[0] > 0 and running.finish_s[0] <= now:
            _finish_next(pool, slots, requests, running, tail_slot_first, counts)
        hits, now = _wait_for_room(pool, slots, requests, i, running, now, tail_slot_first, block_tokens, counts)
        row = slots.vacant[running.size[0]]
        slots.row_of[i] = row
        slots.blocks[row] = _admit(pool, requests, i, hits, slots.held[row], True, block_tokens, counts)
        slots.unhashed[0] += slots.blocks[row] - (requests.offsets[i + 1] - requests.offsets[i])
        replay.account(counts, slots.unhashed[0])
        hits_out[i], start_out[i] = hits, now
        replay.start_running(running, replay.finish_time(requests, i, hits, block_tokens, now, server), i)


def _signature() -> Any:
    requests = replay.sample_requests()
    state = (new_pool(1, 1), new_slots(requests, 1, 1), replay.new_running(1))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    kinds = (numba.typeof(value) for value in (requests, *state))
    return types.void(*kinds, types.int64, types.boolean, numba.typeof(replay.SERIAL), *outputs)


@kernel(_signature())
def replay_lru(requests, pool, slots, running, block_tokens, tail_slot_first, server, hits_out, start_out, counts):
    """Replay all requests against the engine's own LRU.

    Args:
        requests: `replay.Requests`.
        pool: `new_pool(capacity, n_blocks)`, capacity in usable blocks (vLLM: `num_gpu_blocks` - 1).
        slots: `new_slots(requests, capacity, server.max_running)`.
        running: `replay.new_running(server.max_running)`.
        block_tokens: Tokens per block.
        tail_slot_first: True for vLLM >= 0.23, False for <= 0.22 (a partial block takes an LRU slot).
        server: `replay.Server`.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        start_out: float64 (n,), filled with admission times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    if server.overlap:
        _overlap(requests, pool, slots, running, block_tokens, tail_slot_first, server, hits_out, start_out, counts)
    else:
        _serial(requests, pool, slots.held[0], block_tokens, tail_slot_first, hits_out, start_out, counts)
