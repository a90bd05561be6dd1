"""Turn index: the Gittins index of a block's return, for conversations of people and of agents.

A block returns with the next turn of its conversation. Of those that go on, few do so at once, half within about
`pace` steps, some very late: 1 / sqrt(1 + u^2) have not after u paces. `doubt` is the odds that none comes. The worth
of a block of age u is its chance to return within h paces, per step of the place it takes until then, for the best
of four h (Gittins 1979). So right after its use a block is worth less than a little later. What is common to
all blocks is kept in the cache, so that its noise cannot change their order.
"""


# EVOLVE-BLOCK-START
def pace(turn, gap, continued):
    return gap ** (0.125 * continued) if turn > 1.5 else 1.9 ** (1.0 - continued)


def doubt(new_tokens, continued):
    return (1.0 + new_tokens / 512.0) ** (0.58 * (1.0 - continued))


def on_hit(block, request, cache):
    if block.depth < 0.5:
        cache.s0 = pace(request.inferred_turn, request.turn_gap / max(cache.usual_gap, 1.0), cache.continued)
        cache.s1 = doubt((request.blocks - request.known_blocks) * cache.block_tokens, cache.continued)
    block.s0 = cache.s0
    block.s1 = cache.s1 / block.seen


def on_insert(block, request, cache):
    if block.depth < 0.5:
        cache.s0 = pace(request.inferred_turn, request.turn_gap / max(cache.usual_gap, 1.0), cache.continued)
        cache.s1 = doubt((request.blocks - request.known_blocks) * cache.block_tokens, cache.continued)
    block.s0 = cache.s0
    block.s1 = cache.s1 / block.seen


def priority(block, cache):
    c = cache.continued
    m = 0.81 * max(cache.usual_gap, 1.0) * block.s0 * ((20.0 + block.output_tokens) / 300.0) ** (0.24 * c)
    d = 0.56 * ((1.02 - c) / (0.02 + c)) ** 2.4 * block.s1
    u = block.age / m
    a = 1.0 / math.sqrt(1.0 + u * u)
    best = 0.0
    h = 0.37
    for i in range(4):
        b = 1.0 / math.sqrt(1.0 + (u + h) * (u + h))
        best = max(best, (a - b) / (h * (d + 0.5 * a + 0.5 * b)))
        h = h * 5.0
    return best / m
# EVOLVE-BLOCK-END
