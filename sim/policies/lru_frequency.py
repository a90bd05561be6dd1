"""LRU with a bonus of 1,000 requests of age for each remembered access, up to three."""


def priority(block, cache):
    return block.last_access + 1000.0 * min(block.seen, 3.0)
