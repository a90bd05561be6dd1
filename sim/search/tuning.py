"""The operator's tuning of constants on the reduced panel: the whole budget of a run, and what each call took of it.

Knows settings and the tuner; must not know prompts, or why a policy is tuned.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sim.policy.program import Policy
from sim.search.settings import Settings
from sim.search.tuner import CellObjective, Objective, Tuned, TuningFailed, tune

LEAST = 4
"""Passes below which nothing is tuned."""


@runtime_checkable
class Counted(Protocol):
    """An objective that knows what it costs."""

    @property
    def refs(self) -> int:
        """Block references replayed in a pass."""
        ...


@dataclass(frozen=True)
class Spent:
    """One call.

    Attributes:
        result: What came of it; None if no evaluation gave a number, or nothing was tried.
        why: Why there is no result.
        refs: Block references replayed.
        cpu_s: CPU time of it.
    """

    result: Tuned | None = None
    why: str = ""
    refs: int = 0
    cpu_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what belongs into a record."""
        if self.result is None:
            return {"skipped": self.why}
        start = self.result.start_score
        return {
            "evaluations": self.result.evaluations,
            "passes": round(self.result.passes, 3),
            "refs": self.refs,
            "cpu_seconds": round(self.cpu_s, 3),
            "start_score": start if math.isfinite(start) else None,
            "score": self.result.score,
        }


def _new(policy: Policy, parent: Policy | None) -> list[int]:
    """Return which literals of a policy are not its parent's; all if none are."""
    kept = Counter(literal.value for literal in parent.literals) if parent else Counter[float]()
    found = []
    for index, literal in enumerate(policy.literals):
        if kept[literal.value] > 0:
            kept[literal.value] -= 1
        else:
            found.append(index)
    return found or list(range(len(policy.literals)))


class Tuning:
    """Tunes within the budget of a run; safe to use from several threads, which tune at the same time."""

    def __init__(self, settings: Settings, spent: float = 0.0) -> None:
        """Start with what is left of `settings.tune_total` passes after `spent`."""
        self.settings = settings
        self.left = max(0.0, settings.tune_total - spent)
        self._objective: Objective | CellObjective | None = None
        self._lock = threading.Lock()

    def settle(self, policy: Policy, parent: Policy | None, seed: int) -> Spent:
        """Return a new policy with constants that fit roughly; it is not of the run's budget, but of every answer's.

        Those it has from `parent` fit already and stay, so that few passes are enough for the others.
        """
        return self._tuned(policy, self.settings.settle_passes, seed, _new(policy, parent))

    def polish(self, policy: Policy, seed: int) -> Spent:
        """Return a policy with better constants, out of the run's budget."""
        with self._lock:
            budget = min(float(self.settings.tune_evaluations), self.left)
            if budget < LEAST:
                return Spent(why="budget of the run is spent")
            self.left -= budget
        spent = Spent()
        try:
            spent = self._tuned(policy, budget, seed)
        finally:
            with self._lock:
                self.left += budget - (spent.result.passes if spent.result else 0.0)
        return spent

    def _tuned(self, policy: Policy, passes: float, seed: int, free: Sequence[int] | None = None) -> Spent:
        if not policy.literals:
            return Spent(why="no literals")
        objective, started = self._loaded(), time.thread_time()
        try:
            result = tune(policy, objective, passes, seed, deadline_s=self.settings.tune_seconds, free=free)
        except TuningFailed as error:
            return Spent(why=f"failed: {error.__cause__ or error!r}")
        refs = objective.refs if isinstance(objective, Counted) else 0
        return Spent(result, "", round(result.passes * refs), time.thread_time() - started)

    def _loaded(self) -> Objective | CellObjective:
        with self._lock:
            if self._objective is None:
                module, _, name = self.settings.objective.partition(":")
                factory: Callable[[], Objective | CellObjective] = getattr(importlib.import_module(module), name)
                self._objective = factory()
            return self._objective
