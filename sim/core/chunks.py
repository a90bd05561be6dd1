"""User policies over single chunks: LMCache's store and vLLM's CPU tier, beside the compute pool, serial.

Each block id is an object of its own. A lookup finds the contiguous prefix; nothing keeps a parent in the store, so
orphans exist. What a policy reads means, for a chunk: `released` its place in the engine's own LRU order, `inserted`
when it was stored, `hits` how often it was found since, `seen` that plus the times it was offered, ghosts included,
`children` the stored chunks that continue it. Knows blocks and order; must not know the future or what a policy is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import engine, heap, replay, residency, view
from sim.core import state as st
from sim.core.compiled import kernel
from sim.core.residency import AT_EVICTION, AT_RELEASE


class Marks(NamedTuple):
    """What a chunk store keeps per id beside the policy's records."""

    children: npt.NDArray[np.int32]
    """Stored chunks that continue it, whether it is stored or not."""
    wanted: npt.NDArray[np.int32]
    """1 + the request that last asked to store it."""


def new_marks(n_ids: int) -> Marks:
    """Return marks of an empty store."""
    return Marks(np.zeros(n_ids, np.int32), np.zeros(n_ids, np.int32))


@kernel(inline=True)
def _found(state, requests, i, first, limit):
    """Return the end of the stored run of blocks of request `i` that begins at block `first`."""
    start = requests.offsets[i]
    while first < limit and state.status[requests.block_ids[start + first]] == st.RESIDENT:
        first += 1
    return first


@kernel(inline=True)
def _use(state, block, rules, on_hit):
    """Touch a stored chunk and keep it from eviction."""
    residency.pin(state, block, rules.scoring != AT_EVICTION)
    residency.touch(state, block)
    state.block[block].hits += 1
    if rules.has_on_hit:
        on_hit(state.block[block], state.request[0], state.cache[0])


@kernel(inline=True)
def _release(state, block, rules, priority, i, counts):
    """Make a chunk the most recent one."""
    state.released[0] += 1
    state.block[block].released = state.released[0]
    if rules.scoring == AT_RELEASE:
        state.touch_score[block] = residency.score_of(state, block, priority, i, counts)


@kernel(inline=True)
def _expose(state, block, rules, scored, priority, i, counts):
    """Let a stored chunk be evicted; `scored`: the candidates' scores of this eviction are known already."""
    if state.pins[block] > 0:
        state.pins[block] = 0
        state.n[st.PINNED] -= 1
    score = 0.0
    if rules.scoring == AT_RELEASE:
        score = state.touch_score[block]
    elif scored:
        score = residency.score_of(state, block, priority, i, counts)
    ordered = scored or rules.scoring != AT_EVICTION
    heap.add(state.candidates, block, score, state.block[block].released, ordered)


@kernel(inline=True)
def _score_candidates(state, rules, priority, i, counts):
    if rules.scoring == AT_EVICTION:
        for place in range(state.candidates.size[0]):
            state.candidates.score[place] = residency.score_of(state, state.candidates.node[place], priority, i, counts)
        heap.order(state.candidates)


@kernel(inline=True)
def _evict(state, marks, rules, on_evict, i, counts):
    """Evict the candidate of the lowest score, the least recent of equals; scores are known."""
    block = state.candidates.node[0]
    residency.evict(state, block, rules, on_evict, i, counts)
    heap.remove(state.candidates, 0, True)
    parent = state.parents[block]
    if parent != replay.NONE:
        marks.children[parent] -= 1


@kernel(inline=True)
def _offer(state, block, depth):
    """Note that a missing chunk is offered."""
    residency.known(state, block, depth, 0.0)
    residency.touch(state, block)


@kernel(inline=True)
def _enter(state, marks, block, rules, on_insert, counts):
    """Store a chunk that was offered."""
    record = state.block[block]
    record.inserted, record.inserted_s = state.cache[0].now, state.cache[0].now_s
    record.children = marks.children[block]
    parent = state.parents[block]
    if parent != replay.NONE:
        marks.children[parent] += 1
        if state.status[parent] == st.RESIDENT:
            state.block[parent].children += 1
    state.status[block] = st.RESIDENT
    counts[replay.RESIDENT] += 1
    if rules.has_on_insert:
        on_insert(record, state.request[0], state.cache[0])


@kernel(inline=True)
def _one_by_one(state, marks, requests, i, found, rules, hooks, counts):
    """LMCache: touch the found chunks last to first, put the missing ones first to last; return how many were put."""
    priority, _, on_hit, on_insert, on_evict = hooks
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    for k in range(start + found - 1, start - 1, -1):
        _use(state, requests.block_ids[k], rules, on_hit)
        _release(state, requests.block_ids[k], rules, priority, i, counts)
    put, scored = 0, False
    for k in range(start + found, stop):
        block = requests.block_ids[k]
        if state.status[block] == st.RESIDENT:
            continue
        if counts[replay.RESIDENT] == state.n[st.CAPACITY]:
            if state.candidates.size[0] == 0:
                break
            if not scored:
                _score_candidates(state, rules, priority, i, counts)
                scored = True
            _evict(state, marks, rules, on_evict, i, counts)
        _offer(state, block, k - start)
        _enter(state, marks, block, rules, on_insert, counts)
        _release(state, block, rules, priority, i, counts)
        _expose(state, block, rules, scored, priority, i, counts)
        put += 1
    for k in range(start, start + found):
        _expose(state, requests.block_ids[k], rules, False, priority, i, counts)
    return put


