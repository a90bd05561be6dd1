"""What a user policy adds to the twin of SGLang's cache, and the replay of both: a trace in, hits and counters out.

Knows the fields of the contract as `sim.engines.sglang` explains them for segments; must not know the kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

from sim.core import fields
from sim.engines.sglang import Parameters
from sim.options import Options, PolicyError
from sim.policy.compiler import python_functions
from sim.policy.program import Policy
from sim.twin_records import Records
from sim.twin_server import Ask, asks_of, serve
from sim.twin_sglang import RadixCache, Strategy, TreeNode
from workloads.trace import Trace

TICKS_PER_S = 1024.0
AVERAGE_REQUESTS = 64.0


class PolicyRadixCache(RadixCache):
    """The cache under a user policy: every leaf is scored at every eviction call, ties by last access."""

    def __init__(self, trace: Trace, policy: Policy, capacity_blocks: int, options: Options) -> None:
        super().__init__(capacity_blocks, options, None)
        self.policy, self.functions = policy, python_functions(policy)
        self.kept = policy.scoring == "touch" and not policy.timeless
        self.records = Records(0)
        self.request, self.cache = self.records.request, self.records.cache
        self.cache.capacity_blocks, self.cache.block_tokens = float(capacity_blocks), float(trace.block_tokens)
        self.cache.now = float(options.clock_origin)

    def key(self, node: TreeNode) -> tuple[float, ...]:
        """Return the policy's score and the tie."""
        return (node.touch_score if self.kept else self.score(node), node.last_access)

    def score(self, node: TreeNode) -> float:
        """Ask the policy."""
        score = float(self.functions["priority"](self.shown(node), self.cache))
        if not math.isfinite(score):
            raise PolicyError(f"{self.policy.name}: priority is not finite at request {self.current}")
        return score

    def shown(self, node: TreeNode) -> SimpleNamespace:
        """Return the record with what the tree keeps."""
        node.record.released = float(node.last_access + self.options.clock_origin)
        node.record.children = float(len(node.children))
        return node.record

    def hook(self, name: str, node: TreeNode, *request: SimpleNamespace) -> None:
        """Run a hook the policy defines."""
        if name in self.functions:
            self.functions[name](self.shown(node), *request, self.cache)

    def begin(self, ask: Ask, hits: int, now_s: float, admitted: bool) -> None:
        """Show the policy the cache and the request."""
        self.cache.now += admitted
        locked = sum(len(node.key) for node in self.nodes() if node.locks)
        self.cache.now_s = math.floor(now_s * TICKS_PER_S) / TICKS_PER_S + self.options.clock_origin
        self.cache.resident_blocks = float(self.resident())
        self.cache.running_blocks = float(locked + self.scratch())
        self.cache.hit_rate = self.counts["hit_blocks"] / max(self.counts["looked_up_blocks"], 1)
        self.records.present(ask, hits, hits if admitted else None)

    def end(self, full: int, hits: int, evicted: int) -> None:
        """Bring the moving averages up to date."""
        cache = self.cache
        if full:
            cache.recent_hit_rate += (hits / full - cache.recent_hit_rate) / AVERAGE_REQUESTS
        cache.pressure += (evicted - cache.pressure) / AVERAGE_REQUESTS
        cache.request_blocks += (full - cache.request_blocks) / AVERAGE_REQUESTS

    def passed(self, node: TreeNode) -> None:
        """Touch the record of a node an insert found."""
        self.records.touch(node.record)
        node.record.hits += 1
        self.hook("on_hit", node, self.request)

    def entered(self, node: TreeNode, generated: bool) -> None:
        """Begin the record of a new node."""
        record = node.record
        self.records.touch(record)
        record.inserted, record.inserted_s = self.cache.now, self.cache.now_s
        record.depth, record.generated = float(node.end - len(node.key)), float(generated)
        assert record.gap == fields.NEVER
        self.hook("on_insert", node, self.request)
        if self.kept:
            node.touch_score = self.score(node)

    def leaves(self, node: TreeNode) -> None:
        """Run the policy's hook."""
        self.hook("on_evict", node)

    def let_go(self, node: TreeNode) -> None:
        """Keep the score of the last use, if the policy wants that."""
        if self.kept:
            node.touch_score = self.score(node)


@dataclass(frozen=True)
class TwinReplay:
    """Per request hits and admission times, counters by name, and per segment left (end, hits, last access, *ids)."""

    hits: list[int]
    start_s: list[float]
    counts: dict[str, int]
    segments: list[tuple[int, ...]]


def twin_sglang(
    trace: Trace, policy: str | Policy, capacity_blocks: int, options: Options, parameters: Parameters | None = None
) -> TwinReplay:
    """Replay a trace, slowly.

    Args:
        trace: What to replay.
        policy: Name of one of the engine's own policies, or a user policy.
        capacity_blocks: Size of the cache.
        options: As for `sim.simulate`.
        parameters: Of the engine's own policies.

    Raises:
        PolicyError: If a priority is not finite.
    """
    if isinstance(policy, Policy):
        cache: RadixCache = PolicyRadixCache(trace, policy, capacity_blocks, options)
    else:
        cache = RadixCache(capacity_blocks, options, Strategy(policy, parameters or Parameters()))
    served = serve(asks_of(trace, options.decode), trace.block_tokens, capacity_blocks, options, cache)
    totals = {
        "unserved_requests": served.hits.count(-1),
        "resident_blocks": cache.resident(),
        "waited_requests": served.waited,
    }
    segments = sorted((node.end, node.hit_count, node.last_access, *node.key) for node in cache.nodes())
    return TwinReplay(served.hits, served.start_s, cache.counts | totals, segments)
