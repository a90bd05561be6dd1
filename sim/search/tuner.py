"""The tuner: CMA-ES over the literals of a policy, generations thinned out by successive halving over cells.

Keeps the best ever seen, the start included; what it returns was scored on all cells. Knows policies and a number per
candidate; must not know what the number means, or traces.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sim.policy.program import Policy
from sim.search import halving
from sim.search.rungs import rungs
from sim.search.trial import Candidate, Cells, OutOfTime, Trial, Values, Whole
from sim.search.units import tidy
from workloads.progress import tell

MAX_EXPONENT = 12.0
"""A literal moves by at most this many powers of e."""

ZERO_SCALE = 0.1
"""A literal that is 0 moves by this much per unit of the search space."""

_ROUND_DIGITS = (1, 2, 3, 4)
_WORST = sys.float_info.max


class Objective(Protocol):
    """What tuning maximises, in one piece: every evaluation costs one pass."""

    def score(self, policy: Policy) -> float:
        """Return the score of a policy; higher is better."""
        ...

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        """Return the score as a function of the values of `policy.literals`."""
        ...


@runtime_checkable
class CellObjective(Protocol):
    """What tuning maximises, in cells that can be replayed one by one."""

    def by_cell(self, policy: Policy) -> Cells:
        """Return the score of the values of `policy.literals`, cell by cell."""
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
        evaluations: Candidates scored on all cells.
        passes: What all replays cost, in full passes.
        history: Score of every evaluation in order, -inf where there was none.
    """

    policy: Policy
    score: float
    start_score: float
    evaluations: int
    passes: float
    history: tuple[float, ...]


def tune(
    policy: Policy,
    objective: Objective | CellObjective,
    budget: float,
    seed: int,
    initial_sigma: float = 0.5,
    deadline_s: float = math.inf,
    keep: Callable[[Policy, float, float], None] | None = None,
    free: Sequence[int] | None = None,
) -> Tuned:
    """Return `policy` with better literals.

    Args:
        policy: What to tune.
        objective: What to maximise; halving needs one with cells.
        budget: Full passes at most, the one of the start included.
        seed: Same seed, same result, as long as the deadline is not reached.
        initial_sigma: First standard deviation, in powers of e.
        deadline_s: Seconds after which the search starts no further replay; rounding takes a few more.
        keep: Called as keep(policy, score, passes so far) with the start and then with each new best.
        free: Indices of the literals that may move; default all.

    Raises:
        TuningFailed: If no evaluation gave a number; the cause is the objective's last exception.
        ValueError: If the budget is not positive.
        ModuleNotFoundError: Without the package `cmaes`.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} evaluations; give at least 1")
    start = tuple(literal.value for literal in policy.literals)
    cells = objective.by_cell(policy) if isinstance(objective, CellObjective) else Whole(objective.of_literals(policy))

    def named(candidate: Candidate) -> Policy:
        return policy if candidate.values == start else policy.with_literals(candidate.values)

    def noted(better: Candidate | None) -> None:
        tell("tuning, passes", trial.spent, budget)
        if keep and better:
            keep(named(better), better.score, trial.spent)

    trial = Trial(cells, budget, time.monotonic() + deadline_s, noted)
    start_score = trial.finish(Candidate(start))
    moving = range(len(start)) if free is None else free
    if moving:
        with contextlib.suppress(OutOfTime):
            _search(trial, start, moving, seed, initial_sigma)
        trial.deadline = math.inf
        _round(trial, start)
    if trial.best is None:
        raise TuningFailed("no evaluation gave a number") from trial.error
    history = tuple(trial.history)
    return Tuned(named(trial.best), trial.best.score, start_score, len(history), trial.spent, history)


def _search(trial: Trial, start: Values, free: Sequence[int], seed: int, sigma: float) -> None:
    """Run CMA-ES, anew from the best with half the step when it has converged."""
    shares = trial.cells.shares
    ladder, in_one = rungs(shares, trial.cells.groups), (tuple(range(len(shares))),)
    reserve = min(len(_ROUND_DIGITS), trial.budget // 5)
    evolution, run = _evolution(len(free), sigma, seed), 0
    centre = start
    while True:
        steps = ladder if trial.best else in_one
        size = halving.affordable(evolution.population_size, steps, shares, trial.left - reserve)
        points = [evolution.ask() for _ in range(size)]
        ranked = halving.race(trial, [Candidate(_values(centre, free, point), point) for point in points], steps)
        if size < evolution.population_size:
            return
        evolution.tell(_ranks(ranked))
        if evolution.should_stop():
            run += 1
            centre = trial.best.values if trial.best else start
            evolution = _evolution(len(free), sigma / 2**run, seed + run)


def _ranks(ranked: Sequence[Candidate]) -> list[tuple[Any, float]]:
    """Return points with what to minimise: the negative score, but no less than that of a candidate ranked before."""
    told: list[tuple[Any, float]] = []
    worst = -math.inf
    for candidate in ranked:
        worst = max(worst, -candidate.score if candidate.score > -math.inf else _WORST)
        told.append((candidate.point, worst))
    return told


def _evolution(dimensions: int, sigma: float, seed: int) -> Any:
    try:
        import cmaes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tuning needs the package cmaes: pip install 'kvevolve[search]'") from error
    size = max(dimensions, 2)  # CMA-ES is not defined for one dimension; the second one is ignored
    return cmaes.CMA(np.zeros(size), sigma, seed=seed % 2**32)


def _values(centre: Values, free: Sequence[int], point: Any) -> Values:
    """Return the literals at a point: a factor for each number, a summand for zeros. Signs stay."""
    values = list(centre)
    for index, move in zip(free, point[: len(free)], strict=True):
        bounded = max(-MAX_EXPONENT, min(MAX_EXPONENT, float(move)))
        values[index] = values[index] * math.exp(bounded) if values[index] else ZERO_SCALE * bounded
    return tuple(values)


def _round(trial: Trial, start: Values) -> None:
    """Write the best with as few digits as cost nothing; literals of the start that did not move stay."""
    if trial.best is None or trial.best.values == start:
        return
    values = trial.best.values
    for digits in _ROUND_DIGITS:
        if trial.left < 1.0 - 1e-9:
            return
        rounded = tuple(tidy(value, digits) for value in values)
        if trial.finish(Candidate(rounded), ties=True) >= trial.best.score:
            return
