"""Successive halving: a generation's candidates race over the rungs of a panel; only survivors see all cells.

Jamieson and Talwalkar, 2016, arXiv 1502.07943, with cells of a panel as the resource. Knows candidates and rungs; must
not know where candidates come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.search.trial import Candidate, Trial

KEPT = 1 / 3
"""Part of the candidates that goes on to the next rung."""

Rungs = Sequence[Sequence[int]]


def survivors(count: int, rungs: Rungs) -> list[int]:
    """Return how many of `count` candidates are replayed at each rung, at least one."""
    return [max(1, math.ceil(count * KEPT**i - 1e-9)) for i in range(len(rungs))]


def cost(count: int, rungs: Rungs, shares: Sequence[float]) -> float:
    """Return the passes that a race of `count` candidates costs at most."""
    return sum(
        alive * sum(shares[cell] for cell in rung) for alive, rung in zip(survivors(count, rungs), rungs, strict=True)
    )


def affordable(count: int, rungs: Rungs, shares: Sequence[float], passes: float) -> int:
    """Return how many of `count` candidates may race for so many passes."""
    return next((n for n in range(count, 0, -1) if cost(n, rungs, shares) <= passes + 1e-9), 0)


def race(trial: Trial, candidates: Sequence[Candidate], rungs: Rungs) -> list[Candidate]:
    """Run a generation.

    At each rung the score decides who goes on, with what is expected in the cells not replayed yet.

    Returns:
        The candidates, best first: those that got further before those that did not, then by score.

    Raises:
        sim.search.trial.OutOfTime: If the deadline has passed.
    """
    ranked: list[Candidate] = list(candidates)
    if not ranked:
        return ranked
    alive = survivors(len(ranked), rungs)
    for number, rung in enumerate(rungs):
        running = ranked[: alive[number]]
        for candidate in running:
            if number < len(rungs) - 1:
                trial.advance(candidate, rung)
            else:
                trial.finish(candidate)
        ranked[: alive[number]] = sorted(running, key=lambda candidate: -candidate.score)
    return ranked
