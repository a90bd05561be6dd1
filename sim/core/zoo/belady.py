"""Belady's MIN: evict the id whose next reference lies farthest. Flat accounting only; needs the future.

Belady, IBM Systems Journal 1966; libCacheSim: Belady. Under prefix accounting see `sim.bounds.optimum`.
"""

from __future__ import annotations

from sim.core.zoo import hooks, ranks
from sim.core.zoo import state as st


@hooks.hook
def _note_next_use(state, block):
    ranks.rank(state, block, -float(state.future[state.whole[st.CLOCK] - 1]))
    return True


@hooks.hook
def _evict_farthest(state, block):
    ranks.drop_lowest(state)
    return True


KITS = {
    "belady": hooks.Kit(
        hooks.Hooks(_note_next_use, hooks.nothing, _evict_farthest, _note_next_use), hooks.with_heap, hooks.no_setup
    )
}
