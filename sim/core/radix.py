"""A radix tree of block segments over dense ids: match, split, attach, detach, lock; SGLang's prefix cache as arrays.

Source: SGLang 0.5.23 `UnifiedTreeCore` (Rust and Python), full attention, no host tier. Knows the tree and its clock;
must not know which leaf is evicted, requests' lives, or time. A *node* owns a run of blocks and lies in a slot; ids
are prefix-unique (`replay.Requests`), so the first id of a run names the node: children need no hashing, and the last
equal id of two runs proves all before it equal. A step costs O(nodes on the path), however many blocks they hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import replay
from sim.core.compiled import kernel, records
from sim.core.heap import Heap, new_heap

NODE = np.dtype(
    [
        ("last_access", np.int64),
        ("created", np.int64),
        ("start", np.int64),
        ("length", np.uint32),
        ("end", np.uint32),
        ("parent", np.uint32),
        ("children", np.uint32),
        ("locks", np.uint32),
        ("hit_count", np.uint32),
        ("history", np.uint32),
        ("priority", np.int32),
        ("generated", np.uint32),
    ],
    align=True,
)
"""A run of blocks. `start`, `length`: where its ids lie, in the prompts' ids or, if `generated`, in the generated ones.
`end`: blocks from the root to its last one. `locks`: running requests whose path holds it. `hit_count`: inserts that
passed it, its own included. `history`: the greatest `end` ever reached below it, kept when tails are evicted.
`last_access`, `created`: ticks of the tree's clock."""

SCALARS = ("tick", "spares", "locked", "scratch", "capacity", "broken")
"""Order of `Tree.n`. `locked`: blocks of locked nodes; `scratch`: blocks running requests hold outside the tree;
`broken`: 1 + the request at which a score was not finite, else 0."""
TICK, SPARES, LOCKED, SCRATCH, CAPACITY, BROKEN = range(len(SCALARS))


class Tree(NamedTuple):
    """The nodes of one cache; the last slot is the root, which holds no block and is always locked."""

    nodes: npt.NDArray[np.void]
    """Dtype `NODE`; every node holds a block, so there are never more nodes than blocks."""
    node_at: npt.NDArray[np.uint32]
    """Per id: the node that begins with it, or `replay.NONE`."""
    spare: npt.NDArray[np.uint32]
    """Stack of slots not in use."""
    leaves: Heap
    """Nodes that may be evicted now: no children, no locks."""
    n: npt.NDArray[np.int64]
    """Scalars, see `SCALARS`."""


def new_tree(capacity: int, n_ids: int) -> Tree:
    """Return an empty tree for a cache of `capacity` blocks and ids below `n_ids`."""
    slots = min(capacity, n_ids)
    nodes = np.zeros(slots + 1, NODE)
    nodes["parent"][slots], nodes["locks"][slots] = replay.NONE, 1
    nodes["last_access"][slots] = nodes["created"][slots] = 1
    scalars = np.zeros(len(SCALARS), np.int64)
    scalars[[TICK, SPARES, CAPACITY]] = 1, slots, capacity
    return Tree(
        records(nodes),
        np.full(n_ids, replay.NONE, np.uint32),
        np.arange(slots, dtype=np.uint32)[::-1].copy(),
        new_heap(slots + 1, slots + 1),
        scalars,
    )


@kernel(inline=True)
def root_of(tree):
    """Return the slot of the root."""
    return np.uint32(tree.nodes.size - 1)


@kernel(inline=True)
def _own_id(tree, requests, node, k):
    """Return the id of block `k` of a node."""
    at = tree.nodes[node].start + k
    return requests.generated_ids[at] if tree.nodes[node].generated != 0 else requests.block_ids[at]


@kernel(inline=True)
def matched(tree, requests, node, ids, first, last):
    """Return how many blocks of a node equal `ids[first:last]`, which begins like the node: at least 1."""
    low, high = np.int64(1), min(np.int64(tree.nodes[node].length), last - first)
    if _own_id(tree, requests, node, high - 1) == ids[first + high - 1]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if _own_id(tree, requests, node, middle - 1) == ids[first + middle - 1]:
            low = middle
        else:
            high = middle
    return low


