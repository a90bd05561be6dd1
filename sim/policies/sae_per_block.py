"""Session-aware eviction, kept per block: last use + 1,500 requests per fading hit. After vLLM PR #50422 (open).

There a session is what one request stored, continued by requests that hit it; its score is last touch + 1,500 * hits +
a bonus for depth, and the worst session loses its tail first. Object here: a block that carries its session's hits. A
request's new blocks take over those of its last hit block, or start a session seeded from their ghost scores, in the
contract's ghost list: 12 / log2(position + 2) per hit, 1 / log2 per miss, summed and divided by 12. Hits fade by 0.9
per 500 requests, smoothly (exp(-requests / 4,746)) instead of in steps.
Deviations: afterwards each block counts its own hits, so a shared head outlives its tails by more. The bonus is equal
for all sessions that begin at depth 0, as all do with one tier, and left out. So is the gate that refuses a new session
scoring below the worst: a policy cannot see the worst. Generated blocks enter when other requests have come between
and begin a session of their own. Leaves only, as "tail first" demands.
"""

TOUCH = 1500.0
FADE = 4746.0
HIT = 12.0


def priority(block, cache):
    return block.last_access + TOUCH * block.s0 * math.exp(-block.age / FADE)


def on_hit(block, request, cache):
    kept = math.exp(-block.gap / FADE)
    block.s0 = block.s0 * kept + 1.0
    block.s1 = block.s1 * kept + HIT / math.log2(block.depth + 2.0)
    cache.s0 = block.s0


def on_insert(block, request, cache):
    block.s1 = block.s1 * math.exp(-block.gap / FADE) + 1.0 / math.log2(block.depth + 2.0)
    if block.depth == 0.0 or block.generated == 1.0:
        cache.s0 = 0.0
    if request.hit_blocks == 0.0 or block.generated == 1.0:
        cache.s0 += block.s1 / HIT
    block.s0 = cache.s0
