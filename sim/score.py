"""The score: one formula over the cells of a panel. Nothing else decides a score.

Knows hit tokens of a candidate, of LRU and of the optimum; must not know policies or traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import tanh

SCORED_GAP = 0.01
"""A cell counts if LRU and the optimum differ by at least this share of the prompt tokens."""
TOLERATED_LOSS = 0.01
"""Share of prompt tokens a policy may lose to LRU in a cell that does not count."""
LOSS_CHARGE = 2.0
"""Charge per share of prompt tokens lost beyond that, summed over such cells: 0.02 per percentage point."""
WORST_WEIGHT = 0.2
"""Weight of the worst trace against the mean over cells."""
NODE_CHARGE = 0.0001
"""Charge per syntax node: 50 nodes cost half a percent of the gap."""
LOWEST = -0.9
"""No valid score is lower: negative ones are squeezed towards it, order kept (`_squeezed`)."""
REJECTED = -1.0
"""Score of a candidate that broke the contract, crashed or ran out of time."""


class NoCellCounts(ValueError):
    """LRU is so near the optimum everywhere that nothing can be scored."""


@dataclass(frozen=True)
class Cell:
    """One trace at one capacity: tokens of the candidate against LRU and the optimum, of the requests that count."""

    trace: str
    fraction: float
    capacity_blocks: int
    prompt_tokens: int
    lru_hit_tokens: int
    optimum_hit_tokens: int
    hit_tokens: int
    weight: float = 1.0
    """In the mean; equal for all cells unless the panel says otherwise."""

    @property
    def counts(self) -> bool:
        """Whether LRU leaves enough room for the cell to be scored."""
        return self.optimum_hit_tokens - self.lru_hit_tokens >= SCORED_GAP * self.prompt_tokens

    @property
    def gap_closed(self) -> float:
        """0 is LRU, 1 the offline optimum; 0 if there is no gap."""
        gap = self.optimum_hit_tokens - self.lru_hit_tokens
        return (self.hit_tokens - self.lru_hit_tokens) / gap if gap > 0 else 0.0

    @property
    def lost(self) -> float:
        """Share of the prompt tokens lost to LRU; negative if won."""
        return (self.lru_hit_tokens - self.hit_tokens) / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True)
class Score:
    """A score and its parts: combined = squeezed(0.8 * mean + 0.2 * worst_trace - loss_charge - size_charge)."""

    combined: float
    mean: float
    worst_trace: float
    worst_trace_name: str
    loss_charge: float
    size_charge: float
    by_trace: dict[str, float]


def score(cells: Sequence[Cell], nodes: int) -> Score:
    """Score a candidate.

    mean: over cells that count, of the gap closed, each at least -1, by weight. worst_trace: the lowest mean over the
    cells of one trace, whatever its weight. loss_charge: `LOSS_CHARGE` for each share of prompt tokens beyond
    `TOLERATED_LOSS` lost to LRU in cells that do not count. size_charge: `NODE_CHARGE` per node. A negative sum is
    squeezed into (LOWEST, 0), so that far below LRU worse is still worse and every valid score stays above `REJECTED`.

    Args:
        cells: All cells of the panel.
        nodes: Size of the policy in syntax nodes; 0 for the engine's own.

    Raises:
        NoCellCounts: If no cell counts.
    """
    shares: dict[str, list[float]] = {}
    weights: dict[str, float] = {}
    for cell in cells:
        if cell.counts:
            shares.setdefault(cell.trace, []).append(max(cell.gap_closed, -1.0))
            weights[cell.trace] = cell.weight
    if not shares:
        raise NoCellCounts("no cell counts: LRU is within one percentage point of the optimum everywhere")
    by_trace = {trace: sum(values) / len(values) for trace, values in shares.items()}
    every = [(weights[trace], value) for trace, values in shares.items() for value in values]
    mean = sum(weight * value for weight, value in every) / sum(weight for weight, _ in every)
    worst = min(by_trace, key=lambda trace: by_trace[trace])
    loss = LOSS_CHARGE * sum(max(cell.lost - TOLERATED_LOSS, 0.0) for cell in cells if not cell.counts)
    size = NODE_CHARGE * nodes
    combined = (1.0 - WORST_WEIGHT) * mean + WORST_WEIGHT * by_trace[worst] - loss - size
    return Score(_squeezed(combined), mean, by_trace[worst], worst, loss, size, by_trace)


def by_capacity(cells: Sequence[Cell]) -> dict[str, float]:
    """Return where a policy is good: the gap closed at the smaller and the larger half of each trace's cache sizes.

    Of the cells that count, each at least -1; the middle one of an odd number is in neither half.

    Returns:
        "scarce_gap_closed", "ample_gap_closed", 0 without such cells, and "capacity_tilt": tanh of three times the
        first minus the second, so that the worst policies, far apart, leave the others room on a scale.
    """
    halves: tuple[list[float], list[float]] = ([], [])
    for trace in {cell.trace: None for cell in cells}:
        rungs = sorted((c for c in cells if c.trace == trace and c.counts), key=lambda cell: cell.capacity_blocks)
        half = len(rungs) // 2
        for values, part in zip(halves, (rungs[:half], rungs[len(rungs) - half :]), strict=True):
            values += [max(cell.gap_closed, -1.0) for cell in part]
    scarce, ample = (sum(values) / len(values) if values else 0.0 for values in halves)
    return {"scarce_gap_closed": scarce, "ample_gap_closed": ample, "capacity_tilt": tanh(3.0 * (scarce - ample))}


def _squeezed(value: float) -> float:
    return value if value >= 0.0 else value / (1.0 + value / LOWEST)
