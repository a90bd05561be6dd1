"""ARC: an LRU of ids accessed once, one of ids accessed again, and a ghost list behind each that moves the border.

Megiddo and Modha, FAST 2003; libCacheSim: ARC, no parameters, the border is a real number. Ghosts: ids that left T1
are in B1, those that left T2 in B2, together at most as many as fit; a ghost moves the border when its block is
missing, before anything is evicted for it. Blocks being computed are in no list: in prefix accounting the directory
counts them from their release on, and B1 and B2 shrink by more than one where a request needs it. Under prefix rules
orphans occur, few: a child can be in T2 while its parent is in T1.
"""

from __future__ import annotations

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, segments
from sim.core.zoo import state as st

T1, T2, B1, B2 = range(4)
BORDER = 0
"""Register: the target length of T1."""


@hooks.hook
def _hit(state, block):
    lists.move(state, T2, block)
    return True


@hooks.hook
def _miss(state, block):
    once, again = lists.length(state, B1), lists.length(state, B2)
    home = state.nodes[block].home
    state.nodes[block].mark = max(home, 0)
    if home == B1:
        state.real[BORDER] = min(state.real[BORDER] + max(again / once, 1.0), float(state.whole[st.CAPACITY]))
    elif home == B2:
        state.real[BORDER] = max(state.real[BORDER] - max(once / again, 1.0), 0.0)
    if home >= 0:
        lists.unlink(state, block)
    return True


@kernel(inline=True)
def _replace(state, from_b2):
    first, second = lists.oldest_free(state, T1), lists.oldest_free(state, T2)
    once, border = float(lists.length(state, T1)), state.real[BORDER]
    above = once > border or (once == border and from_b2)
    if first != replay.NONE and (second == replay.NONE or above):
        segments.drop(state, first)
        lists.push(state, B1, first)
    else:
        segments.drop(state, second)
        lists.push(state, B2, second)


@hooks.hook
def _evict(state, block):
    capacity, mark = state.whole[st.CAPACITY], state.nodes[block].mark
    if mark == 0:
        once = lists.length(state, T1)
        first = lists.oldest_free(state, T1)
        if once >= capacity and lists.length(state, B1) == 0 and first != replay.NONE:
            segments.drop(state, first)
            return True
        if once + lists.length(state, B1) >= capacity:
            while once + lists.length(state, B1) >= capacity and lists.length(state, B1) > 0:
                lists.forget_oldest(state, B1)
        else:
            known = once + lists.length(state, T2) + lists.length(state, B1)
            while known + lists.length(state, B2) >= 2 * capacity and lists.length(state, B2) > 0:
                lists.forget_oldest(state, B2)
    _replace(state, mark == B2)
    return True


@hooks.hook
def _insert(state, block):
    lists.push(state, T2 if state.nodes[block].mark > 0 else T1, block)
    state.nodes[block].mark = 0
    return True


KITS = {"arc": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), hooks.plain, hooks.no_setup)}
