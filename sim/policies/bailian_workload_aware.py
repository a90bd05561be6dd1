"""Lowest probability of reuse leaves first, from an exponential fit of return times per kind of request.

Wang et al., "KVCache Cache in the Wild", ATC 2025, arXiv 2506.02634; vLLM PR #22236 (closed). Object: a block, of the
kind of the request that used it last. The chance that a block idle for t returns within the next `life` seconds is
share * exp(-t / mean) * (1 - exp(-life / mean)), then head before tail (ties go by release, tail first; leaves only).
Deviations: the paper fits one curve per (type, turn) from a past hour; labels are unbounded and slots are few, so there
are two kinds, first or unknown turn and later turn, learnt online. `mean` is the mean return time seen by hits (what
an eviction cuts short is not seen), `share` the hits' part of hits and evictions since the start, `life` the mean idle
time of evicted blocks. With one kind in the trace the order is LRU, but for what evictions teach while room is made.
Ghosts are not read.
"""

SLOW = 0.002


def chance(idle_s, life_s, mean_s, returned, evicted):
    mean_s = max(mean_s, 0.001)
    share = returned / max(returned + evicted, 1.0)
    return share * math.exp(-idle_s / mean_s) * (1.0 - math.exp(-max(life_s, 0.0) / mean_s))


def priority(block, cache):
    if block.turn > 0.0:
        return chance(block.age_s, cache.s6, cache.s3, cache.s4, cache.s5)
    return chance(block.age_s, cache.s6, cache.s0, cache.s1, cache.s2)


def on_insert(block, request, cache):
    block.s0 = block.turn


def on_hit(block, request, cache):
    if block.s0 > 0.0:
        cache.s4 += 1.0
        cache.s3 += (block.gap_s - cache.s3) * max(SLOW, 1.0 / cache.s4)
    else:
        cache.s1 += 1.0
        cache.s0 += (block.gap_s - cache.s0) * max(SLOW, 1.0 / cache.s1)
    block.s0 = block.turn


def on_evict(block, cache):
    if block.turn > 0.0:
        cache.s5 += 1.0
    else:
        cache.s2 += 1.0
    cache.s6 += (block.age_s - cache.s6) * max(SLOW, 1.0 / (cache.s2 + cache.s5))
