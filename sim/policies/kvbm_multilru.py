"""Four tiers by frequency, bounds 3, 8 and 15; the coldest tier's LRU leaves first. NVIDIA Dynamo KVBM, `MultiLRU`.

Object: a block, placed in its tier when released. KVBM counts with a TinyLFU sketch of 4-bit counters that all halve
from time to time; here counts are exact, remembered by the contract's ghost list and never halved. Leaf rule: KVBM's
MultiLRU may orphan; a parent is as frequent as any block behind it, so little changes.
"""

TIER = 1e12


def priority(block, cache):
    tier = (block.seen >= 3.0) + (block.seen >= 8.0) + (block.seen >= 15.0)
    return block.released + tier * TIER
