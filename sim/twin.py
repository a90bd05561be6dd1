"""The slow, obvious twin of the policy engine: dicts, lists, and `min` over all candidates.

Knows the rules of the policy contract; must not know the kernels. `tests/test_twin.py` holds the two to equal hits,
counters and evictions on random traces, policies and options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

from sim.policy.compiler import python_functions
from sim.policy.program import Policy
from sim.simulation import Options, PolicyError
from sim.twin_records import Records
from sim.twin_server import Ask, asks_of, serve
from workloads.trace import Trace

TICKS_PER_S = 1024.0
AVERAGE_REQUESTS = 64.0

Hook = Callable[..., float]


@dataclass(frozen=True)
class TwinOutcome:
    """What a replay found: hits and admission times per request, counters by name, (request, block) per eviction."""

    hits: list[int]
    start_s: list[float]
    counts: dict[str, int]
    evictions: list[tuple[int, int]]


@dataclass(eq=False)
class Node:
    """One physical block in the cache."""

    block: int
    record: SimpleNamespace
    users: int = 1
    touch_score: float = 0.0


@dataclass(eq=False)
class Held:
    """What a running request holds: nodes in prefix order, and blocks that are not in the cache (scratch)."""

    ask: Ask
    hits: int
    nodes: list[Node]
    scratch: int = field(default=0)


class PolicyCache:
    """The cache under a policy, one method per step of a request."""

    def __init__(self, trace: Trace, asks: list[Ask], policy: Policy, capacity_blocks: int, options: Options) -> None:
        self.policy, self.capacity, self.options = policy, capacity_blocks, options
        functions = python_functions(policy)
        self.priority: Hook = functions["priority"]
        self.admits: Hook = functions.get("admit", lambda block, request, cache: 1.0)
        self.on_hit: Hook = functions.get("on_hit", lambda block, request, cache: 0.0)
        self.on_insert: Hook = functions.get("on_insert", lambda block, request, cache: 0.0)
        self.on_evict: Hook = functions.get("on_evict", lambda block, cache: 0.0)
        self.parent = {b: a for ask in asks for a, b in _links(ask)}
        self.nodes: dict[int, list[Node]] = {}
        """Per block, its physical copies, first inserted first: a lookup returns the first."""
        self.running: dict[int, Held] = {}
        self.records = Records(options.ghost_blocks)
        self.request, self.cache = self.records.request, self.records.cache
        self.cache.capacity_blocks, self.cache.block_tokens = float(capacity_blocks), float(trace.block_tokens)
        self.cache.now = self.released = float(options.clock_origin)
        self.counts = {name: 0 for name in COUNTED}
        self.evictions: list[tuple[int, int]] = []
        self.current = 0

    # ---- what is there ---------------------------------------------------------------------------------------------

    def resident(self) -> int:
        """Return the physical blocks a lookup, or a later one, can find."""
        return sum(len(copies) for copies in self.nodes.values())

    def scratch(self) -> int:
        """Return the blocks running requests hold that are not in the cache."""
        return sum(held.scratch for held in self.running.values())

    def free(self) -> int:
        """Return the blocks nothing holds."""
        return self.capacity - self.resident() - self.scratch()

    def find(self, block: int) -> Node | None:
        """Return the node a lookup returns."""
        copies = self.nodes.get(block)
        return copies[0] if copies else None

    def above(self, block: int) -> Node | None:
        """Return the node of the block before it."""
        return self.find(self.parent[block]) if block in self.parent else None

    def candidates(self) -> list[Node]:
        """Return what may be evicted now."""
        every = [node for copies in self.nodes.values() for node in copies if node.users == 0]
        return [node for node in every if self.options.orphans or node.record.children == 0]

    # ---- the server's questions ------------------------------------------------------------------------------------

    def match(self, ask: Ask) -> int | None:
        """Return the hits, or None if evicting everything unused would not make room."""
        hits = 0
        while hits < ask.hit_limit and self.find(ask.blocks[hits]):
            hits += 1
        found = {id(self.find(block)) for block in ask.blocks[:hits]}
        used = [node for copies in self.nodes.values() for node in copies if node.users > 0 or id(node) in found]
        return hits if self.scratch() + len(used) + ask.prompt_blocks - hits <= self.capacity else None

    def admit(self, i: int, ask: Ask, hits: int, now_s: float) -> None:
        """Touch hits, decide on the others, make room, insert."""
        self.current = i
        self.cache.now += 1.0
        self.observe(now_s)
        known = hits
        while known < len(ask.blocks) and (self.find(ask.blocks[known]) or ask.blocks[known] in self.records.ghosts):
            known += 1
        self.records.present(ask, hits, known)
        evicted = self.counts["evicted_blocks"]
        held = Held(ask, hits, [])
        for block in ask.blocks[:hits]:
            held.nodes.append(self.hit(block))
        entering = self.decide(ask, hits)
        self.make_room(ask.prompt_blocks - hits)
        held.nodes += [self.enter(block, record) for block, record in entering]
        held.scratch = ask.prompt_blocks - len(held.nodes)
        self.running[i] = held
        self.account(len(ask.blocks), hits, len(held.nodes), self.counts["evicted_blocks"] - evicted)

    def finish(self, i: int, now_s: float) -> None:
        """Let generated blocks enter, then release everything last to first."""
        self.current = i
        self.observe(now_s)
        held = self.running[i]
        ask = held.ask
        if ask.total_blocks > ask.prompt_blocks or ask.generated:
            self.records.present(ask, held.hits)
            held.nodes += self.generate(held)
        del self.running[i]
        for node in reversed(held.nodes):
            self.let_go(node)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def hit(self, block: int) -> Node:
        """Use a block that was found."""
        node = self.nodes[block][0]
        node.users += 1
        self.records.touch(node.record)
        node.record.hits += 1
        self.on_hit(node.record, self.request, self.cache)
        return node

    def decide(self, ask: Ask, hits: int) -> list[tuple[int, SimpleNamespace | None]]:
        """Return blocks that enter, with their records; None marks a further copy, whose record does not exist yet.

        Admission is asked until the first refusal: what is in the cache stays a prefix. Refused blocks are remembered.
        """
        entering: list[tuple[int, SimpleNamespace | None]] = []
        refused = False
        for depth in range(hits, len(ask.blocks)):
            block = ask.blocks[depth]
            node = self.find(block)
            if node and depth == hits == len(ask.blocks) - 1:
                return [(block, None)] if self.admits(node.record, self.request, self.cache) else []
            while node:  # an orphan: recomputed, the old ones, copies too, go
                assert node.users == 0
                self.evict(node)
                node = self.find(block)
            record = self.records.recalled(block, depth, generated=False)
            self.records.touch(record)
            refused = refused or not self.admits(record, self.request, self.cache)
            if refused:
                self.records.remember(block, record)
            else:
                entering.append((block, record))
        return entering

    def enter(self, block: int, record: SimpleNamespace | None) -> Node:
        """Make a block resident, in use by the running request."""
        if record is None:
            first = self.find(block)
            depth = len(self.running_path(block))
            record = (
                SimpleNamespace(**vars(first.record)) if first else self.records.recalled(block, depth, generated=False)
            )
            self.records.touch(record)
        record.inserted, record.inserted_s = self.cache.now, self.cache.now_s
        record.hits = record.children = 0.0
        parent = self.above(block)
        if parent:
            parent.record.children += 1
        node = Node(block, record)
        self.nodes.setdefault(block, []).append(node)
        self.on_insert(record, self.request, self.cache)
        return node

    def running_path(self, block: int) -> list[int]:
        """Return the blocks before a block in its prefix."""
        path: list[int] = []
        while block in self.parent:
            block = self.parent[block]
            path.append(block)
        return path

    def generate(self, held: Held) -> list[Node]:
        """Insert the blocks generated tokens completed, as far as there is room and the policy agrees."""
        ask, entered = held.ask, list[Node]()
        more = ask.total_blocks - ask.prompt_blocks
        if more > 0:
            self.make_room(more)
        tail = ask.prompt_blocks - len(ask.blocks)
        room = min(self.free(), more) + tail
        for rank, block in enumerate(ask.generated):
            if len(held.nodes) < len(ask.blocks) or rank >= room or self.find(block):
                break
            record = self.records.recalled(block, len(ask.blocks) + rank, generated=True)
            self.records.touch(record)
            if not self.admits(record, self.request, self.cache):
                self.records.remember(block, record)
                break
            entered.append(self.enter(block, record))
        self.counts["generated_blocks"] += len(entered)
        self.counts["dropped_generated_blocks"] += len(ask.generated) - len(entered)
        return entered

    def let_go(self, node: Node) -> None:
        """Stop using a node; the last user releases it."""
        node.users -= 1
        if node.users == 0:
            self.released += 1
            node.record.released = self.released
            if self.policy.scoring == "touch":
                node.touch_score = self.score(node)

    def make_room(self, need: int) -> None:
        """Evict lowest (score, release) first; scores are taken at the start, or as a block becomes a candidate."""
        if self.free() >= need:
            return
        scores: dict[int, float] = {}
        while self.free() < need:
            candidates = self.candidates()
            if not candidates:
                return
            for node in candidates:
                if id(node) not in scores:
                    touch = self.policy.scoring == "touch"
                    scores[id(node)] = node.touch_score if touch else self.score(node)
            self.evict(min(candidates, key=lambda node: (scores[id(node)], node.record.released)))

    def evict(self, node: Node) -> None:
        """Take a node out of the cache; when the last copy goes, its record is remembered."""
        self.on_evict(node.record, self.cache)
        self.evictions.append((self.current, node.block))
        self.counts["evicted_blocks"] += 1
        self.nodes[node.block].remove(node)
        if not self.nodes[node.block]:
            del self.nodes[node.block]
            self.records.remember(node.block, node.record)
        parent = self.above(node.block)
        if parent:
            parent.record.children = max(parent.record.children - 1.0, 0.0)

    def score(self, node: Node) -> float:
        """Return the policy's score."""
        score = float(self.priority(node.record, self.cache))
        if not math.isfinite(score):
            raise PolicyError(f"{self.policy.name}: priority is not finite at request {self.current}")
        return score

    def observe(self, now_s: float) -> None:
        """Show the policy the cache."""
        used = sum(node.users > 0 for copies in self.nodes.values() for node in copies)
        self.cache.now_s = math.floor(now_s * TICKS_PER_S) / TICKS_PER_S + self.options.clock_origin
        self.cache.resident_blocks = float(self.resident())
        self.cache.running_blocks = float(used + self.scratch())
        self.cache.hit_rate = self.counts["hit_blocks"] / max(self.counts["looked_up_blocks"], 1)

    def account(self, full: int, hits: int, held: int, evicted: int) -> None:
        """Count an admission."""
        counts, cache = self.counts, self.cache
        counts["hit_blocks"] += hits
        counts["looked_up_blocks"] += full
        counts["admitted_blocks"] += held - hits
        counts["bypassed_blocks"] += full - held
        counts["peak_resident_blocks"] = max(counts["peak_resident_blocks"], self.resident())
        counts["peak_used_blocks"] = max(counts["peak_used_blocks"], self.resident() + self.scratch())
        counts["sum_used_blocks"] += self.resident() + self.scratch()
        if full:
            cache.recent_hit_rate += (hits / full - cache.recent_hit_rate) / AVERAGE_REQUESTS
        cache.pressure += (evicted - cache.pressure) / AVERAGE_REQUESTS
        cache.request_blocks += (full - cache.request_blocks) / AVERAGE_REQUESTS


