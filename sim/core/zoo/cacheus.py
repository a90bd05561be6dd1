"""CACHEUS: evicts by a scan-resistant LRU or by a churn-resistant LFU, at random; regret over ghosts moves the odds.

Rodriguez et al., FAST 2021. SR-LRU: new ids enter SR, ids hit there or remembered move to R, R's overflow sinks to SR
as "demoted"; history H remembers a capacity of evicted ids and their counts. Hits on demoted ids shrink SR, returns of
ids that never were in R grow it. CR-LFU: lowest count, of equal ones the latest. Ghosts of the experts: half a
capacity each. The learning rate starts at sqrt(2 ln 2 / capacity) and adapts every capacity of accesses, as in the
paper. libCacheSim (Cacheus, no parameters) differs: it draws the learning rate, keeps it by integer arithmetic, and
loses the flags that resize SR when it moves an id; its counts are a bound for ours, not equal. Under prefix rules
orphans occur, and many: of equal counts CR-LFU takes the latest released, the head of a prefix.
"""

from __future__ import annotations

import math

from sim.core import heap, replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, ranks
from sim.core.zoo import state as st

SR, R, H, BY_LRU, BY_LFU = range(5)
"""Lists; the last two hold second places, for an id can be in H and a ghost."""
NEW, DEMOTED, REMEMBERED = 1, 2, 4
"""Bits of `mark`: never was in R; sank from R; came from H."""
SR_LIMIT, NEW_IN_H, DEMOTED_HELD, HITS, STEPS, UNLEARNED = range(st.OWN, st.OWN + 6)
LRU, RATE, RATE_BEFORE, HIT_RATE = range(4)
"""Real registers: weight of LRU (LFU has the rest), learning rate, the one before, hit rate of the last period."""


@kernel()
def _learn(state):
    """Adapt the learning rate at the end of a period of one capacity of accesses."""
    state.whole[STEPS] += 1
    if state.whole[STEPS] < state.whole[st.CAPACITY]:
        return
    hit_rate = state.whole[HITS] / state.whole[STEPS]
    gain, change = hit_rate - state.real[HIT_RATE], state.real[RATE] - state.real[RATE_BEFORE]
    state.real[RATE_BEFORE], state.real[HIT_RATE] = state.real[RATE], hit_rate
    state.whole[STEPS], state.whole[HITS] = 0, 0
    if change != 0.0:
        sign = 1.0 if gain / change > 0.0 else -1.0
        state.real[RATE] = min(max(state.real[RATE] + sign * abs(state.real[RATE] * change), 0.001), 1.0)
        state.whole[UNLEARNED] = 0
        return
    if hit_rate == 0.0 or gain <= 0.0:
        state.whole[UNLEARNED] += 1
    if state.whole[UNLEARNED] >= 10:
        state.whole[UNLEARNED] = 0
        state.real[RATE] = 0.001 + st.random_below(state, 999) / 1000.0


@kernel(inline=True)
def _rank(state, block):
    """Of equal counts the latest leaves first."""
    ranks.take_out(state, block)
    heap.add(state.heap, block, float(state.nodes[block].count), -float(state.whole[st.CLOCK]), True)


@kernel()
def _enter_r(state, block):
    """Put an id that is in no list into R; what overflows sinks to SR."""
    while lists.length(state, R) > 0 and lists.length(state, R) >= state.whole[st.CAPACITY] - state.whole[SR_LIMIT]:
        sunk = lists.tail(state, R)
        if state.nodes[sunk].mark & DEMOTED == 0:
            state.nodes[sunk].mark |= DEMOTED
            state.whole[DEMOTED_HELD] += 1
        lists.move(state, SR, sunk)
    lists.push(state, R, block)


@kernel(inline=True)
def _resize(state, by):
    state.whole[SR_LIMIT] = min(max(state.whole[SR_LIMIT] + by, 1), max(state.whole[st.CAPACITY] - 1, 1))


@hooks.hook
def _hit(state, block):
    state.whole[HITS] += 1
    _learn(state)
    state.nodes[block].count += 1
    _rank(state, block)
    if state.nodes[block].home == R:
        lists.move(state, R, block)
        return True
    lists.unlink(state, block)
    _enter_r(state, block)
    if state.nodes[block].mark & DEMOTED != 0:
        _resize(state, -max(1, round(state.whole[NEW_IN_H] / state.whole[DEMOTED_HELD])))
        state.whole[DEMOTED_HELD] -= 1
    state.nodes[block].mark = 0
    return True


@kernel(inline=True)
def _forget(state, block):
    lists.unlink(state, block)
    state.whole[NEW_IN_H] -= state.nodes[block].mark & NEW


@hooks.hook
def _miss(state, block):
    _learn(state)
    ghost = st.second(state, block)
    home = state.nodes[ghost].home
    if home >= 0:
        lru, lfu = state.real[LRU], 1.0 - state.real[LRU]
        lowered = math.exp(-state.real[RATE])
        lru, lfu = (lru * lowered, lfu) if home == BY_LRU else (lru, lfu * lowered)
        state.real[LRU] = lru / (lru + lfu)
        lists.unlink(state, ghost)
    if state.nodes[block].home == H:
        if state.nodes[block].mark & NEW != 0:
            _resize(state, max(1, round(state.whole[DEMOTED_HELD] / state.whole[NEW_IN_H])))
        _forget(state, block)
        state.nodes[block].mark = REMEMBERED
    else:
        state.nodes[block].mark, state.nodes[block].count = NEW, 0
    return True


@hooks.hook
def _evict(state, block):
    oldest, rarest = lists.oldest_free(state, SR), ranks.lowest_free(state)
    if oldest == replay.NONE:
        oldest = lists.oldest_free(state, R)
    by_lru = oldest == rarest or st.random_below(state, 100) / 100.0 < state.real[LRU]
    victim = oldest if by_lru else rarest
    ranks.take_out(state, victim)
    lists.unlink(state, victim)
    st.leave(state, victim)
    if state.nodes[victim].mark & DEMOTED != 0:
        state.nodes[victim].mark = 0
        state.whole[DEMOTED_HELD] -= 1
    if lists.length(state, H) >= state.whole[st.CAPACITY]:
        _forget(state, lists.tail(state, H))
    lists.push(state, H, victim)
    state.whole[NEW_IN_H] += state.nodes[victim].mark & NEW
    if oldest != rarest:
        ghosts = BY_LRU if by_lru else BY_LFU
        lists.remember(state, ghosts, st.second(state, victim), state.whole[st.CAPACITY] // 2)
    return True


@hooks.hook
def _insert(state, block):
    state.nodes[block].count += 1
    _rank(state, block)
    if state.nodes[block].mark & REMEMBERED != 0:
        state.nodes[block].mark = 0
        _enter_r(state, block)
    else:
        lists.push(state, SR, block)
    return True


def _needs(capacity: int) -> st.Needs:
    return st.Needs(second_place=True, heap=True)


def _setup(state: st.State) -> None:
    capacity = int(state.whole[st.CAPACITY])
    state.whole[SR_LIMIT], state.whole[st.RANDOM] = max(1, capacity // 2), 1
    state.real[LRU], state.real[RATE] = 0.5, math.sqrt(2 * math.log(2) / capacity)


KITS = {"cacheus": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), _needs, _setup)}
