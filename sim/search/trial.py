"""One tuning's evaluations: values for the literals go in, cell by cell, and what was found, spent and best is kept.

Knows cells and a number per candidate; must not know where the values come from, or what a cell is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

Values = tuple[float, ...]


class Cells(Protocol):
    """A policy's score in pieces."""

    @property
    def shares(self) -> Sequence[float]:
        """Part of a full pass that each cell costs."""
        ...

    @property
    def groups(self) -> Sequence[str]:
        """Trace of each cell; the cells of a trace in order of capacity."""
        ...

    def replay(self, values: Sequence[float], cell: int) -> float:
        """Return what the policy with these literals reaches in a cell; NaN if it cannot be run."""
        ...

    def score(self, found: Sequence[float]) -> float:
        """Return the score of what was found in all cells; higher is better."""
        ...


class Whole:
    """A score that comes in one piece, as a panel of one cell."""

    shares = (1.0,)
    groups = ("all",)

    def __init__(self, function: Callable[[Sequence[float]], float]) -> None:
        """Score by this function."""
        self._function = function

    def replay(self, values: Sequence[float], cell: int) -> float:
        """Return the score."""
        return self._function(values)

    def score(self, found: Sequence[float]) -> float:
        """Return the score."""
        return found[0]


@dataclass(eq=False)
class Candidate:
    """Values on trial.

    Attributes:
        values: Of the literals.
        point: Where the search drew them.
        found: What was found in the cells replayed so far, by cell.
        score: Of all cells, those not replayed yet as expected; -inf if it failed.
    """

    values: Values
    point: Any = None
    found: dict[int, float] = field(default_factory=dict)
    score: float = -math.inf


class OutOfTime(Exception):
    """The deadline has passed."""


class Trial:
    """Evaluates within a budget and keeps the best of what was scored on all cells."""

    def __init__(self, cells: Cells, budget: float, deadline: float, noted: Callable[[Candidate | None], None]) -> None:
        """Start.

        Args:
            cells: What is scored.
            budget: Full passes that may be spent.
            deadline: On `time.monotonic`, when no further replay starts.
            noted: Called whenever a candidate was scored on all cells, with it if it is the new best.
        """
        self.cells, self.budget, self.deadline, self._noted = cells, budget, deadline, noted
        self.spent = 0.0
        self.history: list[float] = []
        self.best: Candidate | None = None
        self.error: Exception | None = None

    @property
    def left(self) -> float:
        """Full passes that may still be spent."""
        return max(self.budget - self.spent, 0.0)

    def advance(self, candidate: Candidate, cells: Sequence[int]) -> None:
        """Replay a candidate in further cells and estimate its score; what fails or is no number is worst.

        Raises:
            OutOfTime: If the deadline has passed.
        """
        for cell in cells:
            if any(map(math.isnan, candidate.found.values())):
                break
            if self.history and time.monotonic() > self.deadline:
                raise OutOfTime
            self.spent += self.cells.shares[cell]
            candidate.found[cell] = self._attempt(partial(self.cells.replay, candidate.values, cell))
        row = [candidate.found.get(i, self._expected(candidate, i)) for i in range(len(self.cells.shares))]
        failed = any(map(math.isnan, candidate.found.values()))
        score = math.nan if failed else self._attempt(partial(self.cells.score, row))
        candidate.score = score if math.isfinite(score) else -math.inf

    def finish(self, candidate: Candidate, ties: bool = False) -> float:
        """Replay what is left and return the score. With `ties`, an equal score replaces the best."""
        self.advance(candidate, [i for i in range(len(self.cells.shares)) if i not in candidate.found])
        score = candidate.score
        self.history.append(score)
        best = -math.inf if self.best is None else self.best.score
        better = score > best or (ties and score == best and score > -math.inf)
        if better:
            self.best = candidate
        self._noted(candidate if better else None)
        return score

    def _expected(self, candidate: Candidate, cell: int) -> float:
        """Return what a candidate may reach in a cell: what the best one did, changed as in the trace's other cells."""
        if self.best is None:
            return math.nan
        known, groups = self.best.found, self.cells.groups
        alike = [i for i in candidate.found if groups[i] == groups[cell] and known[i]]
        change = sum(candidate.found[i] / known[i] for i in alike) / len(alike) if alike else 1.0
        return known[cell] * change

    def _attempt(self, function: Callable[[], float]) -> float:
        try:
            return float(function())
        except Exception as error:  # an objective may fail on some values in any way
            self.error = error
            return math.nan
