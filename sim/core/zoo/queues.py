"""FIFO, LRU and MRU: one list.

LRU: Denning, "The working set model for program behavior", CACM 1968. libCacheSim: FIFO, LRU, no parameters; its MRU
is not in the Python package. No ghosts. Evicts the oldest (MRU: the newest) that no running request uses. Under prefix
rules LRU makes no orphans: a parent is released after its child. FIFO does, for a hit moves nothing, and MRU more, for
what was released last is the head of a prefix.
"""

from __future__ import annotations

from sim.core.zoo import hooks, lists
from sim.core.zoo import state as st

QUEUE = 0


@hooks.hook
def _touch(state, block):
    lists.move(state, QUEUE, block)
    return True


@hooks.hook
def _append(state, block):
    lists.push(state, QUEUE, block)
    return True


@hooks.hook
def _evict_oldest(state, block):
    victim = lists.oldest_free(state, QUEUE)
    lists.unlink(state, victim)
    st.leave(state, victim)
    return True


@hooks.hook
def _evict_newest(state, block):
    victim = lists.newest_free(state, QUEUE)
    lists.unlink(state, victim)
    st.leave(state, victim)
    return True


def _kit(hit: object, evict: object) -> hooks.Kit:
    return hooks.Kit(hooks.Hooks(hit, hooks.nothing, evict, _append), hooks.plain, hooks.no_setup)


KITS = {
    "fifo": _kit(hooks.nothing, _evict_oldest),
    "lru": _kit(_touch, _evict_oldest),
    "mru": _kit(_touch, _evict_newest),
}
