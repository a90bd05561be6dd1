"""Closes what is left between a fitted trace and the real one: a few factors, searched against the hit curves.

The tables have each distribution; what a generator makes of them together is a little off, because a request finds
only about the earlier one that was drawn. Knows the factors in the tables and the curves; must not know how traces
are made. Deterministic: other seeds than these are what to judge the result by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sim.ladder import Ladder, ladder
from workloads.fitted import fitted
from workloads.progress import tell
from workloads.trace import Trace

GOAL_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Cache sizes that count, as shares of the distinct blocks."""
SEEDS = (910_001, 910_002, 910_003)
LARGE_REFS = 2_000_000
"""Of a trace with more block references one seed is tried: draws matter less there, and cost more."""
CLOSE_ENOUGH = 0.75
"""Percentage points; a largest error below ends the search."""
STEPS = (0.06, 0.02)
FACTORS = ("age_scale", "depth_scale")
START: tuple[dict[str, float], ...] = ({}, {"choice": 1}, {"depth_weight": 0.5})


def calibrated(trace: Trace, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables with the factors with which traces from them come closest to the real one.

    Args:
        trace: The real trace.
        tables: What :func:`workloads.fitted.fit` made of it.
    """
    search = _Search(trace, tables)
    best: dict[str, float] = min(START, key=search.error)
    for step in STEPS:
        for factor in FACTORS:
            best = search.along(factor, step, best)
    return {**tables, "match": {key: round(value, 4) for key, value in best.items()}}


class _Search:
    def __init__(self, trace: Trace, tables: Mapping[str, Any]) -> None:
        self._real, self._tables = ladder(trace, GOAL_SHARES), tables
        self._seeds = SEEDS[:1] if trace.n_refs > LARGE_REFS else SEEDS
        self._known: dict[tuple[tuple[str, float], ...], float] = {}
        self._found = np.inf

    def error(self, match: Mapping[str, float]) -> float:
        """Return how far traces made with these factors are off; what is known to be close ends the search."""
        key = tuple(sorted(match.items()))
        if key not in self._known:
            if self._found < CLOSE_ENOUGH:
                return np.inf
            made = (fitted(seed, tables={**self._tables, "match": match}) for seed in self._seeds)
            errors = np.array([difference(ladder(trace, GOAL_SHARES), self._real) for trace in made])
            self._known[key] = float(np.abs(errors).max() + np.abs(errors).mean())
            self._found = min(self._found, float(np.abs(errors).max()))
            tell("calibrating, attempts", len(self._known))
        return self._known[key]

    def along(self, factor: str, step: float, start: dict[str, float]) -> dict[str, float]:
        """Return the best factors on a walk from `start`, up or down by `step` as long as that helps."""
        best = start
        for direction in (1 + step, 1 / (1 + step)):
            while True:
                tried = {**best, factor: round(best.get(factor, 1.0) * direction, 4)}
                if self.error(tried) >= self.error(best):
                    break
                best = tried
            if best is not start:
                break
        return best


def difference(made: Ladder, real: Ladder) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return LRU's, then the optimum's percentage points above the real ones, size by size."""
    return np.concatenate((made.lru - real.lru, made.optimum - real.optimum))
