"""Hyperbolic caching: fewest accesses per request of residence leaves first. Blankstein, Sen and Freedman, ATC 2017.

Object: a block; its accesses are the insertion and the hits since, so the ghost list is not read. Time is counted in
requests (+ 1 against division by zero). The paper compares a sample of 64 objects at each eviction; here every
leaf-only candidate is compared, exactly. Blocks all have one size, so the paper's cost classes drop out.
"""


def priority(block, cache):
    return (block.hits + 1.0) / (block.residence + 1.0)
