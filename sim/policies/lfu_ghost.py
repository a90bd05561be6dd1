"""LFU whose counts survive eviction ("perfect LFU"): fewest remembered accesses leaves first, ties by LRU.

Breslau et al., INFOCOM 1999. Object: a block. Counts of absent blocks live in the contract's ghost list, so
they are perfect only as far as that reaches (`ghost_blocks`); a block that drops out of it starts again at 1.
Leaf rule: a parent has at least the accesses of any block behind it, so the rule changes only ties.
"""


def priority(block, cache):
    return block.seen
