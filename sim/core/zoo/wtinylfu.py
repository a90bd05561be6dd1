"""W-TinyLFU: a small LRU window; what leaves it must be accessed more often than the main cache's victim to get in.

Einziger, Friedman, Manes, ACM ToS 2017; libCacheSim: WTinyLFU, `main-cache=SLRU` (two segments, 1:4),
`window-size=0.01`. Counts live in a counting Bloom filter over all ids (10 counters each, halved every 32 main-cache
sizes of main hits) and are the only memory of what left; with few counters per id ever seen they overcount, on purpose
as in libCacheSim. The window holds at least one id. Under prefix rules orphans occur, and many: the filter decides
block by block, and of equal counts the newcomer loses.
"""

from __future__ import annotations

import math

import numpy as np

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import hooks, lists, segments
from sim.core.zoo import state as st

WINDOW, MAIN, SEGMENTS = 0, 1, 2
LIMITS, MAIN_LIMIT, COUNTED = st.OWN, st.OWN + 2, st.OWN + 3
HASHES = 10
COUNTERS_PER_ID = -math.log(0.001) / 0.480453013918201
"""For 0.1% false positives; the divisor is ln(2)^2."""
SEEDS = np.uint64(0x12345678), np.uint64(0x12344321)
PRIMES = tuple(
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)


@kernel(inline=True)
def _rotated(x, bits):
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@kernel()
def xxh64(value, seed):
    """Return the 64-bit xxHash of the eight bytes of a whole number."""
    h = (seed + PRIMES[4] + np.uint64(8)) ^ (_rotated(value * PRIMES[1], 31) * PRIMES[0])
    h = _rotated(h, 27) * PRIMES[0] + PRIMES[3]
    h = (h ^ (h >> np.uint64(33))) * PRIMES[1]
    h = (h ^ (h >> np.uint64(29))) * PRIMES[2]
    return h ^ (h >> np.uint64(32))


@kernel()
def _visit(state, block, add):
    """Return the lowest counter of an id; add 1 to all of its counters if asked to."""
    step, at = np.uint32(xxh64(np.uint64(block), SEEDS[1])), np.uint32(xxh64(np.uint64(block), SEEDS[0]))
    size = np.uint32(state.sketch.size)
    lowest, place = np.uint32(0xFFFFFFFF), at
    for _ in range(HASHES):
        lowest = min(lowest, state.sketch[place % size])
        place = np.uint32(place + step)
    if add:
        for _ in range(HASHES):
            state.sketch[at % size] += np.uint32(1)
            at = np.uint32(at + step)
    return lowest


@hooks.hook
def _hit(state, block):
    if state.nodes[block].home == WINDOW:
        lists.move(state, WINDOW, block)
        return True
    segments.rise(state, MAIN, LIMITS, SEGMENTS, block)
    _visit(state, block, True)
    state.whole[COUNTED] += 1
    if state.whole[COUNTED] >= 32 * state.whole[MAIN_LIMIT]:
        state.whole[COUNTED] = 0
        for i in range(state.sketch.size):
            state.sketch[i] >>= np.uint32(1)
    return True


@hooks.hook
def _evict(state, block):
    young, old = lists.oldest_free(state, WINDOW), segments.lowest_free(state, MAIN, SEGMENTS)
    if young == replay.NONE:
        segments.drop(state, old)
        return True
    held = lists.length(state, MAIN) + lists.length(state, MAIN + 1)
    if held < state.whole[MAIN_LIMIT]:
        lists.unlink(state, young)
        segments.enter(state, MAIN, LIMITS, SEGMENTS, young)
    elif old != replay.NONE and _visit(state, young, False) > _visit(state, old, False):
        segments.drop(state, old)
        lists.unlink(state, young)
        segments.enter(state, MAIN, LIMITS, SEGMENTS, young)
    else:
        segments.drop(state, young)
    _visit(state, young, True)
    return True


@hooks.hook
def _insert(state, block):
    lists.push(state, WINDOW, block)
    _visit(state, block, True)
    return True


def _main_limit(capacity: int) -> int:
    return capacity - max(1, int(capacity * 0.01))


def _needs(capacity: int) -> st.Needs:
    return st.Needs(sketch=max(2 * HASHES, math.ceil(COUNTERS_PER_ID * _main_limit(capacity))))


def _setup(state: st.State) -> None:
    main = _main_limit(int(state.whole[st.CAPACITY]))
    state.whole[MAIN_LIMIT] = main
    state.whole[LIMITS], state.whole[LIMITS + 1] = int(1 / 5 * main), int(4 / 5 * main)


KITS = {"w-tinylfu": hooks.Kit(hooks.Hooks(_hit, hooks.nothing, _evict, _insert), _needs, _setup)}
