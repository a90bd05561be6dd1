"""The tuner: CMA-ES over the literals of a policy.

Keeps the best ever seen, the start included. Knows policies and a number per candidate; must not know what the number
means, or traces.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sim.policy.program import Policy
from sim.search.units import tidy

MAX_EXPONENT = 12.0
"""A literal moves by at most this many powers of e."""

ZERO_SCALE = 0.1
"""A literal that is 0 moves by this much per unit of the search space."""

_ROUND_DIGITS = (1, 2, 3, 4)
_WORST = sys.float_info.max


class Objective(Protocol):
    """What tuning maximises."""

    def score(self, policy: Policy) -> float:
        """Return the score of a policy; higher is better."""
        ...

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        """Return the score as a function of the values of `policy.literals`."""
        ...


class TuningFailed(RuntimeError):
    """No evaluation gave a number."""


@dataclass(frozen=True)
class Tuned:
    """The result of tuning.

    Attributes:
        policy: The best policy; the given one if nothing was better.
        score: Its score.
        start_score: Score of the given policy, -inf if it has none.
        evaluations: Evaluations spent.
        history: Score of every evaluation in order, -inf where there was none.
    """

    policy: Policy
    score: float
    start_score: float
    evaluations: int
    history: tuple[float, ...]


def tune(
    policy: Policy,
    objective: Objective,
    budget: int,
    seed: int,
    initial_sigma: float = 0.5,
    deadline_s: float = math.inf,
) -> Tuned:
    """Return `policy` with better literals.

    Args:
        policy: What to tune.
        objective: What to maximise.
        budget: Evaluations at most, the one of the start included.
        seed: Same seed, same result, as long as the deadline is not reached.
        initial_sigma: First standard deviation, in powers of e.
        deadline_s: Seconds after which the search starts no further evaluation; rounding takes a few more.

    Raises:
        TuningFailed: If no evaluation gave a number; the cause is the objective's last exception.
        ValueError: If the budget is not positive.
        ModuleNotFoundError: Without the package `cmaes`.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} evaluations; give at least 1")
    start = tuple(literal.value for literal in policy.literals)
    trial = _Trial(objective.of_literals(policy), budget, time.monotonic() + deadline_s)
    start_score = trial.score(start)
    if start:
        reserve = min(len(_ROUND_DIGITS), budget // 5)
        _search(trial, start, seed, initial_sigma, reserve)
        trial.deadline = math.inf
        _round(trial, start)
    if trial.best is None:
        raise TuningFailed("no evaluation gave a number") from trial.error
    values, score = trial.best
    better = policy if values == start else policy.with_literals(values)
    return Tuned(better, score, start_score, len(trial.history), tuple(trial.history))


class _Trial:
    """Evaluates within the budget and keeps the best."""

    def __init__(self, objective: Callable[[Sequence[float]], float], budget: int, deadline: float) -> None:
        self.objective, self.budget, self.deadline = objective, budget, deadline
        self.history: list[float] = []
        self.best: tuple[tuple[float, ...], float] | None = None
        self.error: Exception | None = None

    def left(self) -> int:
        """Return how many evaluations may still start."""
        return 0 if time.monotonic() > self.deadline else self.budget - len(self.history)

    def score(self, values: tuple[float, ...], ties: bool = False) -> float:
        """Evaluate; what fails or is no number is worst. With `ties`, an equal score replaces the best."""
        try:
            score = float(self.objective(values))
        except Exception as error:  # an objective may fail on some values in any way
            self.error, score = error, -math.inf
        if not math.isfinite(score):
            score = -math.inf
        self.history.append(score)
        if score > -math.inf and (self.best is None or score > self.best[1] or (ties and score == self.best[1])):
            self.best = values, score
        return score


def _search(trial: _Trial, start: tuple[float, ...], seed: int, sigma: float, reserve: int) -> None:
    """Run CMA-ES, anew from the best with half the step when it has converged."""
    evolution, run = _evolution(len(start), sigma, seed), 0
    centre = start
    while trial.left() > reserve:
        points: list[tuple[Any, float]] = []
        for _ in range(evolution.population_size):
            point = evolution.ask()
            if trial.left() <= reserve:
                return
            score = trial.score(_values(centre, point))
            points.append((point, -score if score > -math.inf else _WORST))
        evolution.tell(points)
        if evolution.should_stop():
            run += 1
            centre = trial.best[0] if trial.best else start
            evolution = _evolution(len(start), sigma / 2**run, seed + run)


def _evolution(dimensions: int, sigma: float, seed: int) -> Any:
    try:
        import cmaes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tuning needs the package cmaes: pip install 'kvevolve[search]'") from error
    size = max(dimensions, 2)  # CMA-ES is not defined for one dimension; the second one is ignored
    return cmaes.CMA(np.zeros(size), sigma, seed=seed % 2**32)


def _values(centre: tuple[float, ...], point: Any) -> tuple[float, ...]:
    """Return the literals at a point: a factor for each number, a summand for zeros. Signs stay."""
    moves = [max(-MAX_EXPONENT, min(MAX_EXPONENT, float(move))) for move in point[: len(centre)]]
    return tuple(
        value * math.exp(move) if value else ZERO_SCALE * move for value, move in zip(centre, moves, strict=True)
    )


def _round(trial: _Trial, start: tuple[float, ...]) -> None:
    """Write the best with as few digits as cost nothing; literals of the start that did not move stay."""
    if trial.best is None or trial.best[0] == start:
        return
    values = trial.best[0]
    for digits in _ROUND_DIGITS:
        if trial.left() < 1:
            return
        rounded = tuple(tidy(value, digits) for value in values)
        if trial.score(rounded, ties=True) >= trial.best[1]:
            return
