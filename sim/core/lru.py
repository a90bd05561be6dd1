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
from sim.core.compiled import kernel, records

UNHASHED = replay.NONE
"""Content of a slot that no lookup can return."""


SLOT = np.dtype([("content", np.uint32), ("next", np.uint32), ("prev", np.uint32), ("next_copy", np.uint32)])
"""A physical block. `content`: the block id it holds, or `UNHASHED`. `next`, `prev`: its neighbours in the free queue,
`next` is released later. `next_copy`: the next physical copy of the same id (vLLM does not deduplicate), or none."""


class Pool(NamedTuple):
    """Physical blocks 0..capacity-1 and one more, the sentinel of the free queue."""

    slots: npt.NDArray[np.void]
    """Shape (capacity + 1,), dtype `SLOT`: one cache line holds four, and a replay visits them in no order."""
    references: npt.NDArray[np.int32]
    """Running requests that use the slot; it is in the free queue when 0."""
    first_copy: npt.NDArray[np.uint32]
    """Per block id: the slot a lookup returns, or `replay.NONE`."""
    free: npt.NDArray[np.int64]
    """Shape (1,): length of the free queue."""


def new_pool(capacity: int, n_blocks: int) -> Pool:
    """Return an empty pool; every slot is in the free queue."""
    slots = np.empty(capacity + 1, SLOT)
    around = np.arange(capacity + 1)
    slots["content"], slots["next_copy"] = UNHASHED, replay.NONE
    slots["next"], slots["prev"] = np.roll(around, -1), np.roll(around, 1)
    return Pool(
        records(slots),
        np.zeros(capacity, np.int32),
        np.full(n_blocks, replay.NONE, np.uint32),
        np.full(1, capacity, np.int64),
    )


@kernel(inline=True)
def _unlink(pool, slot):
    after, before = pool.slots[slot].next, pool.slots[slot].prev
    pool.slots[before].next = after
    pool.slots[after].prev = before


@kernel(inline=True)
def _drop_copy(pool, slot, block):
    """Take a slot out of the copies a lookup of `block` may return."""
    copy, after = pool.first_copy[block], pool.slots[slot].next_copy
    if copy == slot:
        pool.first_copy[block] = after
    else:
        while pool.slots[copy].next_copy != slot:
            copy = pool.slots[copy].next_copy
        pool.slots[copy].next_copy = after
    if after != replay.NONE:
        pool.slots[slot].next_copy = replay.NONE


@kernel(inline=True)
def _hash(pool, slot, block):
    pool.slots[slot].content = block
    copy = pool.first_copy[block]
    if copy == replay.NONE:
        pool.first_copy[block] = slot
    else:
        while pool.slots[copy].next_copy != replay.NONE:
            copy = pool.slots[copy].next_copy
        pool.slots[copy].next_copy = slot


@kernel(inline=True)
def _take(pool, held, first, last, ids, start, full, shared, counts):
    """Fill `held[first:last]` from the head of the free queue; a slot with a hash is evicted at this moment.

    Block k below `full` is hashed as `ids[start + k]`, the others have no hash.
    """
    sentinel = np.uint32(pool.slots.size - 1)
    slot = pool.slots[sentinel].next
    evicted = 0
    for k in range(first, last):
        block = pool.slots[slot].content
        if block != UNHASHED:
            evicted += 1
            _drop_copy(pool, slot, block)
        if shared:
            pool.references[slot] = 1
        held[k] = slot
        if k < full:
            _hash(pool, slot, ids[start + k])
        else:
            pool.slots[slot].content = UNHASHED
        slot = pool.slots[slot].next
    pool.slots[sentinel].next = slot
    pool.slots[slot].prev = sentinel
    pool.free[0] -= last - first
    counts[replay.EVICTED] += evicted
    counts[replay.RESIDENT] -= evicted


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
    _take(pool, held, hits, blocks, requests.block_ids, start, full, shared, counts)
    counts[replay.HIT] += hits
    counts[replay.LOOKED_UP] += full
    counts[replay.ADMITTED] += full - hits
    counts[replay.RESIDENT] += full - hits
    return blocks


