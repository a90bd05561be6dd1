"""LHD: evict the lowest expected hits per time left, learned per class of past ages, among a few ids drawn at random.

Beckmann, Chen, Cidon, NSDI 2018; libCacheSim: LHD with its constants: 8 draws (32 after 50 reconfigurations) and the
last 8 ids admitted below the victims' density; 16 classes by the ages of the last two hits; ages in steps of 1,024
accesses at first; densities learned every 2^20 accesses, until then 17 + class over age; 1 in 32 ids is an explorer
and stays, 1% of the capacity at most. No ghosts. Random numbers differ from libCacheSim's, and so do counts, a little.
Draws in use do not count; if all are, the next free one after the last is taken. Under prefix rules orphans occur, and
many: blocks are drawn one by one, and age in steps wider than a prompt.
"""

from __future__ import annotations

import numpy as np

from sim.core import heap, replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks
from sim.core.zoo import state as st

AGES, CLASSES, ADMISSIONS = 20_000, 16, 8
PERIOD, DECAY, EXPLORING = 1 << 20, 0.9, 50
TIME, SHIFT, PERIODS, BUDGET, NEXT, RECENT = range(st.OWN, st.OWN + 6)
"""Registers: accesses, age step as a power of two, reconfigurations, ids that may still become explorers, admissions
noted, and the first of `ADMISSIONS` noted ids plus one."""
VICTIM, OBJECTS, MASS, HITS = range(4)
"""Real registers: moving averages, then hits, evictions and densities of each class and age."""
EVICTIONS, DENSITY = HITS + CLASSES * AGES, HITS + 2 * CLASSES * AGES


@kernel(inline=True)
def _age(state, block):
    return min((state.whole[TIME] - np.int64(state.nodes[block].when)) >> state.whole[SHIFT], AGES - 1)


@kernel(inline=True)
def _class_start(state, block):
    """Return the offset of the class of an id; the younger its last two hits were, the higher the class."""
    age = np.int64(state.nodes[block].count) + np.int64(state.nodes[block].before)
    level = CLASSES - 1 if age == 0 else 0
    while 0 < age < AGES and level < CLASSES - 1:
        age <<= 1
        level += 1
    return level * AGES


@kernel(inline=True)
def _density(state, block):
    age = _age(state, block)
    if age == AGES - 1:
        return -np.inf
    return state.real[DENSITY + _class_start(state, block) + age] + state.nodes[block].mark


@kernel()
def _rescale(state, delta):
    """Compress (delta > 0) or stretch the distributions by a power of two."""
    for start in range(HITS, DENSITY, AGES):
        events = state.real[start : start + AGES]
        if delta > 0:
            for a in range(AGES >> delta):
                total = 0.0
                for k in range(1 << delta):
                    total += events[(a << delta) + k]
                events[a] = total
            events[AGES >> delta : AGES - 1] = 0.0
        else:
            for a in range(AGES >> -delta, AGES - 1):
                events[AGES - 1] += events[a]
            for a in range(AGES - 2, -1, -1):
                events[a] = events[a >> -delta] / (1 << -delta)


@kernel()
def _adapt_ages(state):
    """Choose the age step by the number of ids, after the 6th and the 26th period."""
    state.real[OBJECTS] = state.real[OBJECTS] * DECAY + state.whole[st.RESIDENT]
    state.real[MASS] = state.real[MASS] * DECAY + 1.0
    if state.whole[PERIODS] == 5 or state.whole[PERIODS] == 25:
        step, shift = state.real[OBJECTS] / state.real[MASS] / (0.01 * AGES), 1
        while (1 << shift) < step:
            shift += 1
        delta = shift - state.whole[SHIFT]
        state.whole[SHIFT] = shift
        state.real[OBJECTS] *= 8.0
        state.real[MASS] *= 8.0
        if delta != 0:
            _rescale(state, delta)


