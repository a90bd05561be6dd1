"""Closes what is left between a fitted trace and the real one: a few factors, searched against the hit curves.

The tables have each distribution; what a generator makes of them together is a little off, because a request finds
only about the earlier one that was drawn. Knows the factors in the tables, the curves and the share of blocks used
once; must not know how traces are made. Deterministic: other seeds than these are what to judge the result by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.ladder import Ladder, ladder
from workloads.fitted import fitted
from workloads.progress import tell
from workloads.trace import Trace

GOAL_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Cache sizes that count, as shares of the distinct blocks."""
SEEDS = (910_001, 910_002, 910_003)
LARGE_REFS = 2_000_000
"""Of a trace with more block references one seed is tried: chance matters less there, and a try costs more."""
CLOSE_ENOUGH = 0.8
"""An error below ends the search."""
ONCE_WEIGHT = 0.1
"""What a point of the share of blocks used once counts, relative to a point of hits."""
CHOICES: tuple[tuple[str, float], ...] = (("turn_weight", 0.0), ("choice", 1), ("depth_weight", 0.5))
FACTORS = ("age_scale", "depth_scale")
STEPS = (0.06, 0.02)

Factors = dict[str, float]


def calibrated(trace: Trace, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables with the factors with which traces from them come closest to the real one.

    Args:
        trace: The real trace.
        tables: What :func:`workloads.fitted.fit` made of it.
    """
    search = _Search(trace, tables)
    best: Factors = {}
    for name, value in CHOICES:
        best = search.better(best, {**best, name: value})
    for step in STEPS:
        for factor in FACTORS:
            best = search.along(factor, step, best)
        for name, value in CHOICES:
            other = {key: kept for key, kept in best.items() if key != name}
            best = search.better(best, other if name in best else {**best, name: value})
    return {**tables, "match": best}


def difference(made: Ladder, real: Ladder) -> npt.NDArray[np.float64]:
    """Return LRU's, then the optimum's percentage points above the real ones, size by size."""
    return np.concatenate((made.lru - real.lru, made.optimum - real.optimum))


def once_percent(trace: Trace) -> float:
    """Return the share of blocks that are used once, in percent."""
    return 100 * float((np.bincount(trace.block_ids) == 1).mean()) if trace.n_blocks else 0.0


class _Search:
    def __init__(self, trace: Trace, tables: Mapping[str, Any]) -> None:
        self._real, self._once, self._tables = ladder(trace, GOAL_SHARES), once_percent(trace), tables
        self._seeds = SEEDS[:1] if trace.n_refs > LARGE_REFS else SEEDS
        self._known: dict[tuple[tuple[str, float], ...], float] = {}

    def better(self, one: Factors, other: Factors) -> Factors:
        """Return the factors with the smaller error, the first if equal."""
        return other if self._error(other) < self._error(one) else one

    def along(self, factor: str, step: float, start: Factors) -> Factors:
        """Return the best factors on a walk from `start`, up or else down by `step` as long as that helps."""
        best = start
        for direction in (1 + step, 1 / (1 + step)):
            while True:
                tried = {**best, factor: round(best.get(factor, 1.0) * direction, 4)}
                if self.better(best, tried) is best:
                    break
                best = tried
            if best is not start:
                break
        return best

    def _error(self, match: Factors) -> float:
        """Return how far traces made with these factors are off; once they are close nothing more is tried."""
        key = tuple(sorted(match.items()))
        if key not in self._known:
            if min(self._known.values(), default=np.inf) < CLOSE_ENOUGH:
                return np.inf
            tell("calibrating, attempts", len(self._known))
            made = [fitted(seed, tables={**self._tables, "match": match}) for seed in self._seeds]
            points = np.abs([difference(ladder(trace, GOAL_SHARES), self._real) for trace in made])
            once = np.abs([once_percent(trace) - self._once for trace in made])
            self._known[key] = float(points.max() + points.mean() + ONCE_WEIGHT * once.mean())
        return self._known[key]
