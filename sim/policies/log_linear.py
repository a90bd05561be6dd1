"""A linear score over logarithms of what is known of a block: last use, frequency, place, and its last request.

Nine weights, one per feature: log(1 + requests since the last use), the same in seconds, log(1 + requests between the
last two uses; 10,000 if there was one use), log(1 + remembered uses), log(1 + hits), log(1 + depth), the share of the
last request's blocks that were hits, log(1 + blocks of that request), log(1 + its turn). Weights 1, 0, 0, … are LRU.
NOTE_ON_WEIGHTS
"""

RECENCY = 1.0
RECENCY_S = 0.0
GAP = 0.0
SEEN = 0.0
HITS = 0.0
DEPTH = 0.0
HIT_SHARE = 0.0
PROMPT = 0.0
TURN = 0.0


def priority(block, cache):
    use = RECENCY * math.log1p(block.age) + RECENCY_S * math.log1p(block.age_s) + GAP * math.log1p(min(block.gap, 1e4))
    often = SEEN * math.log1p(block.seen) + HITS * math.log1p(block.hits)
    asked = HIT_SHARE * block.s0 + PROMPT * math.log1p(block.s1) + TURN * math.log1p(block.turn)
    return often + asked + DEPTH * math.log1p(block.depth) - use


def on_hit(block, request, cache):
    block.s0 = request.hit_blocks / max(request.blocks, 1.0)
    block.s1 = request.blocks


def on_insert(block, request, cache):
    block.s0 = request.hit_blocks / max(request.blocks, 1.0)
    block.s1 = request.blocks