@kernel(inline=True)
def _access(state, marks, requests, i, first, rules, admit, on_hit):
    """Touch what is stored of the blocks from `first` on, offer the others; return how many are to be stored."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    wanted = 0
    for k in range(start + first, stop):
        block = requests.block_ids[k]
        if state.status[block] == st.RESIDENT:
            _use(state, block, rules, on_hit)
            continue
        _offer(state, block, k - start)
        if not rules.has_admit or admit(state.block[block], state.request[0], state.cache[0]) != 0.0:
            marks.wanted[block] = i + 1
            wanted += 1
        else:
            st.remember(state, block)
    return wanted


@kernel(inline=True)
def _all_or_nothing(state, marks, requests, i, on_gpu, found, rules, hooks, counts):
    """CPU tier of vLLM: load, then store all the wanted chunks in one call, or none; return how many were stored."""
    priority, admit, on_hit, on_insert, on_evict = hooks
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    first = on_gpu if found > on_gpu else 0
    wanted = _access(state, marks, requests, i, first, rules, admit, on_hit)
    need = wanted - (state.n[st.CAPACITY] - counts[replay.RESIDENT])
    if need > 0:
        for k in range(start + found - 1, start + on_gpu - 1, -1):  # loaded: in use no more, and not offered
            _release(state, requests.block_ids[k], rules, priority, i, counts)
            _expose(state, requests.block_ids[k], rules, False, priority, i, counts)
    fits = need <= state.candidates.size[0]
    if need > 0 and fits:
        _score_candidates(state, rules, priority, i, counts)
        for _ in range(need):
            _evict(state, marks, rules, on_evict, i, counts)
    stored = 0
    for k in range(start + first, stop):
        block = requests.block_ids[k]
        if marks.wanted[block] == i + 1:
            if fits:
                _enter(state, marks, block, rules, on_insert, counts)
                stored += 1
            else:
                st.remember(state, block)
    for k in range(stop - 1, start + first - 1, -1):
        block = requests.block_ids[k]
        if state.status[block] == st.RESIDENT:
            place = state.candidates.place_of[block]
            if place != replay.NONE:
                heap.remove(state.candidates, place, rules.scoring != AT_EVICTION)
            _release(state, block, rules, priority, i, counts)
            _expose(state, block, rules, False, priority, i, counts)
    return stored


def _signature() -> Any:
    state = st.new_state(np.zeros(1, np.int32), 1, 0, 1, False)
    values = (
        replay.sample_requests(),
        view.sample_labels(),
        replay.frozen(np.zeros(0), np.int32),
        state,
        new_marks(1),
    )
    rules = numba.typeof(residency.Rules(1, 0, False, False, False, False, False))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    kinds = (numba.typeof(value) for value in values)
    return types.void(*kinds, engine.hooks_type(), rules, types.boolean, types.float64, *outputs)


@kernel(_signature())
def replay_chunks(requests, labels, gpu_hits, state, marks, hooks, rules, atomic, origin, hits_out, start_out, counts):
    """Replay all requests against a policy, one at a time.

    Args:
        requests: `replay.Requests`; a block is a chunk.
        labels: `view.Labels`.
        gpu_hits: int32 (n,), leading blocks found in the compute pool in front, -1 for requests it cannot run.
        state: `state.new_state(parents, capacity, copies=0, ...)`; holds the final state afterwards.
        marks: `new_marks(n_ids)`.
        hooks: `engine.Hooks`.
        rules: `residency.Rules` with `orphans` set.
        atomic: True for vLLM's CPU tier, False for LMCache.
        origin: Where the clocks a policy sees begin, a whole number.
        hits_out: int32 (n,), filled with the blocks found, those of `gpu_hits` included, or `replay.UNSERVED`.
        start_out: float64 (n,), filled with arrival times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    cache = state.cache[0]
    cache.capacity_blocks, cache.block_tokens = state.n[st.CAPACITY], rules.block_tokens
    cache.now, state.released[0] = origin, origin
    for i in range(requests.input_tokens.size):
        if gpu_hits[i] < 0:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        evicted, full = counts[replay.EVICTED], requests.offsets[i + 1] - requests.offsets[i]
        limit = max(min(replay.hit_limit(requests, i, rules.block_tokens), full), 0)
        found = _found(state, requests, i, gpu_hits[i], limit if atomic else full)
        hits = min(found, limit)
        cache.now += 1.0
        view.observe(state.cache[0], requests.arrival_s[i], origin, state.n[st.PINNED] + state.n[st.SCRATCH], counts)
        view.follow(state.cache[0], labels, i)
        view.present(state.request[0], requests, labels, i, hits, st.known_blocks(state, requests, i, hits))
        if atomic:
            stored = _all_or_nothing(state, marks, requests, i, gpu_hits[i], found, rules, hooks, counts)
        else:
            stored = _one_by_one(state, marks, requests, i, found, rules, hooks, counts)
        if state.n[st.BROKEN] > 0:
            return
        replay.tally(counts, full, hits, stored)
        replay.account(counts, 0)
        view.average(cache, full, hits, counts[replay.EVICTED] - evicted)
        hits_out[i], start_out[i] = hits, requests.arrival_s[i]
