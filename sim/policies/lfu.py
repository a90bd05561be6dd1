"""LFU: fewest hits since the block entered leaves first, ties by LRU. SGLang's strategy `lfu`.

Object: a block. Counts die with the block, so the ghost list is not read. Leaf rule: a parent has at least the hits of
any block behind it, so LFU never wants to orphan and the rule changes only ties. SGLang counts inserts per tree node.
"""


def priority(block, cache):
    return block.hits
