"""Where the prompts of a trace come from: the derivation forest.

A request that finds blocks in an infinite cache continues the most recent earlier request that used the deepest of
them, its parent; it shares all of the parent's blocks (a continuation: the next turn) or parts from it earlier (a
branch). A block at which many requests part from others is the end of a common prefix, a system prompt: what follows
it is no derivation but a new root.

Knows a trace; must not know how one is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.columns import I64, Bool
from workloads.progress import tell
from workloads.trace import Trace

ROOT, CONTINUATION, BRANCH = range(3)
KINDS = ("root", "continuation", "branch")

PREFIX_USES = 5
"""A block is the end of a common prefix if so many requests part from others behind it."""
MOST_PREFIXES = 64


@dataclass(frozen=True, eq=False)
class Forest:
    """The derivation of each request; n requests, k common prefixes, longest use first.

    Attributes:
        kind: int64[n], `ROOT`, `CONTINUATION` or `BRANCH`.
        parent: int64[n], -1 for roots.
        blocks: int64[n], full blocks of the prompt.
        hits: int64[n], how many of them were used before.
        parent_blocks: int64[n], full blocks of the parent, 0 for roots.
        prefix: int64[n], common prefix under a root, -1 for none and for the others.
        stale: bool[n], whether most of what was found had been used by others since the parent.
        prefix_blocks: int64[k], length of each common prefix.
        prefix_parent: int64[k], the longest other common prefix it begins with, -1 for none.
    """

    kind: I64
    parent: I64
    blocks: I64
    hits: I64
    parent_blocks: I64
    prefix: I64
    stale: Bool
    prefix_blocks: I64
    prefix_parent: I64


def forest(trace: Trace) -> Forest:
    """Return the derivation forest of a trace."""
    blocks = np.diff(trace.offsets)
    hits, parent, own = _last_uses(trace)
    found = hits > 0
    deepest = np.full(trace.n_requests, -1, np.int64)
    deepest[found] = trace.block_ids[trace.offsets[:-1][found] + hits[found] - 1]
    parent_blocks = np.where(found, blocks[parent], 0)
    parted = np.bincount(deepest[found & (hits < parent_blocks)], minlength=trace.n_blocks)
    ends = np.argsort(-parted, kind="stable")[:MOST_PREFIXES]
    ends = ends[parted[ends] >= PREFIX_USES]
    number = np.full(trace.n_blocks + 1, -1, np.int64)
    number[ends] = np.arange(len(ends))
    prefix = number[deepest]
    kind = np.where(~found | (prefix >= 0), ROOT, np.where(hits == parent_blocks, CONTINUATION, BRANCH))
    parent = np.where(kind == ROOT, -1, parent)
    depth, above = _prefixes(trace, ends, number)
    under = np.where(prefix >= 0, depth[prefix], 0) if len(ends) else np.zeros(trace.n_requests, np.int64)
    for i in np.flatnonzero(kind != ROOT):
        under[i] = under[parent[i]]
    left = hits - own
    stale = (kind != ROOT) & (left > under) & (2 * left > hits)
    return Forest(kind, parent, blocks, hits, np.where(kind == ROOT, 0, parent_blocks), prefix, stale, depth, above)


def _last_uses(trace: Trace) -> tuple[I64, I64, I64]:
    """Return per request the blocks used before, who used the deepest of them last, and how many that one did."""
    n = trace.n_requests
    last = np.full(trace.n_blocks, -1, np.int64)
    hits, parent, own = np.zeros(n, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for i in range(n):
        path = trace.block_ids[trace.offsets[i] : trace.offsets[i + 1]]
        users = last[path]
        hits[i] = found = np.count_nonzero(users >= 0)
        if found:
            parent[i] = users[found - 1]
            own[i] = np.count_nonzero(users[:found] == parent[i])
        last[path] = i
        if i % 4096 == 0:
            tell(f"deriving {trace.name}, requests", i, n)
    return hits, parent, own


def _prefixes(trace: Trace, ends: I64, number: I64) -> tuple[I64, I64]:
    """Return the length of each common prefix, and the longest other one it begins with."""
    depth, above = np.zeros(len(ends), np.int64), np.full(len(ends), -1, np.int64)
    for k, end in enumerate(ends):
        block = int(end)
        while block >= 0:
            depth[k] += 1
            block = int(trace.parents[block])
            if above[k] < 0 and block >= 0:
                above[k] = number[block]
    return depth, above
