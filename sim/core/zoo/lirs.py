"""LIRS: ids with a short distance between their last two accesses stay; the others share a small queue.

Jiang and Zhang, SIGMETRICS 2002; libCacheSim: LIRS, 1% of the capacity for the queue Q, stack S of at most twice the
capacity. Ghosts: ids in S that are not resident, oldest forgotten first. As in libCacheSim a hit in Q only lets an LIR
id sink without taking its place. In prefix accounting Q may exceed its share: blocks leave at allocation only. Under
prefix rules orphans occur, and many: what is LIR is decided block by block.
"""

from __future__ import annotations

import numpy as np

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, segments
from sim.core.zoo import state as st

S, Q, GHOST = range(3)
"""S holds the second places of ids, Q and GHOST the first ones; `mark` is 1 for LIR ids."""
HIR_LIMIT, LIR_LIMIT, LIRS = st.OWN, st.OWN + 1, st.OWN + 2


@kernel(inline=True)
def _id_of(state, node):
    return np.uint32(node - np.uint32(state.whole[st.IDS]) - np.uint32(1))


@kernel(inline=True)
def _in_stack(state, block):
    return state.nodes[st.second(state, block)].home == S


@kernel()
def _prune(state):
    """Take ids off the bottom of S until an LIR id is there."""
    end = lists.sentinel(state, S)
    node = state.nodes[end].prev
    while node != state.nodes[end].next and state.nodes[_id_of(state, node)].mark == 0:
        block = _id_of(state, node)
        if state.nodes[block].home == GHOST:
            lists.unlink(state, block)
        lists.unlink(state, node)
        node = state.nodes[end].prev


@kernel()
def _evict_from_queue(state, spared):
    """Evict the oldest free id of Q but one; return whether there was any."""
    end = lists.sentinel(state, Q)
    victim = state.nodes[end].prev
    while victim != end and (victim == spared or state.nodes[victim].pins > 0):
        victim = state.nodes[victim].prev
    if victim == end:
        return False
    segments.drop(state, victim)
    if _in_stack(state, victim):
        lists.push(state, GHOST, victim)
    return True


@kernel()
def _make_lir_room(state, spared):
    """Let LIR ids at the bottom of S sink to Q until there is room for one more."""
    while state.whole[LIRS] >= state.whole[LIR_LIMIT] and state.whole[LIRS] > 0:
        _prune(state)  # with few LIR ids the bottom may be one that was there before the first of them
        node = lists.tail(state, S)
        lists.unlink(state, node)
        block = _id_of(state, node)
        state.nodes[block].mark = 0
        state.whole[LIRS] -= 1
        if state.whole[st.STRICT] == 1:
            while lists.length(state, Q) >= state.whole[HIR_LIMIT] and _evict_from_queue(state, spared):
                pass
        lists.push(state, Q, block)
        _prune(state)


@kernel(inline=True)
def _limit_stack(state):
    while lists.length(state, S) > 2 * state.whole[st.CAPACITY] and lists.length(state, GHOST) > 0:
        block = lists.tail(state, GHOST)
        lists.unlink(state, st.second(state, block))
        lists.unlink(state, block)


@kernel(inline=True)
def _become_lir(state, block):
    _make_lir_room(state, block)
    state.nodes[block].mark = 1
    state.whole[LIRS] += 1


@hooks.hook
def _hit(state, block):
    if _in_stack(state, block):
        lists.move(state, S, st.second(state, block))
        if state.nodes[block].mark == 1:
            _prune(state)
        else:
            lists.unlink(state, block)
            _become_lir(state, block)
    else:
        lists.move(state, Q, block)
        _make_lir_room(state, block)
        lists.push(state, S, st.second(state, block))
    _limit_stack(state)
    return True


@hooks.hook
def _miss(state, block):
    if _in_stack(state, block):
        lists.move(state, S, st.second(state, block))
        if state.nodes[block].home == GHOST:
            lists.unlink(state, block)
    return True


@hooks.hook
def _evict(state, block):
    if _evict_from_queue(state, replay.NONE):
        return True
    node = lists.tail(state, S)
    while state.nodes[_id_of(state, node)].mark == 0 or state.nodes[_id_of(state, node)].pins > 0:
        node = state.nodes[node].prev
    state.nodes[_id_of(state, node)].mark = 0
    lists.unlink(state, node)
    st.leave(state, _id_of(state, node))
    state.whole[LIRS] -= 1
    _prune(state)
    return True


@hooks.hook
def _insert(state, block):
    state.nodes[block].mark = 0
    if _in_stack(state, block):
        _become_lir(state, block)
    elif state.whole[LIRS] < state.whole[LIR_LIMIT]:
        lists.push(state, S, st.second(state, block))
        state.nodes[block].mark = 1
        state.whole[LIRS] += 1
    else:
        lists.push(state, S, st.second(state, block))
        lists.push(state, Q, block)
    _limit_stack(state)
    return True


def _needs(capacity: int) -> st.Needs:
    return st.Needs(second_place=True)


def _setup(state: st.State) -> None:
    state.whole[HIR_LIMIT] = max(1, int(0.01 * state.whole[st.CAPACITY]))
    state.whole[LIR_LIMIT] = state.whole[st.CAPACITY] - state.whole[HIR_LIMIT]


KITS = {"lirs": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), _needs, _setup)}
