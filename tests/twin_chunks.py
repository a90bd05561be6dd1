"""The slow, obvious twin of `sim.core.chunks`: a dict of records, `min` over all candidates.

LMCache (one by one) and vLLM's CPU tier (all or nothing) under a user policy.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from sim.options import Options
from sim.policy.compiler import python_functions
from sim.policy.program import Policy
from sim.twin_records import Records
from sim.twin_server import Ask, asks_of
from workloads.trace import Trace

AVERAGE_REQUESTS = 64.0
TICKS_PER_S = 1024.0


class ChunkStore:
    """The stored chunks under a policy."""

    def __init__(self, trace: Trace, policy: Policy, capacity: int, options: Options) -> None:
        functions = python_functions(policy)
        self.touch_time = policy.scoring == "touch"
        self.priority = functions["priority"]
        self.admits = functions.get("admit", lambda block, request, cache: 1.0)
        self.on_hit = functions.get("on_hit", lambda block, request, cache: 0.0)
        self.on_insert = functions.get("on_insert", lambda block, request, cache: 0.0)
        self.on_evict = functions.get("on_evict", lambda block, cache: 0.0)
        self.asks = asks_of(trace, "none")
        self.parent = {b: a for ask in self.asks for a, b in zip(ask.blocks, ask.blocks[1:], strict=False)}
        self.capacity, self.origin = capacity, options.clock_origin
        self.records = Records(options.ghost_blocks)
        self.request, self.cache = self.records.request, self.records.cache
        self.cache.capacity_blocks, self.cache.block_tokens = float(capacity), float(trace.block_tokens)
        self.cache.now = self.released = float(self.origin)
        self.stored: dict[int, SimpleNamespace] = {}
        self.score_at_release: dict[int, float] = {}
        self.evictions: list[tuple[int, int]] = []
        self.hits: list[int] = []
        self.looked_up = self.admitted = self.i = 0

    def run(self, atomic: bool, gpu_hits: list[int] | None = None) -> None:
        """Replay all requests."""
        for i, ask in enumerate(self.asks):
            self.i = i
            on_gpu = gpu_hits[i] if gpu_hits else 0
            if on_gpu < 0:
                self.hits.append(-1)
                continue
            limit = ask.hit_limit if atomic else len(ask.blocks)
            found = on_gpu
            while found < limit and ask.blocks[found] in self.stored:
                found += 1
            hits, evicted = min(found, ask.hit_limit), len(self.evictions)
            self.observe(ask, hits)
            self.admitted += self.batch(ask, on_gpu, found) if atomic else self.one_by_one(ask, found)
            self.hits.append(hits)
            self.looked_up += len(ask.blocks)
            self.average(len(ask.blocks), hits, len(self.evictions) - evicted)

    def one_by_one(self, ask: Ask, found: int) -> int:
        """LMCache."""
        pinned, put, scores = ask.blocks[:found], 0, dict[int, float]()
        for block in reversed(pinned):
            self.use(block)
            self.release(block)
        for depth in range(found, len(ask.blocks)):
            block = ask.blocks[depth]
            if block in self.stored:
                continue
            if len(self.stored) == self.capacity and not self.evict(pinned, scores):
                break
            self.enter(block, self.offered(block, depth))
            self.release(block)
            put += 1
        return put

    def batch(self, ask: Ask, on_gpu: int, found: int) -> int:
        """The CPU tier."""
        loaded = ask.blocks[on_gpu:found]
        offer = ask.blocks[found:] if loaded else ask.blocks
        wanted: dict[int, SimpleNamespace] = {}
        for block in loaded:
            self.use(block)
        present = [block for block in offer if block in self.stored]
        for depth, block in enumerate(ask.blocks):
            if block in present:
                self.use(block)
            elif block in offer:
                record = self.offered(block, depth)
                if self.admits(record, self.request, self.cache):
                    wanted[block] = record
                else:
                    self.records.remember(block, record)
        need = len(wanted) - (self.capacity - len(self.stored))
        if need > 0:
            for block in reversed(loaded):
                self.release(block)
        if need > len(self.stored) - len(present):
            for block, record in wanted.items():
                self.records.remember(block, record)
            wanted = {}
        scores: dict[int, float] = {}
        for _ in range(max(need, 0) if wanted else 0):
            self.evict(present, scores)
        for block, record in wanted.items():
            self.enter(block, record)
        for block in reversed(loaded + offer):
            if block in self.stored:
                self.release(block)
        return len(wanted)

    def use(self, block: int) -> None:
        """Touch a stored chunk."""
        record = self.stored[block]
        self.records.touch(record)
        record.hits += 1
        self.on_hit(record, self.request, self.cache)

    def offered(self, block: int, depth: int) -> SimpleNamespace:
        """Return the touched record of a missing chunk."""
        record = self.records.recalled(block, depth, generated=False)
        self.records.touch(record)
        return record

    def enter(self, block: int, record: SimpleNamespace) -> None:
        """Store a chunk."""
        record.inserted, record.inserted_s = self.cache.now, self.cache.now_s
        record.children = float(sum(self.parent.get(other) == block for other in self.stored))
        if self.parent.get(block) in self.stored:
            self.stored[self.parent[block]].children += 1
        self.stored[block] = record
        self.on_insert(record, self.request, self.cache)

    def release(self, block: int) -> None:
        """Make a chunk the most recent."""
        self.released += 1
        self.stored[block].released = self.released
        if self.touch_time:
            self.score_at_release[block] = self.score(block)

    def score(self, block: int) -> float:
        """Return the policy's score."""
        return float(self.priority(self.stored[block], self.cache))

    def evict(self, kept: list[int], scores: dict[int, float]) -> bool:
        """Evict the lowest score outside `kept`; `scores` are those of this request. False if there is none."""
        candidates = [block for block in self.stored if block not in kept]
        if not candidates:
            return False
        for block in candidates:
            if block not in scores:
                scores[block] = self.score_at_release[block] if self.touch_time else self.score(block)
        victim = min(candidates, key=lambda block: (scores[block], self.stored[block].released))
        del scores[victim]
        self.on_evict(self.stored[victim], self.cache)
        self.evictions.append((self.i, victim))
        self.records.remember(victim, self.stored.pop(victim))
        if self.parent.get(victim) in self.stored:
            self.stored[self.parent[victim]].children -= 1
        return True

    def observe(self, ask: Ask, hits: int) -> None:
        """Show the policy the cache and the request."""
        cache = self.cache
        cache.now += 1
        cache.now_s = math.floor(ask.arrival_s * TICKS_PER_S) / TICKS_PER_S + self.origin
        cache.resident_blocks, cache.running_blocks = float(len(self.stored)), 0.0
        cache.hit_rate = sum(h for h in self.hits if h > 0) / max(self.looked_up, 1)
        known = hits
        while known < len(ask.blocks) and (
            ask.blocks[known] in self.stored or ask.blocks[known] in self.records.ghosts
        ):
            known += 1
        self.records.present(ask, hits, known)

    def average(self, full: int, hits: int, evicted: int) -> None:
        """Move the averages."""
        cache = self.cache
        if full:
            cache.recent_hit_rate += (hits / full - cache.recent_hit_rate) / AVERAGE_REQUESTS
        cache.pressure += (evicted - cache.pressure) / AVERAGE_REQUESTS
        cache.request_blocks += (full - cache.request_blocks) / AVERAGE_REQUESTS


def twin_chunks(
    trace: Trace, policy: Policy, capacity: int, options: Options, atomic: bool, gpu_hits: list[int] | None = None
) -> ChunkStore:
    """Replay a trace against a policy, slowly; return the final store."""
    store = ChunkStore(trace, policy, capacity, options)
    store.run(atomic, gpu_hits)
    return store
