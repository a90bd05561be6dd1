"""A linear score over logarithms of what is known of a block: last use, frequency, place, and its last request.

Nine weights, one per feature: log(1 + requests since the last use), the same in seconds, log(1 + requests between the
last two uses; 5,000 if there was one use), log(1 + remembered uses), log(1 + hits), log(1 + depth), the share of the
last request's blocks that were hits, log(1 + blocks of that request), log(1 + its turn). Weights 1, 0, 0, … are LRU.
Object: a block; `seen` lives on in the ghost list; leaves leave. Weights: `kvevolve tune` on the training split of
real-v1, some 150 passes (+0.029 there); recency, the last gap and the uses remembered weigh most.
"""

RECENCY = 1.2
RECENCY_S = 0.022
GAP = 0.37
SEEN = 0.33
HITS = -0.006
DEPTH = -0.067
HIT_SHARE = -0.013
PROMPT = 0.0072
TURN = 0.0043


def priority(block, cache):
    gap = math.log1p(min(block.gap, 5000.0))
    use = RECENCY * math.log1p(block.age) + RECENCY_S * math.log1p(block.age_s) + GAP * gap
    often = SEEN * math.log1p(block.seen) + HITS * math.log1p(block.hits)
    asked = HIT_SHARE * block.s0 + PROMPT * math.log1p(block.s1) + TURN * math.log1p(block.turn)
    return often + asked + DEPTH * math.log1p(block.depth) - use


def on_hit(block, request, cache):
    block.s0 = request.hit_blocks / max(request.blocks, 1.0)
    block.s1 = request.blocks


def on_insert(block, request, cache):
    block.s0 = request.hit_blocks / max(request.blocks, 1.0)
    block.s1 = request.blocks
