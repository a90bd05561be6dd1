"""Tunes the constants of a program a model wrote: the model proposes structure, CMA-ES the numbers.

Knows policies, the tuner and budgets; must not know requests or prices.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.policy.program import Policy
from sim.search.genome import fingerprint
from sim.search.llm.settings import LlmSettings
from sim.search.tuner import Objective, TuningFailed, tune

MIN_EVALUATIONS = 8
"""With fewer there is no tuning: CMA-ES would not get anywhere."""


@dataclass(frozen=True)
class Polished:
    """A program and what was done to it; `facts` goes into the record."""

    policy: Policy
    facts: dict[str, Any]


class Polisher:
    """Tunes one program at a time, each once, within the budget of the run."""

    def __init__(self, settings: LlmSettings, spent: int = 0) -> None:
        """Tune as `settings` say; `spent` evaluations went before."""
        self.settings, self.left = settings, max(settings.polish_total - spent, 0)
        self._lock = threading.Lock()
        self._objective: Objective | None = None
        self._done: set[str] = set()

    def polish(self, policy: Policy, seed: int) -> Polished | None:
        """Return the program with better constants, or as it is; None if nothing was evaluated."""
        with self._lock:
            mark, budget = fingerprint(policy.source), min(self.settings.polish_evaluations, self.left)
            if budget < MIN_EVALUATIONS or not policy.literals or mark in self._done:
                return None
            self._done.add(mark)
            objective = self._load()
            try:
                start = objective.score(policy)
            except Exception as error:  # a program that cannot be scored is for the evaluator to explain
                self.left -= 1
                return Polished(policy, {"evaluations": 1, "failed": str(error)})
            try:
                found = tune(policy, objective, budget, seed, deadline_s=self.settings.polish_seconds)
            except TuningFailed as error:
                self.left -= 1
                return Polished(policy, {"start_score": start, "evaluations": 1, "failed": str(error)})
            self.left -= found.evaluations
            self._done.add(fingerprint(found.policy.source))
            facts = {"start_score": found.start_score, "score": found.score, "evaluations": found.evaluations}
            return Polished(found.policy, facts)

    def _load(self) -> Objective:
        if self._objective is None:
            module, _, name = self.settings.objective.partition(":")
            factory: Callable[[], Objective] = getattr(importlib.import_module(module), name)
            self._objective = factory()
        return self._objective
