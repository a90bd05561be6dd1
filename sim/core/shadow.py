"""A policy's replay with an oracle in its shadow: at each decision, what one who knows the next uses would have done.

The policy engine, one request at a time, leaves only, no generated blocks: the same steps in the same order as
`sim.core.engine`, with a second heap over the same candidates, ordered by next use. The oracle evicts the candidate
whose next use is farthest; it admits what the offline optimum hits when it is asked for next. Either may decide in the
policy's place. No two candidates have the same next use unless they have none; of those the oracle takes one by a hash,
so that its choices are a fair sample (the deepest, say, would make every comparison of depths a foregone conclusion).
Asking for the best victim among the *same* candidates is the idea of llm-prefix-cache-analysis (src/mechanism.py,
df6571c). Knows the future; no policy process may import it.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import decision_log, engine, heap, replay, residency, view
from sim.core import state as st
from sim.core.compiled import kernel
from sim.core.heap import Heap, new_heap

HASH = np.uint32(2_654_435_769)
"""Knuth's multiplicative hash of 32 bits, 2^32 / golden ratio: odd, so no two nodes share a value."""


class Modes(NamedTuple):
    """Who decides, and what is written down."""

    oracle_eviction: bool
    oracle_admission: bool
    stride: int
    """The whole record of every so many-th decision is kept."""


class Future(NamedTuple):
    """What the oracle knows and keeps."""

    next_use: npt.NDArray[np.int64]
    """Per reference: position of the next reference that may hit the block, n_refs if the next does not exist or
    recomputes it anyway (last-token rule)."""
    wanted: npt.NDArray[np.uint8]
    """Per reference: 1 if the optimum hits the block at that next reference."""
    next_of: npt.NDArray[np.int64]
    """Per id: `next_use` of its last reference so far."""
    wanted_of: npt.NDArray[np.uint8]
    candidates: Heap
    """The candidates of the policy, the farthest next use first."""


def new_future(
    next_use: npt.NDArray[np.int64], wanted: npt.NDArray[np.uint8], nodes: int, n_ids: int, capacity: int
) -> Future:
    """Return an oracle that has seen nothing yet."""
    entries = min(capacity, nodes) + 1
    known = replay.frozen(next_use, np.int64), replay.frozen(wanted, np.uint8)
    return Future(*known, np.zeros(n_ids, np.int64), np.zeros(n_ids, np.uint8), new_heap(nodes, entries))


@kernel(inline=True)
def _block_of(state, node):
    n_ids = state.status.size
    return state.copy_of[node - n_ids] if node >= n_ids else node


@kernel(inline=True)
def _redundant(state, block):
    """Return whether the cache holds a block more than once: then any one copy may leave at no cost."""
    first = st.node_of(state, block)
    return first != replay.NONE and state.next_copy[first] != replay.NONE


@kernel(inline=True)
def _follow(state, future, node):
    """Give a candidate of the policy its place among the oracle's."""
    block = _block_of(state, node)
    next_use = future.next_use.size if _redundant(state, block) else future.next_of[block]
    heap.add(future.candidates, node, -float(next_use), float(np.uint32(node * HASH)), True)


@kernel(inline=True)
def _forget(future, node):
    place = future.candidates.place_of[node]
    if place != replay.NONE:
        heap.remove(future.candidates, place, True)


@kernel(inline=True)
def _know(future, block, reference):
    future.next_of[block] = future.next_use[reference]
    future.wanted_of[block] = future.wanted[reference]


