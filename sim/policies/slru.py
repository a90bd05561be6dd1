"""Segmented LRU: blocks hit since they entered outlive those never hit. Karedla et al., IEEE Computer 1994.

The protected segment is not bounded: a block is demoted only by being evicted, as in SGLang's `slru`.
"""

PROTECTED = 1e12


def priority(block, cache):
    return block.released + PROTECTED * min(block.hits, 1.0)
