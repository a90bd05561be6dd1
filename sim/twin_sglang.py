"""The slow, obvious twin of `sim.core.sglang`: a radix tree of lists and dicts, and a real heap per eviction call.

Knows the engine's rules, written after SGLang 0.5.23's unified tree and the calls its scheduler makes; must not know
the kernels. Every step asserts that free + locked + evictable + held outside the tree = capacity.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from sim.core import fields
from sim.engines.sglang import Parameters
from sim.options import Options
from sim.twin_records import blank
from sim.twin_server import Ask


@dataclass(eq=False)
class TreeNode:
    """A run of blocks."""

    key: list[int]
    parent: TreeNode | None
    last_access: int
    creation: int
    priority: int = 0
    hit_count: int = 0
    locks: int = 0
    history: int = 0
    children: dict[int, TreeNode] = field(default_factory=dict)
    record: SimpleNamespace = field(default_factory=lambda: blank(fields.BLOCK))
    touch_score: float = 0.0

    @property
    def end(self) -> int:
        """Blocks from the root to the last one of this node."""
        return len(self.key) + (self.parent.end if self.parent else 0)

    def path(self) -> Iterator[TreeNode]:
        """Yield this node and those above it, the root left out."""
        at = self
        while at.parent:
            yield at
            at = at.parent

    def below(self) -> Iterator[TreeNode]:
        """Yield every node below this one."""
        for child in self.children.values():
            yield child
            yield from child.below()


class Strategy:
    """The engine's own policies: `key` is what `get_priority` returns, lower leaves first."""

    def __init__(self, name: str, parameters: Parameters) -> None:
        self.name, self.parameters = name, parameters

    def key(self, node: TreeNode) -> tuple[float, ...]:
        """Return the priority of a node."""
        if self.name == "tlru":
            estimate, threshold = self.parameters.tlru_next_prompt_estimate, self.parameters.tlru_threshold
            budget = max(node.history + estimate - threshold, 0)
            return (-1 if node.end - len(node.key) >= budget else 0, node.last_access)
        keys: dict[str, tuple[float, ...]] = {
            "lru": (node.last_access,),
            "lfu": (node.hit_count, node.last_access),
            "slru": (node.hit_count >= self.parameters.slru_protected, node.last_access),
            "fifo": (node.creation,),
            "mru": (-node.last_access,),
            "filo": (-node.creation,),
            "priority": (node.priority, node.last_access),
        }
        return keys[self.name]


@dataclass
class Holding:
    """What a running request holds: its locked path, and blocks outside the tree (a partial last block)."""

    ask: Ask
    hits: int
    node: TreeNode
    scratch: int


