"""LFU with dynamic ageing (LFUDA). Arlitt et al., ACM SIGMETRICS PER 2000: count + age of the cache at the last use."""


def priority(block, cache):
    return block.s0


def on_insert(block, request, cache):
    block.s0 = cache.s0 + block.seen


def on_hit(block, request, cache):
    block.s0 = cache.s0 + block.seen


def on_evict(block, cache):
    cache.s0 = max(cache.s0, block.s0)
