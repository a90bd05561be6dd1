"""Return hazard: keeps what is most likely to be asked for soon, per block and step it would wait.

Every prompt is a turn of a conversation. Of conversations that go on, half have done so after `rhythm` steps, few at
once and some very late (a log-logistic law); `doubt` is the odds that this one does not go on. A block of age a is
worth the chance that it returns within the time the cache turns over, given that it has not returned by a.
"""


# EVOLVE-BLOCK-START
def rhythm(turn, gap, usual):
    return 0.548 * (usual ** 0.932 * gap ** 0.068 if turn > 1.5 else 1.19 * usual)


def doubt(turn, new_tokens, continued):
    told = ((1.0 + new_tokens / 256.0) / turn ** 0.839) ** (1.0 - continued)
    odds = 1.38 * ((1.02 - continued) / (0.02 + continued)) ** 1.88 * told
    return odds * 0.581 if new_tokens < 1.0 else odds


def on_hit(block, request, cache):
    if block.depth < 0.5:
        cache.s0 = rhythm(request.inferred_turn, request.turn_gap, max(cache.usual_gap, 1.0))
        new_tokens = (request.blocks - request.known_blocks) * cache.block_tokens
        cache.s1 = doubt(request.inferred_turn, new_tokens, cache.continued)
    block.s0 = cache.s0
    block.s1 = cache.s1


def on_insert(block, request, cache):
    if block.depth < 0.5:
        cache.s0 = rhythm(request.inferred_turn, request.turn_gap, max(cache.usual_gap, 1.0))
        new_tokens = (request.blocks - request.known_blocks) * cache.block_tokens
        cache.s1 = doubt(request.inferred_turn, new_tokens, cache.continued)
    block.s0 = cache.s0
    block.s1 = cache.s1


def priority(block, cache):
    m = block.s0 * (block.output_tokens + 1.0) ** 0.12
    h = 0.374 + 0.367 * cache.capacity_blocks / max(cache.request_blocks, 1.0) / m
    d = block.s1 / block.seen ** 0.236
    u = (block.age + 1.0) / m
    v = u + h
    u = u * math.sqrt(u)
    v = v * math.sqrt(v)
    return (v - u) / ((1.0 + v) * (1.0 + d + d * u) * h * m)
# EVOLVE-BLOCK-END