@kernel(inline=True)
def _note_eviction(state, future, log, victim, choice, modes, i):
    """Write down an eviction that is about to happen."""
    number = log.n[0]
    log.n[0] += 1
    if number < log.eviction.size:
        entry, record, block = log.eviction[number], state.block[victim], _block_of(state, victim)
        entry.request = i
        entry.block = block
        entry.next_use = int(-future.candidates.score[future.candidates.place_of[victim]])
        entry.instead = _block_of(state, choice)
        entry.instead_next_use = int(-future.candidates.score[future.candidates.place_of[choice]])
        entry.wanted = 0 if _redundant(state, block) else future.wanted_of[block]
        entry.age = int(state.cache[0].now - record.last_access)
        decision_log.note_facts(entry, record)
        if number % modes.stride == 0:
            log.victim[number // modes.stride] = record
            log.instead[number // modes.stride] = state.block[choice]
    decision = log.decision_of[victim]
    if decision >= 0:
        log.admission[decision].hits = int(state.block[victim].hits)
        log.decision_of[victim] = -1


@kernel(inline=True)
def _note_decision(state, future, log, node, block, copy, admitted, modes, i):
    """Write down whether a missing block enters; `copy` if it is there already and a second one would."""
    number = log.n[1]
    log.n[1] += 1
    if number >= log.admission.size:
        return
    entry, record = log.admission[number], state.block[node]
    entry.request = i
    entry.block = block
    entry.next_use = future.next_use.size if copy else future.next_of[block]
    entry.admitted = admitted
    entry.wanted = 0 if copy else future.wanted_of[block]
    entry.hits = 0
    entry.gap = int(record.gap)
    decision_log.note_facts(entry, record)
    if number % modes.stride == 0:
        log.block[number // modes.stride] = record
        log.request[number // modes.stride] = state.request[0]


@kernel(inline=True)
def _decide(state, requests, future, log, i, hits, rules, modes, admit):
    """Touch the missing blocks and ask for admission until the first refusal; return blocks held from the start."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    held, open_ = hits, True
    for k in range(hits, stop - start):
        block = requests.block_ids[start + k]
        node = st.node_of(state, block)
        copy = node != replay.NONE  # the last block, found, yet to be recomputed: it would be there twice
        if not copy:
            residency.known(state, block, k, 0.0)
            residency.touch(state, block)
            node = block
        if open_ and modes.oracle_admission:
            open_ = not copy and future.wanted[start + k] == 1
        elif open_ and rules.has_admit:
            open_ = admit(state.block[node], state.request[0], state.cache[0]) != 0.0
        if not (copy and open_):
            _know(future, block, start + k)
        _note_decision(state, future, log, node, block, copy, open_, modes, i)
        if open_:
            held += 1
        elif copy:
            if future.candidates.place_of[node] != replay.NONE:
                _forget(future, node)
                _follow(state, future, node)
        else:
            st.remember(state, block)
    return held


@kernel(inline=True)
def _make_room(state, future, log, need, rules, modes, priority, on_evict, i, counts):
    """Evict until `need` blocks are free: the policy's lowest score first, or the oracle's farthest next use."""
    spare = state.n[st.CAPACITY] - counts[replay.RESIDENT] - state.n[st.SCRATCH]
    if spare >= need:
        return
    if rules.scoring == residency.AT_EVICTION and not modes.oracle_eviction:
        residency.rescore(state, priority, i, counts)
    while spare < need and state.candidates.size[0] > 0:
        choice = future.candidates.node[0]
        victim = choice if modes.oracle_eviction else state.candidates.node[0]
        _note_eviction(state, future, log, victim, choice, modes, i)
        block = _block_of(state, victim)
        _forget(future, victim)
        parent = residency.evict(state, victim, rules, on_evict, i, counts)
        heap.remove(state.candidates, state.candidates.place_of[victim], not modes.oracle_eviction)
        if parent != replay.NONE:
            by_policy = not modes.oracle_eviction
            score = residency.current_score(state, parent, priority, rules, i, counts) if by_policy else 0.0
            heap.add(state.candidates, parent, score, state.block[parent].released, by_policy)
            _follow(state, future, parent)
        other = st.node_of(state, block)
        if other != replay.NONE and future.candidates.place_of[other] != replay.NONE:
            _forget(future, other)
            _follow(state, future, other)
        spare += 1


@kernel(inline=True)
def _enter(state, requests, future, log, i, hits, held, rules, on_insert, counts):
    """Insert what was admitted; return the node of a second copy, if one was made."""
    start = requests.offsets[i]
    copy = engine.insert(state, requests, i, hits, held, rules, on_insert, counts)
    for k in range(hits, held):
        block = requests.block_ids[start + k]
        _know(future, block, start + k)
        number = log.n[1] - (requests.offsets[i + 1] - start) + k
        node = copy if copy != replay.NONE else block
        log.decision_of[node] = number if number < log.admission.size else -1
    return copy


@kernel(inline=True)
def _let_go(state, future, node, rules, priority, i, counts):
    residency.let_go(state, node, rules, priority, i, counts)
    if state.candidates.place_of[node] != replay.NONE:
        _follow(state, future, node)


def _signature():
    labels = view.sample_labels()
    state = st.new_state(np.zeros(1, np.int32), 1, 1, 1, False)
    future = new_future(np.zeros(0, np.int64), np.zeros(0, np.uint8), 1, 1, 1)
    values = (replay.sample_requests(), labels, state, future, decision_log.new_log(1, 1, 1, 1))
    rules = residency.Rules(1, 0, False, False, False, False, False)
    switches = (numba.typeof(rules), numba.typeof(Modes(False, False, 1)))
    kinds = (numba.typeof(value) for value in values)
    return types.void(*kinds, engine.hooks_type(), *switches, types.int32[::1], types.int64[::1])


@kernel(_signature())
def replay_shadowed(requests, labels, state, future, log, hooks, rules, modes, hits_out, counts):
    """Replay all requests, one at a time, against a policy and the oracle.

    Args:
        requests: `replay.Requests`; generated blocks are not considered.
        labels: `view.Labels`.
        state: `state.new_state(...)`; holds the final state afterwards.
        future: `new_future(...)`.
        log: `decision_log.new_log(...)`.
        hooks: `engine.Hooks` of native functions.
        rules: `residency.Rules` without orphans; with the oracle's evictions its scoring must be AT_EVICTION.
        modes: `Modes`.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    priority, admit, on_hit, on_insert, on_evict = hooks
    state.cache[0].capacity_blocks = state.n[st.CAPACITY]
    state.cache[0].block_tokens = rules.block_tokens
    for i in range(requests.input_tokens.size):
        blocks = replay.prompt_blocks(requests, i, rules.block_tokens)
        if blocks > state.n[st.CAPACITY]:
            hits_out[i] = replay.UNSERVED
            counts[replay.UNSERVED_COUNT] += 1
            continue
        start, full, evicted = (
            requests.offsets[i],
            requests.offsets[i + 1] - requests.offsets[i],
            counts[replay.EVICTED],
        )
        hits, _ = engine.match(state, requests, i, rules.block_tokens)
        hits_out[i] = hits
        state.cache[0].now += 1.0
        view.observe(state.cache[0], requests.arrival_s[i], 0.0, state.n[st.PINNED] + state.n[st.SCRATCH], counts)
        view.follow(state.cache[0], labels, i)
        view.present(state.request[0], requests, labels, i, hits, st.known_blocks(state, requests, i, hits))
        for k in range(hits):
            block = requests.block_ids[start + k]
            _forget(future, st.node_of(state, block))
            _know(future, block, start + k)
        engine.touch_hits(state, requests, i, hits, rules, on_hit)
        held = _decide(state, requests, future, log, i, hits, rules, modes, admit)
        _make_room(state, future, log, blocks - hits, rules, modes, priority, on_evict, i, counts)
        copy = _enter(state, requests, future, log, i, hits, held, rules, on_insert, counts)
        state.n[st.SCRATCH] += blocks - held
        engine.account(state, full, hits, held, evicted, counts)
        view.observe(state.cache[0], requests.arrival_s[i], 0.0, state.n[st.PINNED] + state.n[st.SCRATCH], counts)
        state.n[st.SCRATCH] -= blocks - held
        for k in range(held - 1, -1, -1):
            last = k == full - 1 and copy != replay.NONE
            node = copy if last else st.node_of(state, requests.block_ids[start + k])
            _let_go(state, future, node, rules, priority, i, counts)
        if state.n[st.BROKEN] > 0:
            return
    for node in range(log.decision_of.size):
        if log.decision_of[node] >= 0:
            log.admission[log.decision_of[node]].hits = int(state.block[node].hits)
