"""Hyperbolic caching: evict the lowest accesses per time in the cache among 64 ids drawn at random. No ghosts.

Blankstein, Sen, Freedman, USENIX ATC 2017; libCacheSim: Hyperbolic, `n-sample=64`, which draws buckets of its hash
table, so that counts differ a little. Draws in use do not count; if all are, the next free one after the last is
taken. Under prefix rules orphans occur: blocks are drawn one by one.
"""

from __future__ import annotations

import numpy as np

from sim.core import heap, replay
from sim.core.zoo import hooks
from sim.core.zoo import state as st

SAMPLES = 64


@hooks.hook
def _hit(state, block):
    state.nodes[block].count += 1
    return True


@hooks.hook
def _insert(state, block):
    state.nodes[block].count = 1
    state.nodes[block].when = float(state.whole[st.CLOCK])
    heap.add(state.heap, block, 0.0, 0.0, False)
    return True


@hooks.hook
def _evict(state, block):
    best, lowest, place = replay.NONE, np.inf, 0
    for _ in range(SAMPLES):
        place = st.random_below(state, state.heap.size[0])
        drawn = state.nodes[state.heap.node[place]]
        rate = drawn.count / max(float(state.whole[st.CLOCK]) - drawn.when, 1.0)
        if drawn.pins == 0 and rate < lowest:
            best, lowest = state.heap.node[place], rate
    while best == replay.NONE:
        place = (place + 1) % state.heap.size[0]
        if state.nodes[state.heap.node[place]].pins == 0:
            best = state.heap.node[place]
    heap.remove(state.heap, state.heap.place_of[best], False)
    st.leave(state, best)
    return True


def _setup(state: st.State) -> None:
    state.whole[st.RANDOM] = 1


KITS = {"hyperbolic": hooks.Kit(hooks.Hooks(_hit, hooks.nothing, _evict, _insert), hooks.with_heap, _setup)}
