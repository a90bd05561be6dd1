"""A time to live after each turn of a session, then LRU. Continuum, arXiv 2511.02230: KV is kept over a tool call.

Object: a block. Continuum pins a program's KV from a tool call on until a TTL from the tool's past latencies expires;
here the TTL is twice the mean time between turns, learnt online from every hit of a later turn (at the request's
last hit block). Deviations: the contract names no tools, so one TTL serves all, and no cost-benefit search sets it.
Turn 0 also stands for "unknown", so only later turns are pinned: without sessions in the trace this is LRU. Continuum
holds back new requests while all is pinned; a policy cannot, so the pin that is idle longest gives way. Leaves only.
Ghosts are not read.
"""

TIMES_MEAN = 2.0
PIN = 1e12
SLOW = 0.01


def priority(block, cache):
    pinned = block.turn > 0.0 and block.age_s <= TIMES_MEAN * cache.s0
    return block.released + (PIN if pinned else 0.0)


def on_hit(block, request, cache):
    if request.turn > 0.0 and block.depth == request.hit_blocks - 1.0:
        cache.s0 += (block.gap_s - cache.s0) * max(SLOW, 1.0 / (cache.s1 + 1.0))
        cache.s1 += 1.0