@kernel(inline=True)
def touch(tree, node):
    """Stamp a node with the next tick."""
    tree.n[TICK] += 1
    tree.nodes[node].last_access = tree.n[TICK]


@kernel(inline=True)
def _take_slot(tree):
    """Return a slot for a new node, stamped as created and accessed now."""
    tree.n[SPARES] -= 1
    node = tree.spare[tree.n[SPARES]]
    touch(tree, node)
    tree.nodes[node].created = tree.n[TICK]
    return node


@kernel(inline=True)
def stamp_path(tree, node):
    """Stamp the path from the root to a matched node with fresh ticks, each parent one older than its child."""
    depth, at = np.int64(0), node
    while at != replay.NONE:
        depth += 1
        at = tree.nodes[at].parent
    tree.n[TICK] += depth
    at = node
    for k in range(depth):
        tree.nodes[at].last_access = tree.n[TICK] - k
        at = tree.nodes[at].parent


@kernel(inline=True)
def split(tree, requests, node, blocks):
    """Cut a node after `blocks` blocks, for good; return the new upper half, the lower half keeps the slot.

    Both keep counts, priority, locks, history and the time of creation (as the unified tree; the classic one creates
    the upper half now). The lower half is stamped last although nothing asked for it.
    """
    upper = _take_slot(tree)
    above, below = tree.nodes[upper], tree.nodes[node]
    above.created, above.hit_count, above.priority = below.created, below.hit_count, below.priority
    above.locks, above.history, above.generated = below.locks, below.history, below.generated
    above.start, above.length, above.parent = below.start, blocks, below.parent
    above.end = below.end - below.length + blocks
    above.children = 1
    tree.node_at[_own_id(tree, requests, node, 0)] = upper
    tree.node_at[_own_id(tree, requests, node, blocks)] = node
    below.start += blocks
    below.length -= np.uint32(blocks)
    below.parent = upper
    touch(tree, node)
    return upper


@kernel(inline=True)
def attach(tree, parent, ids, generated, first, last, priority, hit_count):
    """Return a new leaf for `ids[first:last]` below a node."""
    node = _take_slot(tree)
    leaf = tree.nodes[node]
    leaf.start, leaf.length, leaf.generated = first, last - first, generated
    leaf.parent, leaf.children, leaf.locks = parent, 0, 0
    leaf.priority, leaf.hit_count = priority, hit_count
    leaf.end = tree.nodes[parent].end + leaf.length
    leaf.history = leaf.end
    tree.nodes[parent].children += np.uint32(1)
    tree.node_at[ids[first]] = node
    at = parent
    while at != replay.NONE and tree.nodes[at].history < leaf.end:
        tree.nodes[at].history = leaf.end
        at = tree.nodes[at].parent
    return node


@kernel(inline=True)
def detach(tree, requests, node):
    """Remove a leaf from the tree; return its parent."""
    parent = tree.nodes[node].parent
    tree.node_at[_own_id(tree, requests, node, 0)] = replay.NONE
    tree.nodes[parent].children -= np.uint32(1)
    tree.nodes[node].length = 0
    tree.spare[tree.n[SPARES]] = node
    tree.n[SPARES] += 1
    return parent


@kernel(inline=True)
def unlocked_blocks(tree, node):
    """Return the blocks on the path to a node that no running request holds."""
    blocks = np.int64(0)
    while node != root_of(tree):
        if tree.nodes[node].locks == 0:
            blocks += tree.nodes[node].length
        node = tree.nodes[node].parent
    return blocks


@kernel(inline=True)
def evictable(tree, node):
    """Return whether a node may be evicted: a leaf that nothing locks."""
    return tree.nodes[node].children == 0 and tree.nodes[node].locks == 0
