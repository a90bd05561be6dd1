"""SLRU: segmented LRU, four equal segments. No ghosts.

Karedla et al., "Caching strategies to improve disk system performance", IEEE Computer 1994; libCacheSim: SLRU,
`n-seg=4`. An id enters the lowest segment with room, a hit moves it one segment up, the tail of a segment that
overflows sinks one down. Evicts the oldest of the lowest segment. When the segments do not add up to the capacity,
libCacheSim also evicts when the lowest overflows; so do we in flat accounting, while in prefix accounting blocks leave
at allocation only. Under prefix rules orphans occur, few: segments overflow block by block.
"""

from __future__ import annotations

from sim.core.zoo import hooks, segments
from sim.core.zoo import state as st

SEGMENTS, LIMITS = 4, st.OWN
"""Lists 0..3, the register of the first one's limit."""


@hooks.hook
def _hit(state, block):
    segments.rise(state, 0, LIMITS, SEGMENTS, block)
    return True


@hooks.hook
def _insert(state, block):
    segments.enter(state, 0, LIMITS, SEGMENTS, block)
    return True


@hooks.hook
def _evict(state, block):
    segments.drop(state, segments.lowest_free(state, 0, SEGMENTS))
    return True


def _setup(state: st.State) -> None:
    state.whole[LIMITS : LIMITS + SEGMENTS] = state.whole[st.CAPACITY] // SEGMENTS


KITS = {"slru": hooks.Kit(hooks.Hooks(_hit, hooks.nothing, _evict, _insert), hooks.plain, _setup)}
