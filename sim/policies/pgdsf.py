"""PGDSF, prefix-aware GreedyDual-Size-Frequency: clock + frequency * average cost. RAGCache, arXiv 2404.12457.

Object: a block, where RAGCache's is a document in its knowledge tree; leaves only in both. As in its Algorithm 1, size
cancels: the cost is what one computed token cost on average, over the times the block was computed, in a prompt with
`hit` cached and `new` computed tokens. RAGCache interpolates profiled prefill times; here T(hit, new) / new follows
the contract's cost model, 1 + (hit + new / 2) / 30,500 first-token prefills. Frequency and costs of absent blocks live
in the contract's ghost list. One tier: the GPU clock; the host tier of the paper has its own.
`gdsf` charges a block for its own depth instead, so there a long prompt does not raise the cost of its first blocks.
"""

ATTENTION_TOKENS = 30500.0


def priority(block, cache):
    return block.s0


def on_insert(block, request, cache):
    hit = request.hit_blocks * cache.block_tokens
    new = request.input_tokens - hit
    block.s1 += 1.0 + (hit + 0.5 * new) / ATTENTION_TOKENS
    block.s2 += 1.0
    block.s0 = cache.s0 + block.seen * block.s1 / block.s2


def on_hit(block, request, cache):
    block.s0 = cache.s0 + block.seen * block.s1 / max(block.s2, 1.0)


def on_evict(block, cache):
    cache.s0 = max(cache.s0, block.s0)
