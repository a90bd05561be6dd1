"""Multi-Queue: queues by log2 of the frequency; a block idle for a life time sinks one queue. Zhou et al., ATC 2001.

Object: a block. The queue is computed instead of kept: a block of frequency f starts in queue log2(f) and has sunk
once per LIFE since its last use, each time to the recent end of the queue below. That is the paper's algorithm but
for three things. The paper looks at each queue's head only, once per access: a few blocks sink late there. Its history
buffer Qout is the contract's ghost list (`ghost_blocks`, not 4 cache sizes). LIFE, the peak temporal distance in the
paper, is here the mean gap between two uses, learnt online in requests: one sample per request from its last hit
block, one from its first missing block if that is remembered.
Leaf rule: a parent is as frequent and as recent as any block behind it, so nothing is distorted.
"""

QUEUES = 8.0
ABOVE = 1e9
SLOW = 0.01
FORGOTTEN = 1e8


def priority(block, cache):
    life = max(cache.s0, 1.0)
    queue = min(math.floor(math.log2(max(block.seen, 1.0))), QUEUES - 1.0)
    sunk = min(math.floor(block.age / life), queue)
    return (queue - sunk) * ABOVE + block.last_access + sunk * life


def on_hit(block, request, cache):
    if block.depth == request.hit_blocks - 1.0:
        cache.s0 += (block.gap - cache.s0) * max(SLOW, 1.0 / (cache.s1 + 1.0))
        cache.s1 += 1.0


def on_insert(block, request, cache):
    if block.depth == request.hit_blocks and block.gap < FORGOTTEN:
        cache.s0 += (block.gap - cache.s0) * max(SLOW, 1.0 / (cache.s1 + 1.0))
        cache.s1 += 1.0
