"""Second-touch protection: blocks asked for once leave before all others, LRU within both groups.

Every block enters, unlike `second_touch`, where the first touch is refused. The count outlives the block in the
contract's ghost list, unlike `slru`, which counts hits since the block entered.
Object: a block. Leaf rule: a parent has at least the accesses of any block behind it, so nothing is distorted.
"""

PROTECTED = 1e12


def priority(block, cache):
    return block.released + PROTECTED * min(block.seen - 1.0, 1.0)
