"""What a policy costs: its size, and its time per decision against a policy that costs next to nothing.

Times are ratios taken in one process, turn by turn, least of several: what else the machine does cancels out. A
decision is a block that enters, is refused or leaves.

Knows clocks and replays. Must not know hits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sim.policy.program import Policy
from sim.prepared import prepare
from sim.promotion.replays import compiled
from sim.promotion.verdict import Check
from sim.simulation import Options, run_policy
from workloads.panel import Panel
from workloads.trace import Trace

MOST_NODES = 250
"""Half of what the language allows: what a person reads through and an engine's maintainer would review. Nine weighted
logarithms have about 120."""
MOST_SLOWDOWN = 8.0
"""Times the cheapest policy, over all traces. Shipped policies and nine logarithms, scored exactly at every eviction,
cost 1 to 3 times as much; a loop of 64 exponentials 37 times."""
REPEATS, MOST_REPEATS = 2, 5
"""More repeats only while the ratio is above the budget: a busy machine must not fail a policy."""
CHEAPEST = 'SCORING = "touch"\n\n\ndef priority(block, cache):\n    return block.last_access\n'
"""LRU as a policy: one field, scored at release."""


def check_size(policy: Policy) -> Check:
    """Compare the size of a policy with the budget."""
    figures = {"nodes": policy.nodes, "most_nodes": MOST_NODES, "bytes": len(policy.source.encode())}
    text = f"{policy.nodes} syntax nodes of at most {MOST_NODES}"
    return Check("size", policy.nodes <= MOST_NODES, figures, text)


def check_cost(panel: Panel, source: str, progress: Callable[[int, int], None]) -> Check:
    """Time a policy on the middle capacity of every trace."""
    spent_s, cheap_s, decisions = 0.0, 0.0, 0
    by_trace = {}
    for done, (name, trace) in enumerate(panel.traces.items(), 1):
        sizes = [cell.capacity_blocks for cell in panel.cells if cell.trace_name == name]
        seconds, cheap, count = timed(trace, source, sizes[len(sizes) // 2])
        by_trace[name] = {"ns_per_decision": 1e9 * seconds / max(count, 1), "ratio": seconds / cheap}
        spent_s, cheap_s, decisions = spent_s + seconds, cheap_s + cheap, decisions + count
        progress(done, len(panel.traces))
    ratio, per_decision = spent_s / cheap_s, 1e9 * spent_s / max(decisions, 1)
    figures = {
        "ns_per_decision": per_decision,
        "ratio": ratio,
        "most_ratio": MOST_SLOWDOWN,
        "decisions": decisions,
        "traces": by_trace,
    }
    text = f"{per_decision:,.0f} ns per decision, {ratio:.1f} times the cheapest policy's, at most {MOST_SLOWDOWN:g}"
    return Check("cost", ratio <= MOST_SLOWDOWN, figures, text)


def timed(trace: Trace, source: str, capacity_blocks: int) -> tuple[float, float, int]:
    """Return the seconds of one replay, those of the cheapest policy, and the decisions of the former."""
    least = {CHEAPEST: float("inf"), source: float("inf")}
    decisions = 0
    for repeat in range(MOST_REPEATS):
        if repeat >= REPEATS and least[source] <= MOST_SLOWDOWN * least[CHEAPEST]:
            break
        for each in (CHEAPEST, source):
            policy = compiled(each)
            started = time.perf_counter()
            outcome = run_policy(prepare(trace), policy, capacity_blocks, Options())
            least[each] = min(least[each], time.perf_counter() - started)
        counts = outcome.counts
        decisions = counts["evicted_blocks"] + counts["admitted_blocks"] + counts["bypassed_blocks"]
    return least[source], least[CHEAPEST], decisions
