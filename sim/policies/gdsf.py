"""GreedyDual-Size-Frequency with recompute cost per block. Cherkasova, HP Labs 1998; PGDSF in RAGCache (2404.12457)."""


def priority(block, cache):
    return block.s0


def on_insert(block, request, cache):
    block.s0 = cache.s0 + block.seen * block.recompute_cost / block.tokens


def on_hit(block, request, cache):
    block.s0 = cache.s0 + block.seen * block.recompute_cost / block.tokens


def on_evict(block, cache):
    cache.s0 = max(cache.s0, block.s0)