@kernel(inline=True)
def _generate(pool, requests, i, held, blocks, shared, counts):
    """Take the blocks that generated tokens fill, as far as the queue reaches, and hash the complete ones."""
    reached = min(requests.total_blocks[i], blocks + pool.free[0])
    first = requests.generated_offsets[i]
    generated = requests.generated_offsets[i + 1] - first
    full = requests.offsets[i + 1] - requests.offsets[i]
    kept = min(generated, reached - full)
    for k in range(full, min(blocks, full + kept)):
        _hash(pool, held[k], requests.generated_ids[first + k - full])
    if reached > blocks:
        _take(pool, held, blocks, reached, requests.generated_ids, first - full, full + kept, shared, counts)
    counts[replay.RESIDENT] += kept
    counts[replay.GENERATED] += kept
    counts[replay.DROPPED] += generated - kept
    return reached


@kernel(inline=True)
def _release(pool, held, blocks, shared, tail_slot_first):
    """Give the blocks back last to first; from 0.23 a block without hash goes to the head and is reused first."""
    sentinel = np.uint32(pool.slots.size - 1)
    tail, head = pool.slots[sentinel].prev, pool.slots[sentinel].next
    freed = 0
    for k in range(blocks - 1, -1, -1):
        slot = held[k]
        if shared:
            pool.references[slot] -= 1
            if pool.references[slot] > 0:
                continue
        freed += 1
        if tail_slot_first and pool.slots[slot].content == UNHASHED:
            pool.slots[slot].next = head
            pool.slots[head].prev = slot
            head = slot
            if tail == sentinel:
                tail = slot
        else:
            pool.slots[slot].prev = tail
            pool.slots[tail].next = slot
            tail = slot
            if head == sentinel:
                head = slot
    pool.slots[sentinel].next, pool.slots[head].prev = head, sentinel
    pool.slots[sentinel].prev, pool.slots[tail].next = tail, sentinel
    pool.free[0] += freed


class Rows(NamedTuple):
    """The physical blocks each running request holds; a row is reused when its request has finished."""

    held: npt.NDArray[np.uint32]
    """Shape (max_running, longest request in blocks)."""
    blocks: npt.NDArray[np.int32]
    """Per row: blocks in use."""
    row_of: npt.NDArray[np.int32]
    """Per request: its row."""
    vacant: npt.NDArray[np.int64]
    """Stack of rows not in use; its top is at the number of running requests."""
    unhashed: npt.NDArray[np.int64]
    """Shape (1,): blocks held without a hash (partial tails)."""


def new_rows(requests: replay.Requests, capacity: int, max_running: int) -> Rows:
    """Return room for `max_running` requests, none of them running."""
    width = min(capacity, int(requests.total_blocks.max(initial=1)))
    return Rows(
        np.empty((max_running, width), np.uint32),
        np.empty(max_running, np.int32),
        np.empty(requests.input_tokens.size, np.int32),
        np.arange(max_running),
        np.zeros(1, np.int64),
    )


def next_rows(rows: Rows, requests: replay.Requests, carried: npt.NDArray[np.int32], capacity: int) -> Rows:
    """Return the rows for the next step, whose first requests were `carried` in the last; widened where needed."""
    wider = min(capacity, int(requests.total_blocks.max(initial=1))) - rows.held.shape[1]
    row_of = np.empty(requests.input_tokens.size, np.int32)
    row_of[: carried.size] = rows.row_of[carried]
    return rows._replace(held=np.pad(rows.held, ((0, 0), (0, wider))) if wider > 0 else rows.held, row_of=row_of)


