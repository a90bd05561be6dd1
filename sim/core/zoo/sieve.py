"""SIEVE: a FIFO and a hand that moves from the oldest to the newest, sparing what was accessed since it last passed.

Zhang et al., NSDI 2024; libCacheSim: Sieve, no parameters. No ghosts. A block in use is passed over. Under prefix
rules no orphans were seen: a parent is spared whenever its child is.
"""

from __future__ import annotations

import numpy as np

from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists
from sim.core.zoo import state as st

QUEUE = 0
HAND = st.OWN
"""Register: the node at the hand plus one, 0 for the tail."""


@hooks.hook
def _hit(state, block):
    state.nodes[block].mark = 1
    return True


@kernel(inline=True)
def _newer(state, node):
    before = state.nodes[node].prev
    return lists.tail(state, QUEUE) if before == lists.sentinel(state, QUEUE) else before


@hooks.hook
def _evict(state, block):
    node = lists.tail(state, QUEUE) if state.whole[HAND] == 0 else np.uint32(state.whole[HAND] - 1)
    while state.nodes[node].mark > 0 or state.nodes[node].pins > 0:
        if state.nodes[node].pins == 0:
            state.nodes[node].mark = 0
        node = _newer(state, node)
    before = state.nodes[node].prev
    state.whole[HAND] = 0 if before == lists.sentinel(state, QUEUE) else np.int64(before) + 1
    lists.unlink(state, node)
    st.leave(state, node)
    return True


@hooks.hook
def _insert(state, block):
    state.nodes[block].mark = 0
    lists.push(state, QUEUE, block)
    return True


KITS = {"sieve": hooks.Kit(hooks.Hooks(_hit, hooks.nothing, _evict, _insert), hooks.plain, hooks.no_setup)}
