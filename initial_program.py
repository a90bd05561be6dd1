"""Seed policy: LRU. Only the EVOLVE-BLOCK is evolved; the contract is in sim/core/fields.py and README.md.

`priority` says which block leaves first (lower leaves first), `admit` whether a missing block enters the cache.
"""


# EVOLVE-BLOCK-START
def priority(block, cache):
    return block.last_access


def admit(block, request, cache):
    return True
# EVOLVE-BLOCK-END
