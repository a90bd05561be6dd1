"""LRU-2: the block whose access before the last one is oldest leaves first. O'Neil, O'Neil and Weikum, SIGMOD 1993.

Object: a block. `last_access - gap` is the time of the second last access: K = 2, the contract remembers no third.
A block with one remembered access has backward distance infinity (`gap` is 1e9): those leave first, by LRU as in the
paper. Retained history is the contract's ghost list (`ghost_blocks`) instead of a Retained Information Period, and
time is counted in requests. No Correlated Reference Period: one request touches a block once.
"""


def priority(block, cache):
    return block.last_access - block.gap
