"""MRU: the block released last leaves first. Chou and DeWitt, VLDB 1985; SGLang's strategy `mru`.

The right choice only for a loop over more blocks than fit, which LRU misses always. Object: a block. Leaf rule: the
newest prompt is eaten from its end, block by block. SGLang evicts whole tree nodes by their access time instead.
Ghosts are not read.
"""


def priority(block, cache):
    return -block.released