COUNTED = (
    "hit_blocks",
    "looked_up_blocks",
    "admitted_blocks",
    "bypassed_blocks",
    "evicted_blocks",
    "generated_blocks",
    "dropped_generated_blocks",
    "peak_resident_blocks",
    "peak_used_blocks",
    "sum_used_blocks",
)


def _links(ask: Ask) -> list[tuple[int, int]]:
    """Return (block, the block that continues it) along a request."""
    path = ask.blocks + ask.generated
    return list(pairwise(path))


def twin_policy(trace: Trace, policy: Policy, capacity_blocks: int, options: Options) -> TwinOutcome:
    """Replay a trace against a policy, slowly.

    Args:
        trace: What to replay.
        policy: A checked policy.
        capacity_blocks: Size of the cache.
        options: As for `sim.simulate`.

    Returns:
        Hits, admission times, counters (all of the kernel's but the number of priority calls) and evictions.

    Raises:
        PolicyError: If a priority is not finite.
    """
    asks = asks_of(trace, options.decode)
    cache = PolicyCache(trace, asks, policy, capacity_blocks, options)
    served = serve(asks, trace.block_tokens, capacity_blocks, options, cache)
    totals = {
        "unserved_requests": served.hits.count(-1),
        "resident_blocks": cache.resident(),
        "waited_requests": served.waited,
    }
    return TwinOutcome(served.hits, served.start_s, cache.counts | totals, cache.evictions)
