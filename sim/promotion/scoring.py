"""The score of one policy on one split, with all that it is made of, counted anew: nothing comes from a cache.

Knows panels and the score. Must not know bundles or rules. Who asks for the test split is `sim.promotion.promotion`,
once, and `sim.promotion.validation`, which confirms.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.executor import run
from sim.policy.program import Policy
from sim.promotion.manifest import CellScore, SplitScore
from sim.promotion.replays import Tokens, tokens_of
from sim.score import score
from workloads.panel import Panel
from workloads.trace import Trace


def score_on(
    panel: Panel,
    policy: Policy,
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SplitScore:
    """Replay a policy, LRU and the optimum in every cell of a panel."""
    jobs = [(c.trace_name, (c.capacity_blocks, c.first_counted, policy.source)) for c in panel.cells]
    found = run(replayed, panel.traces, jobs, executor, workers, progress)
    cells = tuple(
        CellScore(
            trace=cell.trace_name,
            fraction=float(cell.fraction),
            capacity_blocks=cell.capacity_blocks,
            prompt_tokens=tokens.prompt,
            lru_hit_tokens=tokens.lru,
            optimum_hit_tokens=tokens.optimum,
            hit_tokens=tokens.hits,
            weight=float(panel.weight(cell.trace_name)),
        )
        for cell, tokens in zip(panel.cells, found, strict=True)
    )
    result = score([cell.cell() for cell in cells], policy.nodes)
    return SplitScore(
        fingerprint=panel.fingerprint,
        combined=result.combined,
        gap_closed_mean=result.mean,
        worst_trace=result.worst_trace_name,
        by_trace=result.by_trace,
        cells=cells,
    )


def replayed(trace: Trace, cell: tuple[int, int, str]) -> Tokens:
    """Replay one cell: capacity in blocks, first request that counts, source."""
    return tokens_of(trace, *cell)
