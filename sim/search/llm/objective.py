"""The objective of tuning what a model wrote: the evaluator, each candidate in an isolated child.

Knows the evaluator; must not know models or requests. The keyless tuner runs its own programs in its own process; a
model's may spin or crash, with other constants than those it came with too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.evaluation import Evaluator, training_evaluator
from sim.policy.program import Policy


class Refused(ValueError):
    """The evaluator gives a candidate no score."""


class IsolatedObjective:
    """Combined score on the training panel; higher is better."""

    def __init__(self, evaluator: Evaluator) -> None:
        """Score with this evaluator."""
        self._evaluator = evaluator
        self._known: tuple[str, float] | None = None

    def score(self, policy: Policy) -> float:
        """Return the score of a policy; the last one asked for is remembered.

        Raises:
            Refused: If it is rejected or ends badly.
        """
        if self._known is None or self._known[0] != policy.source:
            found = self._evaluator.evaluate_source(policy.source, advice=False)
            if not found.metrics["valid"]:
                raise Refused(found.artifacts["rejection"])
            self._known = policy.source, found.metrics["combined_score"]
        return self._known[1]

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        """Return the score as a function of the policy's literals."""
        start = tuple(literal.value for literal in policy.literals)
        return lambda values: self.score(policy if tuple(values) == start else policy.with_literals(values))


def isolated_objective() -> IsolatedObjective:
    """Return the objective on the training panel (`$KVEVOLVE_PANEL` as for the evaluator)."""
    return IsolatedObjective(training_evaluator())
