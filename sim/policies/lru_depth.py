"""Depth-aware LRU: 30 requests of age are taken off for each block before it, so deep tails leave earlier."""


def priority(block, cache):
    return block.last_access - 30.0 * block.depth