class RadixCache:
    """The cache under one of the engine's own policies, a method per call of its scheduler."""

    def __init__(self, capacity_blocks: int, options: Options, strategy: Strategy | None) -> None:
        self.capacity = self.free = capacity_blocks
        self.most = options.max_running if options.mode == "overlap" else 1
        self.strategy, self.options = strategy, options
        self.tick, self.current = 1, 0
        self.root = TreeNode([], None, 1, 1, locks=1)
        self.running: dict[int, Holding] = {}
        self.counts = {name: 0 for name in COUNTED}

    # ---- the tree --------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Advance the clock."""
        self.tick += 1
        return self.tick

    def touch(self, node: TreeNode) -> None:
        """Stamp one node."""
        node.last_access = self.now()

    def nodes(self) -> list[TreeNode]:
        """Return all nodes but the root."""
        return list(self.root.below())

    def split(self, child: TreeNode, blocks: int) -> TreeNode:
        """Cut a node; the new upper half takes its place, the lower half is stamped afresh."""
        assert child.parent
        upper = TreeNode(child.key[:blocks], child.parent, self.now(), child.creation)
        upper.priority, upper.hit_count, upper.locks = child.priority, child.hit_count, child.locks
        upper.history, upper.touch_score = child.history, child.touch_score
        upper.record = SimpleNamespace(**vars(child.record))
        upper.children = {child.key[blocks]: child}
        child.parent.children[child.key[0]] = upper
        child.parent, child.key = upper, child.key[blocks:]
        child.record.depth += blocks
        self.touch(child)
        return upper

    def match_prefix(self, key: Sequence[int]) -> tuple[TreeNode, int]:
        """Return (deepest node, blocks) found; stamps the path, each parent one tick older than its child."""
        node, found = self.root, 0
        while found < len(key) and key[found] in node.children:
            child = node.children[key[found]]
            equal = common(child.key, key[found:])
            node = child if equal == len(child.key) else self.split(child, equal)
            found += equal
            if node is not child:
                break
        if key:
            path = [*node.path(), self.root]
            self.tick += len(path)
            for age, at in enumerate(path):
                at.last_access = self.tick - age
        return node, found

    def insert(self, node: TreeNode, key: Sequence[int], priority: int, count: bool) -> tuple[TreeNode, int]:
        """Insert below a node; return (deepest node, blocks that were there)."""
        found = 0
        while found < len(key) and key[found] in node.children:
            child = node.children[key[found]]
            self.touch(child)
            equal = common(child.key, key[found:])
            node = child if equal == len(child.key) else self.split(child, equal)
            node.priority = max(node.priority, priority)
            if count:
                node.hit_count += 1
                self.passed(node)
            found += equal
        if found < len(key):
            tick = self.now()
            leaf = TreeNode(list(key[found:]), node, tick, tick, priority, hit_count=1)
            node.children[key[found]] = leaf
            for at in (*leaf.path(), self.root):
                at.history = max(at.history, leaf.end)
            node = leaf
        return node, found

    def evict(self, shortfall: int) -> None:
        """Pop whole leaves off a heap built now; a parent that loses its last child enters it."""
        leaves = [node for node in self.nodes() if not node.children and not node.locks]
        heap = [(self.key(node), id(node), node) for node in leaves]
        heapq.heapify(heap)
        freed = 0
        while freed < shortfall and heap:
            _, _, node = heapq.heappop(heap)
            self.leaves(node)
            freed += len(node.key)
            parent = node.parent
            assert parent
            del parent.children[node.key[0]]
            if parent is not self.root and not parent.children and not parent.locks:
                heapq.heappush(heap, (self.key(parent), id(parent), parent))
        self.free += freed
        self.counts["evicted_blocks"] += freed

    def lock(self, node: TreeNode) -> None:
        """Lock a path."""
        for at in node.path():
            at.locks += 1

    def unlock(self, node: TreeNode) -> None:
        """Unlock a path, the deepest node first."""
        for at in node.path():
            at.locks -= 1
            if at.locks == 0:
                self.let_go(at)

    # ---- the server's questions ------------------------------------------------------------------------------------

    def match(self, ask: Ask) -> int | None:
        """Return the hits, or None to wait; an attempt touches and cuts, unless as many run as may."""
        if len(self.running) == self.most:
            return None
        node, hits = self.match_prefix(ask.blocks[: ask.hit_limit])
        self.lock(node)
        evictable = sum(len(at.key) for at in self.nodes() if at.locks == 0)
        for at in node.path():
            at.locks -= 1
        self.matched = node
        return hits if ask.prompt_blocks - hits <= self.free + evictable else None

    def admit(self, i: int, ask: Ask, hits: int, now_s: float) -> None:
        """Lock, allocate, insert, match again and move the lock."""
        self.current, counts = i, self.counts
        self.begin(ask, hits, now_s, admitted=True)
        before = counts["evicted_blocks"]
        node = self.matched
        self.lock(node)
        self.allocate(ask.prompt_blocks - hits)
        self.touch(self.root)
        leaf, found = self.insert(self.root, ask.blocks, ask.priority, count=True)
        if found < len(ask.blocks):
            self.entered(leaf, generated=False)
        self.free += found - hits
        again, _ = self.match_prefix(ask.blocks)
        assert again is leaf
        self.lock(leaf)
        self.unlock(node)
        self.running[i] = Holding(ask, hits, leaf, ask.prompt_blocks - len(ask.blocks))
        counts["hit_blocks"] += hits
        counts["looked_up_blocks"] += len(ask.blocks)
        counts["admitted_blocks"] += len(ask.blocks) - found
        counts["bypassed_blocks"] += found - hits
        used = self.resident() + self.scratch()
        counts["peak_resident_blocks"] = max(counts["peak_resident_blocks"], self.resident())
        counts["peak_used_blocks"] = max(counts["peak_used_blocks"], used)
        counts["sum_used_blocks"] += used
        self.end(len(ask.blocks), hits, counts["evicted_blocks"] - before)
        self.conserve()

    def finish(self, i: int, now_s: float) -> None:
        """Insert what generated tokens filled, as far as there is room, and unlock."""
        self.current = i
        held = self.running[i]
        ask, new = held.ask, 0
        self.begin(ask, held.hits, now_s, admitted=False)
        more = self.allocate(ask.total_blocks - ask.prompt_blocks)
        kept = ask.generated[: held.scratch + more]
        if kept:
            self.touch(self.root)
            node, _ = self.insert(self.root, ask.blocks, ask.priority, count=False)
            leaf, found = self.insert(node, kept, ask.priority - 1, count=True)
            new = len(kept) - found
            if new:
                self.entered(leaf, generated=True)
        self.free += held.scratch + more - new
        self.counts["generated_blocks"] += new
        self.counts["dropped_generated_blocks"] += len(ask.generated) - new
        del self.running[i]
        self.unlock(held.node)
        self.conserve()

    def allocate(self, need: int) -> int:
        """Take blocks, evicting the shortfall first; return how many there were."""
        if self.free < need:
            self.evict(need - self.free)
        taken = max(min(need, self.free), 0)
        self.free -= taken
        return taken

    def resident(self) -> int:
        """Return the blocks in the tree."""
        return sum(len(node.key) for node in self.nodes())

    def scratch(self) -> int:
        """Return the blocks running requests hold outside the tree."""
        return sum(held.scratch for held in self.running.values())

    def conserve(self) -> None:
        """Assert the conservation law, and that locks are the running requests' paths."""
        assert self.free >= 0
        assert self.free + self.resident() + self.scratch() == self.capacity
        for node in self.nodes():
            assert node.key
            assert node.locks == sum(node in held.node.path() for held in self.running.values())

    # ---- what a user policy adds -----------------------------------------------------------------------------------

    def key(self, node: TreeNode) -> tuple[float, ...]:
        """Return what the heap sorts by."""
        assert self.strategy
        return self.strategy.key(node)

    def begin(self, ask: Ask, hits: int, now_s: float, admitted: bool) -> None:
        """Note that a request is admitted or finishes."""

    def end(self, full: int, hits: int, evicted: int) -> None:
        """Note that a request was admitted."""

    def passed(self, node: TreeNode) -> None:
        """Note that an insert found a node."""

    def entered(self, node: TreeNode, generated: bool) -> None:
        """Note a new node."""

    def leaves(self, node: TreeNode) -> None:
        """Note that a node is being evicted."""

    def let_go(self, node: TreeNode) -> None:
        """Note that nothing locks a node any more."""


COUNTED = (
    *("hit_blocks", "looked_up_blocks", "admitted_blocks", "bypassed_blocks", "evicted_blocks", "generated_blocks"),
    *("dropped_generated_blocks", "peak_resident_blocks", "peak_used_blocks", "sum_used_blocks"),
)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