@kernel()
def _finish_next(pool, rows, requests, running, tail_slot_first, counts):
    """Finish the running request that is due first: its generated blocks are taken now, then all are released."""
    i = replay.next_finish(running)
    row = rows.row_of[i]
    rows.unhashed[0] -= rows.blocks[row] - (requests.offsets[i + 1] - requests.offsets[i])
    blocks = _generate(pool, requests, i, rows.held[row], rows.blocks[row], True, counts)
    _release(pool, rows.held[row], blocks, True, tail_slot_first)
    rows.vacant[running.size[0]] = row


@kernel()
def _wait_for_room(pool, rows, requests, i, running, now, tail_slot_first, block_tokens, counts):
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
        _finish_next(pool, rows, requests, running, tail_slot_first, counts)


@kernel()
def _serial(requests, pool, held, block_tokens, tail_slot_first, hits_out, start_out, counts):
    for i in range(requests.input_tokens.size):
        if replay.prompt_blocks(requests, i, block_tokens) > (pool.slots.size - 1):
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        hits, _ = _match(pool, requests, i, False, block_tokens)
        blocks = _admit(pool, requests, i, hits, held, False, block_tokens, counts)
        replay.account(counts, blocks - (requests.offsets[i + 1] - requests.offsets[i]))
        blocks = _generate(pool, requests, i, held, blocks, False, counts)
        _release(pool, held, blocks, False, tail_slot_first)
        hits_out[i], start_out[i] = hits, requests.arrival_s[i]


@kernel()
def _overlap(requests, pool, rows, running, block_tokens, tail_slot_first, server, hits_out, start_out, counts):
    now = running.now_s[0]
    for i in range(running.size[0], requests.input_tokens.size):
        if replay.prompt_blocks(requests, i, block_tokens) > (pool.slots.size - 1):
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        now = max(now, requests.arrival_s[i])
        while running.size[0] > 0 and running.finish_s[0] <= now:
            _finish_next(pool, rows, requests, running, tail_slot_first, counts)
        hits, now = _wait_for_room(pool, rows, requests, i, running, now, tail_slot_first, block_tokens, counts)
        row = rows.vacant[running.size[0]]
        rows.row_of[i] = row
        rows.blocks[row] = _admit(pool, requests, i, hits, rows.held[row], True, block_tokens, counts)
        rows.unhashed[0] += rows.blocks[row] - (requests.offsets[i + 1] - requests.offsets[i])
        replay.account(counts, rows.unhashed[0])
        hits_out[i], start_out[i] = hits, now
        replay.start_running(running, replay.finish_time(requests, i, hits, block_tokens, now, server), i)
    running.now_s[0] = now


def _signature() -> Any:
    requests = replay.sample_requests()
    state = (new_pool(1, 1), new_rows(requests, 1, 1), replay.new_running(1))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    kinds = (numba.typeof(value) for value in (requests, *state))
    return types.void(*kinds, types.int64, types.boolean, numba.typeof(replay.SERIAL), *outputs)


@kernel(_signature())
def replay_lru(requests, pool, rows, running, block_tokens, tail_slot_first, server, hits_out, start_out, counts):
    """Replay all requests against the engine's own LRU.

    Args:
        requests: `replay.Requests`; first those still running, if this is not the first step of a replay.
        pool: `new_pool(capacity, n_blocks)`, capacity in usable blocks (vLLM: `num_gpu_blocks` - 1).
        rows: `new_rows(requests, capacity, server.max_running)`, or `next_rows`.
        running: `replay.new_running(server.max_running)`, kept from step to step like `pool` and `counts`.
        block_tokens: Tokens per block.
        tail_slot_first: True for vLLM >= 0.23, False for <= 0.22 (a partial block takes an LRU slot).
        server: `replay.Server`.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        start_out: float64 (n,), filled with admission times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    if server.overlap:
        _overlap(requests, pool, rows, running, block_tokens, tail_slot_first, server, hits_out, start_out, counts)
    else:
        _serial(requests, pool, rows.held[0], block_tokens, tail_slot_first, hits_out, start_out, counts)
