"""Marconi: recency + alpha * FLOPs saved per byte of state, both scaled to 0..1. MLSys 2025, arXiv 2411.19379.

Object: a block, where Marconi's is a node with the states of a hybrid model. Here every layer is full attention: a
block's bytes are constant and the FLOPs it saves grow with its depth, the mild end of the paper's range.
Deviations: Marconi scales by the smallest and largest value among the nodes; a policy sees no peers, so recency is
scaled by the requests it takes to fill the cache, and efficiency by the largest that entered. Marconi finds alpha by
replaying recent requests; here it is a constant (0 is LRU), yours to tune. Its admission rule is about recurrent
states, of which there are none. A hit refreshes all blocks of the path, not the last node only: all are read. Leaves
only; Marconi may also merge a node into its only child. Ghosts are not read.
"""

ALPHA = 0.1


def priority(block, cache):
    turnover = cache.capacity_blocks / max(cache.request_blocks, 1.0)
    efficiency = (block.recompute_cost / block.tokens - 1.0) / max(cache.s0, 1e-9)
    return ALPHA * efficiency - block.age / turnover


def on_insert(block, request, cache):
    cache.s0 = max(cache.s0, block.recompute_cost / block.tokens - 1.0)
