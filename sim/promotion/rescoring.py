"""The same hits from elsewhere: a fresh, isolated process, and the pure-Python twin of the policy engine.

Knows both ways to replay. Must not know what hits are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from sim.evaluation import Evaluator
from sim.executor import run
from sim.isolation import Limits
from sim.policy.program import Policy, clock_origin
from sim.prepared import prepare
from sim.promotion.replays import policy_hits
from sim.promotion.verdict import Check
from sim.simulation import Options
from sim.twin import twin_policy
from workloads.panel import Panel
from workloads.trace import Trace

LIMITS = Limits(wall_s=180.0, cpu_s=180.0, memory_bytes=1 << 30, output_bytes=64 << 20)
"""Six times what evolution gives a candidate: validation panels are larger, and `cost` has a rule of its own."""

TWIN_REFS = 3_000
"""Block references of the cut the twin replays; it looks at every block for every eviction."""
TWIN_SHARE = 0.25
"""Its cache, of the cut's distinct blocks: small enough that about half of what enters leaves."""


def check_isolated(panel: Panel, source: str) -> tuple[Check, tuple[int, ...]]:
    """Score a policy as evolution would, in a fresh process, sandboxed, its clocks shifted; return its hit tokens."""
    with closing(Evaluator(panel.split, panel.which, LIMITS)) as evaluator:
        found = evaluator.evaluate_source(source, advice=False)
        same = evaluator.panel.fingerprint == panel.fingerprint
    figures = {"stage": found.stage, "isolation": found.isolation, "hit_tokens": list(found.hit_tokens)}
    if not same:
        return Check("isolated", False, figures, "the panel changed while the policy was judged"), ()
    if found.stage != "panel":
        said = found.artifacts.get("rejection") or found.artifacts.get("weakest_cell", "")
        return Check("isolated", False, figures, f"stopped at stage {found.stage}: {' '.join(said.split())}"), ()
    text = f"runs in a fresh process under {found.isolation}; clocks may be shifted"
    return Check("isolated", True, figures, text), tuple(found.hit_tokens)


def same_hits(check: Check, isolated: Sequence[int], here: Sequence[int]) -> Check:
    """Return the check of the isolated run, failed if this process counts other hit tokens."""
    differing = [i for i, (one, other) in enumerate(zip(isolated, here, strict=True)) if one != other]
    if not differing:
        return Check("isolated", check.passed, check.figures, f"{check.reason}; equal hits in every cell")
    i = differing[0]
    text = f"cell {i}: {isolated[i]} hit tokens in a fresh process, {here[i]} in this one"
    return Check("isolated", False, {**check.figures, "here": list(here)}, text)


def check_twin(
    panel: Panel, policy: Policy, executor: str, workers: int | None, progress: Callable[[int, int], None]
) -> Check:
    """Replay the beginning of every trace with the kernel and with the twin."""
    jobs = [(name, policy.source) for name in panel.traces]
    found = run(against_twin, panel.traces, jobs, executor, workers, progress)
    figures = dict(zip(panel.traces, found, strict=True))
    wrong = [name for name, cut in figures.items() if cut["requests_that_differ"]]
    if wrong:
        cut = figures[wrong[0]]
        which = f"{cut['requests_that_differ']} of the first {cut['requests']} requests of {wrong[0]}"
        text = f"{which} hit otherwise in Python"
        return Check("twin", False, figures, text)
    replayed = sum(cut["requests"] for cut in figures.values())
    return Check("twin", True, figures, f"equal hits, request by request, over {replayed:,} requests")


def against_twin(trace: Trace, source: str) -> dict[str, int]:
    """Replay the beginning of a trace both ways."""
    requests = max(int(np.searchsorted(trace.offsets, TWIN_REFS, side="right")) - 1, 1)
    cut = trace.slice(0, min(requests, trace.n_requests))
    capacity = max(int(cut.occupied_blocks.max()), int(TWIN_SHARE * cut.n_blocks), 1)
    hits = policy_hits(prepare(cut), source, capacity)
    twin = twin_policy(cut, Policy.from_source(source), capacity, Options(clock_origin=clock_origin(source)))
    return {
        "requests": cut.n_requests,
        "capacity_blocks": capacity,
        "evictions": len(twin.evictions),
        "requests_that_differ": int(np.count_nonzero(hits != np.array(twin.hits))),
    }
