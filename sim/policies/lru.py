"""LRU by order of release, tail first: what vLLM, and most engines, do. Mattson et al., IBM Systems Journal 1970."""


def priority(block, cache):
    return block.released
