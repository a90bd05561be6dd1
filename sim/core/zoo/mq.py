"""MQ: LRU queues by the logarithm of the access count; an id not accessed for a lifetime sinks one queue.

Zhou, Philbin, Li, USENIX ATC 2001; libCacheSim: MQ, `n-queue=8, lifetime=10000, Qout-size-ratio=4`. Ghosts: ids and
access counts of what was evicted, four capacities of them, first in first out; a new access restores the count. Under
prefix rules no orphans were seen: a parent's count is never below its child's.
"""

from __future__ import annotations

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, segments
from sim.core.zoo import state as st

QUEUES = 8
OUT = QUEUES
OUT_LIMIT, NOW = st.OWN, st.OWN + 1
LIFETIME = 10_000
"""Accesses until the oldest id of a queue sinks."""


@kernel(inline=True)
def _queue_of(count):
    queue = 0
    while count > 1 and queue < QUEUES - 1:
        count >>= 1
        queue += 1
    return queue


@kernel(inline=True)
def _place(state, block):
    lists.push(state, _queue_of(state.nodes[block].count), block)
    state.nodes[block].when = state.whole[NOW] + LIFETIME
    state.whole[NOW] += 1
    for queue in range(1, QUEUES):
        oldest = lists.tail(state, queue)
        if oldest != replay.NONE and state.nodes[oldest].when < state.whole[NOW]:
            lists.move(state, queue - 1, oldest)
            state.nodes[oldest].when = state.whole[NOW] + LIFETIME


@hooks.hook
def _hit(state, block):
    lists.unlink(state, block)
    state.nodes[block].count += 1
    _place(state, block)
    return True


@hooks.hook
def _miss(state, block):
    if state.nodes[block].home == OUT:
        lists.unlink(state, block)
    else:
        state.nodes[block].count = 0
    return True


@hooks.hook
def _evict(state, block):
    victim = segments.lowest_free(state, 0, QUEUES)
    segments.drop(state, victim)
    lists.remember(state, OUT, victim, state.whole[OUT_LIMIT])
    return True


@hooks.hook
def _insert(state, block):
    state.nodes[block].count += 1
    _place(state, block)
    return True


def _setup(state: st.State) -> None:
    state.whole[OUT_LIMIT] = 4 * state.whole[st.CAPACITY]


KITS = {"mq": hooks.Kit(hooks.Hooks(_hit, _miss, _evict, _insert), hooks.plain, _setup)}