@kernel()
def _learn(state):
    """Turn the events of each class into expected hits per time left."""
    for i in range(HITS, DENSITY):
        state.real[i] *= DECAY
    _adapt_ages(state)
    for start in range(0, CLASSES * AGES, AGES):
        hits = state.real[HITS + start + AGES - 1]
        events = hits + state.real[EVICTIONS + start + AGES - 1]
        lifetime = events
        for a in range(start + AGES - 2, start - 1, -1):
            hits += state.real[HITS + a]
            events += state.real[HITS + a] + state.real[EVICTIONS + a]
            lifetime += events
            state.real[DENSITY + a] = hits / lifetime if events > 1e-5 else 0.0
    state.whole[PERIODS] += 1


@kernel()
def _accessed(state, block):
    """Note an access; return whether the id was drawn to explore."""
    state.nodes[block].when = state.whole[TIME]
    drawn = st.random_below(state, 32) == 0
    state.nodes[block].mark = drawn and state.whole[BUDGET] > 0 and state.whole[PERIODS] < EXPLORING
    state.whole[BUDGET] -= state.nodes[block].mark
    return drawn


@kernel(inline=True)
def _tick(state):
    state.whole[TIME] += 1
    if state.whole[TIME] % PERIOD == 0:
        _learn(state)


@hooks.hook
def _hit(state, block):
    age = _age(state, block)
    state.real[HITS + _class_start(state, block) + age] += 1.0
    state.whole[BUDGET] += state.nodes[block].mark
    state.nodes[block].before = state.nodes[block].count
    state.nodes[block].count = age
    _accessed(state, block)
    _tick(state)
    return True


@hooks.hook
def _insert(state, block):
    heap.add(state.heap, block, 0.0, 0.0, False)
    state.nodes[block].count, state.nodes[block].before = 0, AGES
    if not _accessed(state, block) and _density(state, block) < state.real[VICTIM]:
        state.whole[RECENT + state.whole[NEXT] % ADMISSIONS] = block + 1
        state.whole[NEXT] += 1
    _tick(state)
    return True


@kernel()
def _victim(state):
    best, lowest, place = replay.NONE, np.inf, 0
    draws = 32 if state.whole[PERIODS] > EXPLORING else 8
    for k in range(draws + ADMISSIONS):
        if k < draws:
            place = st.random_below(state, state.heap.size[0])
            block = state.heap.node[place]
        else:
            block = np.uint32(state.whole[RECENT + k - draws] - 1)
            if block == replay.NONE or state.heap.place_of[block] == replay.NONE:
                continue
        density = _density(state, block)
        if state.nodes[block].pins == 0 and (best == replay.NONE or density < lowest):
            best, lowest = block, density
    while best == replay.NONE:
        place = (place + 1) % state.heap.size[0]
        if state.nodes[state.heap.node[place]].pins == 0:
            best = state.heap.node[place]
    return best, lowest


@hooks.hook
def _evict(state, block):
    victim, density = _victim(state)
    state.real[VICTIM] = DECAY * state.real[VICTIM] + (1.0 - DECAY) * max(density, -3.4e38)
    state.real[EVICTIONS + _class_start(state, victim) + _age(state, victim)] += 1.0
    state.whole[BUDGET] += state.nodes[victim].mark
    heap.remove(state.heap, state.heap.place_of[victim], False)
    st.leave(state, victim)
    return True


def _needs(capacity: int) -> st.Needs:
    return st.Needs(heap=True, real=HITS + 3 * CLASSES * AGES)


def _setup(state: st.State) -> None:
    state.whole[SHIFT], state.whole[st.RANDOM] = 10, 1
    state.whole[BUDGET] = int(state.whole[st.CAPACITY] * 0.01)
    density = (np.arange(CLASSES) + 17.0)[:, None] / (np.arange(AGES) + 1.0)
    state.real[DENSITY:] = density.ravel()


KITS = {"lhd": hooks.Kit(hooks.Hooks(_hit, hooks.nothing, _evict, _insert), _needs, _setup)}
