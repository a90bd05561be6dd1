"""LeCaR: evicts by LRU or by LFU, at random; regret over ghosts moves the odds.

Vietri et al., HotStorage 2018; libCacheSim: LeCaR, `update-weight=1, lru-weight=0.5` (learning rate 0.45, discount
0.005^(1/capacity)). Ghosts: what one expert alone chose, half a capacity per expert; an id both chose is no ghost. A
ghost counts when its block is missing. Random numbers differ from libCacheSim's, and so do counts, a little. Under
prefix rules no orphans were seen: both experts take a child before its parent.
"""

from __future__ import annotations

import math

from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, ranks
from sim.core.zoo import state as st

RECENCY, BY_LRU, BY_LFU = range(3)
"""Lists: resident ids, ghosts of either expert."""
LRU, LFU = 0, 1
"""Registers: the weights."""
LEARNING, DISCOUNT = 0.45, 0.005


@kernel()
def _regret(state, blamed, other, age):
    """Lower the weight of the expert that evicted what is now missed, `age` accesses ago."""
    reward = DISCOUNT ** (age / state.whole[st.CAPACITY])
    lowered = state.real[blamed] * math.exp(-LEARNING * reward) + 1e-10
    total = lowered + state.real[other] + 2e-10
    state.real[blamed] = lowered / total
    state.real[other] = (state.real[other] + 1e-10) / total


@hooks.hook
def _hit(state, block):
    lists.move(state, RECENCY, block)
    state.nodes[block].count += 1
    ranks.rank(state, block, float(state.nodes[block].count))
    return True


@hooks.hook
def _miss(state, block):
    home, age = state.nodes[block].home, float(state.whole[st.CLOCK]) - state.nodes[block].before
    if home == BY_LRU:
        _regret(state, LRU, LFU, age)
    elif home == BY_LFU:
        _regret(state, LFU, LRU, age)
    if home >= 0:
        lists.unlink(state, block)
    return True


@hooks.hook
def _evict(state, block):
    oldest, rarest = lists.oldest_free(state, RECENCY), ranks.lowest_free(state)
    by_lru = oldest == rarest or st.random_below(state, 100) / 100.0 < state.real[LRU]
    victim = oldest if by_lru else rarest
    ranks.take_out(state, victim)
    lists.unlink(state, victim)
    st.leave(state, victim)
    state.nodes[victim].before = float(state.whole[st.CLOCK])
    if oldest != rarest:
        lists.remember(state, BY_LRU if by_lru else BY_LFU, victim, state.whole[st.CAPACITY] // 2)
    return True


@hooks.hook
def _insert(state, block):
    lists.push(state, RECENCY, block)
    state.nodes[block].count = 1
    ranks.rank(state, block, 1.0)
    return True


def _setup(state: st.State) -> None:
    state.real[LRU] = state.real[LFU] = 0.5
    state.whole[st.RANDOM] = 1


KITS = {"lecar": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), hooks.with_heap, _setup)}
