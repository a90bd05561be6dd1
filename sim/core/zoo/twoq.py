"""2Q: a FIFO for new ids, a ghost FIFO behind it, an LRU for ids asked for again while in the ghost FIFO.

Johnson and Shasha, VLDB 1994 (full version); libCacheSim: TwoQ, `Ain-size-ratio=0.25, Aout-size-ratio=0.5`. Ghosts:
ids that left A1in, half a capacity of them; they belong to A1out, whatever request brought the block. Under prefix
rules orphans occur: A1in keeps the order of first releases, whatever is hit.
"""

from __future__ import annotations

from sim.core import replay
from sim.core.zoo import hooks, lists, segments
from sim.core.zoo import state as st

IN, OUT, MAIN = range(3)
IN_LIMIT, OUT_LIMIT = st.OWN, st.OWN + 1


@hooks.hook
def _hit(state, block):
    if state.nodes[block].home == MAIN:
        lists.move(state, MAIN, block)
    return True


@hooks.hook
def _miss(state, block):
    state.nodes[block].mark = state.nodes[block].home == OUT
    if state.nodes[block].home == OUT:
        lists.unlink(state, block)
    return True


@hooks.hook
def _evict(state, block):
    young, old = lists.oldest_free(state, IN), lists.oldest_free(state, MAIN)
    if young != replay.NONE and (old == replay.NONE or lists.length(state, IN) > state.whole[IN_LIMIT]):
        segments.drop(state, young)
        lists.remember(state, OUT, young, state.whole[OUT_LIMIT])
    else:
        segments.drop(state, old)
    return True


@hooks.hook
def _insert(state, block):
    lists.push(state, MAIN if state.nodes[block].mark == 1 else IN, block)
    return True


def _setup(state: st.State) -> None:
    state.whole[IN_LIMIT] = int(state.whole[st.CAPACITY] * 0.25)
    state.whole[OUT_LIMIT] = int(state.whole[st.CAPACITY] * 0.5)


KITS = {"2q": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), hooks.plain, _setup)}
