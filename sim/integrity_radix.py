"""Conservation laws of a replay against SGLang's radix cache: `check_tree` names the first one that is broken.

Knows what must hold in the final state of the kernel; must not know how it got there.
"""

from __future__ import annotations

import numpy as np

from sim.core import radix, replay
from sim.integrity import _check_counters, _check_requests, _law
from sim.options import Replay
from sim.prepared import Prepared


def segments(prepared: Prepared, tree: radix.Tree) -> list[tuple[int, ...]]:
    """Return (end, hit count, last access, *ids) of every node, in order."""
    requests, found = prepared.requests, []
    for node in tree.nodes[:-1][tree.nodes["length"][:-1] > 0]:
        ids = requests.generated_ids if node["generated"] else requests.block_ids
        run = ids[node["start"] : node["start"] + node["length"]]
        found.append((int(node["end"]), int(node["hit_count"]), int(node["last_access"]), *run.tolist()))
    return sorted(found)


def check_tree(prepared: Prepared, outcome: Replay, capacity_blocks: int) -> None:
    """Check a finished replay of the "sglang" engine: the counters' laws of `check_integrity`, and the tree.

    The tree: nothing is locked or held outside it; resident blocks are those of its nodes, so free + evictable =
    capacity; a node lies right below its parent and is found by its first id; children counts are right; the leaves
    are exactly the nodes without children.

    Raises:
        IntegrityError: If a law is broken.
    """
    _check_counters(prepared, outcome, capacity_blocks)
    _check_requests(prepared, outcome, capacity_blocks, False)
    tree = outcome.tree
    assert tree is not None
    nodes, root = tree.nodes, tree.nodes.size - 1
    live = np.flatnonzero(nodes["length"][:root] > 0)
    lengths, ends, parents = (nodes[name][live].astype(np.int64) for name in ("length", "end", "parent"))
    _law("no block is locked or held outside the tree", not tree.n[[radix.LOCKED, radix.SCRATCH]].any(), tree.n)
    _law("no node is locked", not nodes["locks"][live].any(), live)
    _law("resident counter = blocks of the nodes", int(lengths.sum()) == outcome.counts["resident_blocks"], lengths)
    _law("slots are in use or spare", live.size + int(tree.n[radix.SPARES]) == root, (live.size, tree.n))
    _law("a node lies right below its parent", bool((nodes["end"][parents] + lengths == ends).all()), live)
    children = np.bincount(parents, minlength=nodes.size)
    _law("children counts are right", bool((children[live] == nodes["children"][live]).all()), children)
    _law("the root's children are counted", int(children[root]) == int(nodes["children"][root]), children[root])
    firsts = [ids[3] for ids in segments(prepared, tree)]
    listed = np.flatnonzero(tree.node_at != replay.NONE)
    _law("nodes are found by their first ids, and nothing else", sorted(firsts) == listed.tolist(), listed[:5])
    held = [block for ids in segments(prepared, tree) for block in ids[3:]]
    _law("no block is held twice", len(held) == len(set(held)), len(held))
    leaves = tree.leaves.node[: int(tree.leaves.size[0])]
    bare = live[nodes["children"][live] == 0]
    _law("the leaves are exactly the nodes without children", np.array_equal(np.sort(leaves), bare), leaves[:5])
