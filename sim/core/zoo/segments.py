"""LRU segments: an id enters the lowest and rises by one with every hit; what overflows sinks.

Knows lists and their limits; shared by SLRU and W-TinyLFU.
"""

from __future__ import annotations

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import lists
from sim.core.zoo import state as st


@kernel(inline=True)
def enter(state, first, limits, n, block):
    """Put an id into the lowest of lists first..first+n-1 that has room, else into the lowest.

    `limits` is the register of the first list's limit, in ids.
    """
    for k in range(n):
        if lists.length(state, first + k) < state.whole[limits + k]:
            lists.push(state, first + k, block)
            return
    lists.push(state, first, block)


@kernel(inline=True)
def rise(state, first, limits, n, block):
    """Move an id to the head of the next list up; the tails of lists that overflow sink."""
    level = state.nodes[block].home - first
    if level == n - 1:
        lists.move(state, first + level, block)
        return
    lists.move(state, first + level + 1, block)
    for k in range(level + 1, 0, -1):
        sank = False
        while lists.length(state, first + k) > state.whole[limits + k]:
            lists.move(state, first + k - 1, lists.tail(state, first + k))
            sank = True
        if k == 1 and sank and state.whole[st.STRICT] == 1:
            while lists.length(state, first) > state.whole[limits]:
                drop(state, lists.tail(state, first))


@kernel(inline=True)
def lowest_free(state, first, n):
    """Return the oldest id of the lowest list that no running request uses, or `replay.NONE`."""
    for k in range(n):
        victim = lists.oldest_free(state, first + k)
        if victim != replay.NONE:
            return victim
    return replay.NONE


@kernel(inline=True)
def drop(state, victim):
    """Evict an id."""
    lists.unlink(state, victim)
    st.leave(state, victim)
