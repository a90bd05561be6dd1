"""S3-FIFO: a small FIFO that most ids leave soon, a main FIFO with a second chance, and a ghost FIFO.

Yang et al., SOSP 2023; libCacheSim: S3FIFO, `small-size-ratio=0.1, ghost-size-ratio=0.9, move-to-main-threshold=2`.
Ghosts: ids that left the small FIFO; a ghost that is asked for enters the main FIFO. Until the first eviction, ids
that the small FIFO has no room for enter the main one. A block in use stays where it is. The small FIFO holds at least
one id (libCacheSim needs two). Under prefix rules orphans occur: both FIFOs keep the order of entry, and ghosts return
one by one.
"""

from __future__ import annotations

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, segments
from sim.core.zoo import state as st

SMALL, MAIN, GHOST = range(3)
SMALL_LIMIT, GHOST_LIMIT, EVICTING = st.OWN, st.OWN + 1, st.OWN + 2
THRESHOLD = 2
"""Hits in the small FIFO that make an id worth the main one."""


@hooks.hook
def _hit(state, block):
    state.nodes[block].count += 1
    return True


@hooks.hook
def _miss(state, block):
    state.nodes[block].mark = state.nodes[block].home == GHOST
    if state.nodes[block].home == GHOST:
        lists.unlink(state, block)
    return True


@kernel(inline=True)
def _evict_small(state):
    victim = lists.oldest_free(state, SMALL)
    while victim != replay.NONE:
        if state.nodes[victim].count < THRESHOLD:
            segments.drop(state, victim)
            lists.remember(state, GHOST, victim, state.whole[GHOST_LIMIT])
            return True
        state.nodes[victim].count = 0
        lists.move(state, MAIN, victim)
        victim = lists.oldest_free(state, SMALL)
    return False


@kernel(inline=True)
def _evict_main(state):
    victim = lists.oldest_free(state, MAIN)
    if victim == replay.NONE:
        return False
    while state.nodes[victim].count > 0:
        state.nodes[victim].count = min(state.nodes[victim].count, 3) - 1
        lists.move(state, MAIN, victim)
        victim = lists.oldest_free(state, MAIN)
    segments.drop(state, victim)
    return True


@hooks.hook
def _evict(state, block):
    state.whole[EVICTING] = 1
    main_limit = state.whole[st.CAPACITY] - state.whole[SMALL_LIMIT]
    main_first = lists.length(state, MAIN) > main_limit or lists.length(state, SMALL) == 0
    if main_first and _evict_main(state):
        return True
    if not _evict_small(state):
        _evict_main(state)
    return True


@hooks.hook
def _insert(state, block):
    small_full = lists.length(state, SMALL) >= state.whole[SMALL_LIMIT]
    main = state.nodes[block].mark == 1 or (state.whole[EVICTING] == 0 and small_full)
    state.nodes[block].count = 0
    lists.push(state, MAIN if main else SMALL, block)
    return True


def _setup(state: st.State) -> None:
    state.whole[SMALL_LIMIT] = max(1, int(state.whole[st.CAPACITY] * 0.1))
    state.whole[GHOST_LIMIT] = int(state.whole[st.CAPACITY] * 0.9)


KITS = {"s3-fifo": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), hooks.plain, _setup)}
