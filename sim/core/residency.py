"""The life of one block in the cache: it enters, is touched, pinned and let go, becomes a candidate, is evicted.

Knows one block and its parent; must not know requests' paths, admission or time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.core import fields, heap, replay
from sim.core import state as st
from sim.core.compiled import kernel

AT_EVICTION, WHEN_CANDIDATE, AT_RELEASE = range(3)
"""When a score is computed: for all candidates whenever room is made; once, when a block becomes a candidate (equal
to the first for scores that read nothing that moves); at release (touch-time scoring)."""


class Rules(NamedTuple):
    """Switches of one replay."""

    block_tokens: int
    scoring: int
    orphans: bool
    """Whether a block may be evicted while a block that continues it is resident."""
    has_admit: bool
    has_on_hit: bool
    has_on_insert: bool
    has_on_evict: bool
    eviction_sample: int = 0
    """Candidates drawn per eviction; 0: all."""
    eviction_seed: int = 0


@kernel(inline=True)
def score_of(state, node, priority, i, counts):
    """Ask the policy for a score and note the first request at which it is not finite."""
    score = priority(state.block[node], state.cache[0])
    counts[replay.PRIORITY_CALLS] += 1
    if not np.isfinite(score) and state.n[st.BROKEN] == 0:
        state.n[st.BROKEN] = i + 1
    return score


@kernel(inline=True)
def _evictable(state, node, rules):
    """Return whether nothing uses a node and, unless orphans are allowed, nothing resident continues it."""
    return state.pins[node] == 0 and (rules.orphans or state.block[node].children <= 0)


@kernel(inline=True)
def current_score(state, node, priority, rules, i, counts):
    """Return the score a node has as a candidate now."""
    if rules.scoring == AT_RELEASE:
        return state.touch_score[node]
    return score_of(state, node, priority, i, counts)


@kernel(inline=True)
def evict(state, node, rules, on_evict, i, counts):
    """Evict a node that is a candidate; return its parent if that becomes one by this, else `replay.NONE`."""
    n_ids = state.status.size
    block = state.copy_of[node - n_ids] if node >= n_ids else node
    if rules.has_on_evict:
        on_evict(state.block[node], state.cache[0])
    if state.n[st.LOGGED] < state.log_block.size:
        state.log_request[state.n[st.LOGGED]] = i
        state.log_block[state.n[st.LOGGED]] = block
        state.n[st.LOGGED] += 1
    counts[replay.EVICTED] += 1
    counts[replay.RESIDENT] -= 1
    if node >= n_ids:
        before = block
        while state.next_copy[before] != node:
            before = state.next_copy[before]
        state.next_copy[before] = state.next_copy[node]
        state.next_copy[node] = replay.NONE
        state.spare[state.n[st.SPARES]] = node
        state.n[st.SPARES] += 1
        if state.status[block] == st.COPY_ONLY and state.next_copy[block] == replay.NONE:
            state.block[block] = state.block[node]
            st.remember(state, block)
    elif state.next_copy[block] != replay.NONE:
        state.status[block] = st.COPY_ONLY
    else:
        st.remember(state, block)
    above = state.parents[block]
    if above == replay.NONE:
        return replay.NONE
    parent = st.node_of(state, above)
    if parent == replay.NONE:
        return replay.NONE
    state.block[parent].children = max(state.block[parent].children - 1.0, 0.0)
    if state.candidates.place_of[parent] == replay.NONE and _evictable(state, parent, rules):
        return parent
    return replay.NONE


@kernel(inline=True)
def rescore(state, priority, i, counts):
    """Score all candidates and put them in order."""
    for place in range(state.candidates.size[0]):
        state.candidates.score[place] = score_of(state, state.candidates.node[place], priority, i, counts)
    heap.order(state.candidates)


@kernel(inline=True)
def _draw(state, seed):
    """Return the next random number of a replay (SplitMix64, Steele et al., OOPSLA 2014)."""
    state.n[st.DRAWS] += 1
    mixed = np.uint64(seed) + np.uint64(state.n[st.DRAWS]) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@kernel()
def _make_room_sampled(state, spare, need, rules, priority, on_evict, i, counts):
    """Evict the lowest score of a few candidates, drawn with replacement, until `need` blocks are free.

    Places of the heap are drawn, in order or not: each candidate has one.
    """
    ordered = rules.scoring != AT_EVICTION
    while spare < need and state.candidates.size[0] > 0:
        node, least, tie = replay.NONE, np.inf, np.inf
        for _ in range(rules.eviction_sample):
            place = _draw(state, rules.eviction_seed) % np.uint64(state.candidates.size[0])
            drawn = state.candidates.node[place]
            score = state.candidates.score[place] if ordered else score_of(state, drawn, priority, i, counts)
            released = state.candidates.tie[place]
            if node == replay.NONE or score < least or (score == least and released < tie):
                node, least, tie = drawn, score, released
        parent = evict(state, node, rules, on_evict, i, counts)
        heap.remove(state.candidates, state.candidates.place_of[node], ordered)
        if parent != replay.NONE:
            score = current_score(state, parent, priority, rules, i, counts) if ordered else 0.0
            heap.add(state.candidates, parent, score, state.block[parent].released, ordered)
        spare += 1


@kernel(inline=True)
def make_room(state, need, rules, priority, on_evict, i, counts):
    """Evict lowest scores first until `need` blocks are free; scores are taken once, at the start."""
    spare = state.n[st.CAPACITY] - counts[replay.RESIDENT] - state.n[st.SCRATCH]
    if spare >= need:
        return
    if rules.eviction_sample > 0:
        _make_room_sampled(state, spare, need, rules, priority, on_evict, i, counts)
        return
    if rules.scoring == AT_EVICTION:
        rescore(state, priority, i, counts)
    while spare < need and state.candidates.size[0] > 0:
        parent = evict(state, state.candidates.node[0], rules, on_evict, i, counts)
        if parent == replay.NONE:
            heap.remove(state.candidates, 0, True)
        else:
            score = current_score(state, parent, priority, rules, i, counts)
            heap.replace_first(state.candidates, parent, score, state.block[parent].released)
        spare += 1


@kernel(inline=True)
def pin(state, node, ordered):
    """Use a node; it is no candidate while it is used."""
    if state.pins[node] == 0:
        state.n[st.PINNED] += 1
        place = state.candidates.place_of[node]
        if place != replay.NONE:
            heap.remove(state.candidates, place, ordered)
    state.pins[node] += 1


@kernel(inline=True)
def touch(state, node):
    """Note an access by the request being handled."""
    record, request, cache = state.block[node], state.request[0], state.cache[0]
    if record.seen > 0:
        record.gap = cache.now - record.last_access
        record.gap_s = cache.now_s - record.last_access_s
    else:
        record.gap = fields.NEVER
        record.gap_s = fields.NEVER
    record.last_access = cache.now
    record.last_access_s = cache.now_s
    record.seen += 1
    record.prompt_blocks = request.blocks
    record.output_tokens = request.output_tokens
    record.inferred_turn = request.inferred_turn
    record.turn_gap = request.turn_gap
    record.turn = request.turn
    record.tenant = request.tenant
    record.type = request.type
    record.priority = request.priority


@kernel(inline=True)
def enter(state, node, block, rules, on_insert, counts):
    """Make a touched node resident and pinned."""
    record = state.block[node]
    record.inserted = state.cache[0].now
    record.inserted_s = state.cache[0].now_s
    record.hits = 0.0
    record.children = 0.0
    above = state.parents[block]
    if above != replay.NONE:
        parent = st.node_of(state, above)
        if parent != replay.NONE:
            state.block[parent].children += 1
            place = state.candidates.place_of[parent]
            if place != replay.NONE and not rules.orphans:
                # Generated behind a further copy: lookups, and so children, go by the first, which nothing pins.
                heap.remove(state.candidates, place, rules.scoring != AT_EVICTION)
    state.pins[node] = 1
    state.n[st.PINNED] += 1
    counts[replay.RESIDENT] += 1
    if rules.has_on_insert:
        on_insert(record, state.request[0], state.cache[0])


@kernel(inline=True)
def known(state, block, depth, generated):
    """Bring a missing block's record into use."""
    if state.status[block] == st.GHOST:
        st.recall(state, block)
        state.status[block] = st.ABSENT
    state.block[block].depth = depth
    state.block[block].generated = generated
    state.block[block].hits = 0.0
    state.block[block].children = 0.0


@kernel(inline=True)
def let_go(state, node, rules, priority, i, counts):
    """Unpin a node; if nothing uses it any more it is released now."""
    state.pins[node] -= 1
    if state.pins[node] > 0:
        return
    state.n[st.PINNED] -= 1
    state.released[0] += 1
    state.block[node].released = state.released[0]
    if rules.scoring == AT_RELEASE:
        state.touch_score[node] = score_of(state, node, priority, i, counts)
    if _evictable(state, node, rules):
        score = 0.0 if rules.scoring == AT_EVICTION else current_score(state, node, priority, rules, i, counts)
        heap.add(state.candidates, node, score, state.block[node].released, rules.scoring != AT_EVICTION)
