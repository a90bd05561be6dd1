"""Largest of (time between the last two uses, time since the last) leaves first: the ranking behind LIRS, no stacks.

Jiang and Zhang, SIGMETRICS 2002, rank blocks by inter-reference recency (IRR) and demote a block once its recency
exceeds the largest IRR kept. Taken over: the order by max(IRR, recency). Not taken over: the LIR and HIR sets, the
stack and its pruning, and recency in distinct blocks; time is counted in requests, the IRR of a returning block comes
from the contract's ghost list. A block used once has no IRR and leaves before all others, by LRU. Object: a block.
Leaf rule: a parent is used whenever a block behind it is, so it never ranks below one that it has seen in.
"""


def priority(block, cache):
    return -max(block.gap, block.age)
