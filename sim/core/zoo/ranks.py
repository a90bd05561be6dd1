"""Policies that keep resident ids in a heap: LFU, LFU with ghost counts, LFUDA, GDSF, LRU-2. No ghost lists.

A block in use that reaches the top of the heap is set aside; its release is an access and puts it back. Ties are
broken by the last change of the score, oldest first, as in libCacheSim (its LFU appends to the list of a frequency).

LFU: counts of resident ids only. "lfu-ghost": counts survive eviction, for ever and for every id. LFUDA: Arlitt et
al., "Evaluating content management techniques for Web proxy caches", 2000, as libCacheSim 0.3.5 codes it: a hit adds
the cache age (the paper adds 1 to a count and the age once), a new id starts at age + 1. GDSF: Cherkasova, HP Labs
1998; size and cost are 1, so the score is age + accesses. In libCacheSim the new object is inserted before the
eviction and may be evicted at once; in prefix accounting it is in use and stays. LRU-2: O'Neil et al., SIGMOD 1993,
libCacheSim `k=2`: ids seen once leave first, oldest first, then the one whose last but one access is oldest; history
is dropped at eviction (the paper retains it for a while). Under prefix rules no orphans were seen: a parent is
accessed with every child and released after it.
"""

from __future__ import annotations

from sim.core import heap, replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists
from sim.core.zoo import state as st

ONCE = 0
"""List of LRU-2: ids accessed once."""

AGE = 0
"""Register of LFUDA and GDSF: the score of what was evicted last."""


@kernel(inline=True)
def take_out(state, block):
    """Take an id out of the heap, unless it is set aside."""
    place = state.heap.place_of[block]
    if place != replay.NONE:
        heap.remove(state.heap, place, True)


@kernel(inline=True)
def rank(state, block, score):
    """Give an id a score, now."""
    take_out(state, block)
    state.nodes[block].when = score
    heap.add(state.heap, block, score, float(state.whole[st.CLOCK]), True)


@kernel(inline=True)
def lowest_free(state):
    """Return the id with the lowest score that no running request uses, or `replay.NONE`; set aside those before."""
    while state.heap.size[0] > 0:
        block = state.heap.node[0]
        if state.nodes[block].pins == 0:
            return block
        heap.remove(state.heap, 0, True)
    return replay.NONE


@kernel(inline=True)
def drop_lowest(state):
    """Evict the id with the lowest score; return the score."""
    victim = lowest_free(state)
    heap.remove(state.heap, 0, True)
    st.leave(state, victim)
    return state.nodes[victim].when


@hooks.hook
def _count(state, block):
    state.nodes[block].count += 1
    rank(state, block, float(state.nodes[block].count))
    return True


@hooks.hook
def _count_from_one(state, block):
    state.nodes[block].count = 1
    rank(state, block, 1.0)
    return True


@hooks.hook
def _evict_lowest(state, block):
    drop_lowest(state)
    return True


@kernel(inline=True)
def _raise_age(state):
    """The age is the lowest score there is, unless that is lower."""
    first = lowest_free(state)
    if first != replay.NONE:
        state.real[AGE] = max(state.real[AGE], state.nodes[first].when)


@hooks.hook
def _lfuda_hit(state, block):
    score, age = state.nodes[block].when, state.real[AGE]
    take_out(state, block)
    if age == score:
        _raise_age(state)
    rank(state, block, score + age)
    return True


@hooks.hook
def _lfuda_insert(state, block):
    rank(state, block, state.real[AGE] + 1.0)
    return True


@hooks.hook
def _lfuda_evict(state, block):
    state.real[AGE] = drop_lowest(state)
    _raise_age(state)
    return True


@hooks.hook
def _gdsf_hit(state, block):
    state.nodes[block].count += 1
    rank(state, block, state.real[AGE] + float(state.nodes[block].count))
    return True


@hooks.hook
def _gdsf_miss(state, block):
    state.nodes[block].when = state.real[AGE] + 1.0
    return True


@hooks.hook
def _gdsf_evict(state, block):
    if state.whole[st.STRICT] == 1 and state.nodes[lowest_free(state)].when > state.nodes[block].when:
        state.real[AGE] = state.nodes[block].when
        return False
    state.real[AGE] = drop_lowest(state)
    return True


@hooks.hook
def _gdsf_insert(state, block):
    state.nodes[block].count = 1
    rank(state, block, state.nodes[block].when if state.whole[st.STRICT] == 1 else state.real[AGE] + 1.0)
    return True


@hooks.hook
def _lru2_hit(state, block):
    node = state.nodes[block]
    if node.home == ONCE:
        lists.unlink(state, block)
    last_but_one, node.before = node.before, float(state.whole[st.CLOCK])
    rank(state, block, last_but_one)
    return True


@hooks.hook
def _lru2_insert(state, block):
    state.nodes[block].before = float(state.whole[st.CLOCK])
    lists.push(state, ONCE, block)
    return True


@hooks.hook
def _lru2_evict(state, block):
    victim = lists.oldest_free(state, ONCE)
    if victim == replay.NONE:
        drop_lowest(state)
    else:
        lists.unlink(state, victim)
        st.leave(state, victim)
    return True


def _kit(*functions: object) -> hooks.Kit:
    return hooks.Kit(hooks.Hooks(*functions), hooks.with_heap, hooks.no_setup)


KITS = {
    "lfu": _kit(_count, hooks.nothing, _evict_lowest, _count_from_one),
    "lfu-ghost": _kit(_count, hooks.nothing, _evict_lowest, _count),
    "lfuda": _kit(_lfuda_hit, hooks.nothing, _lfuda_evict, _lfuda_insert),
    "gdsf": _kit(_gdsf_hit, _gdsf_miss, _gdsf_evict, _gdsf_insert),
    "lru-k": _kit(_lru2_hit, hooks.nothing, _lru2_evict, _lru2_insert),
}
