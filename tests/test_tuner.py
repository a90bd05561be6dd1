"""The tuner: never worse than the start, within its budget, deterministic, and robust against bad objectives."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence

import pytest

from sim.policy.program import Policy
from sim.search.tuner import TuningFailed, tune

SOURCE = """
BONUS = 100.0


def priority(block, cache):
    return block.last_access + BONUS * min(block.seen, 2) - 0.0 * block.depth - 7 * block.hits
"""
TARGET = (1000.0, 3.0, 0.5, 70.0)


class Fake:
    """Best at TARGET; counts evaluations."""

    def __init__(self, score: Callable[[Sequence[float]], float] | None = None) -> None:
        self.calls: list[tuple[float, ...]] = []
        self._score = score or self.distance

    @staticmethod
    def distance(values: Sequence[float]) -> float:
        scaled = [math.log(max(v, 1e-9) / t) if t != 0.5 else v - t for v, t in zip(values, TARGET, strict=True)]
        return -sum(x * x for x in scaled)

    def score(self, policy: Policy) -> float:
        return self.of_literals(policy)([literal.value for literal in policy.literals])

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        def objective(values: Sequence[float]) -> float:
            self.calls.append(tuple(values))
            return self._score(values)

        return objective


def policy() -> Policy:
    return Policy.from_source(SOURCE, "toy")


def test_tuning_improves_within_the_budget_and_is_deterministic():
    first, second = Fake(), Fake()
    one, two = tune(policy(), first, 200, seed=3), tune(policy(), second, 200, seed=3)
    assert one.policy.source == two.policy.source
    assert one.history == two.history
    assert first.calls == second.calls
    assert len(first.calls) == one.evaluations == len(one.history) <= 200
    assert one.score == max(one.history) > 0.5 * one.start_score
    assert one.score == pytest.approx(Fake().score(one.policy))
    assert tune(policy(), Fake(), 200, seed=4).policy.source != one.policy.source
    assert one.start_score == one.history[0] == Fake().score(policy())


def test_only_free_literals_move():
    fake = Fake()
    start = [literal.value for literal in policy().literals]
    result = tune(policy(), fake, 60, seed=2, free=[3])
    assert result.score > result.start_score
    rounded = {(values[0], values[1], values[2]) for values in fake.calls}
    assert rounded == {tuple(start[:3])}
    assert tune(policy(), Fake(), 60, seed=2, free=[]).evaluations == 1


@pytest.mark.parametrize("budget", [1, 2, 5, 7, 30])
def test_the_budget_is_never_exceeded_and_the_start_is_the_floor(budget):
    fake = Fake()
    result = tune(policy(), fake, budget, seed=1)
    assert len(fake.calls) <= budget
    assert result.score >= result.start_score


def test_the_start_is_returned_when_it_is_best():
    start = tuple(literal.value for literal in policy().literals)
    fake = Fake(lambda values: 1.0 if tuple(values) == start else 0.0)
    given = policy()
    assert tune(given, fake, 40, seed=1).policy is given


def test_bad_evaluations_count_as_worst():
    calls = []

    def moody(values: Sequence[float]) -> float:
        calls.append(values)
        if len(calls) % 3 == 0:
            raise RuntimeError("no")
        return math.nan if len(calls) % 3 == 1 else Fake.distance(values)

    result = tune(policy(), Fake(moody), 60, seed=1)
    assert result.start_score == -math.inf
    assert math.isfinite(result.score)
    assert result.history.count(-math.inf) >= 30


def test_an_objective_that_always_fails_is_an_error_with_its_cause():
    def broken(values: Sequence[float]) -> float:
        raise KeyError("trace")

    with pytest.raises(TuningFailed) as caught:
        tune(policy(), Fake(broken), 10, seed=1)
    assert isinstance(caught.value.__cause__, KeyError)


def test_numbers_are_rounded_when_that_costs_nothing():
    fake = Fake(lambda values: 1.0 if values[0] > 150 else 0.0)
    result = tune(policy(), fake, 60, seed=1)
    assert result.score == 1.0
    assert all(float(f"{literal.value:.2g}") == literal.value for literal in result.policy.literals)


def test_signs_stay_and_one_or_no_literal_works():
    negative = Policy.from_source("def priority(block, cache):\n    return block.hits + -4.0 * block.depth\n")
    fake = Fake(lambda values: -abs(math.log(values[0] / 40)))
    result = tune(negative, fake, 60, seed=2)
    assert all(values[0] > 0 for values in fake.calls), "the literal is the number behind the sign"
    assert result.score > -1.0
    plain = Policy.from_source("def priority(block, cache):\n    return block.released\n")
    result = tune(plain, Fake(lambda values: 0.25), 60, seed=1)
    assert (result.policy, result.evaluations, result.score) == (plain, 1, 0.25)


def test_a_deadline_stops_it():
    assert tune(policy(), Fake(), 50, seed=1, deadline_s=-1.0).evaluations == 1, "the start is the best: no rounding"


def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "cmaes":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kvevolve\[search\]'"):
        tune(policy(), Fake(), 10, seed=1)


def test_a_budget_is_needed():
    with pytest.raises(ValueError, match="at least 1"):
        tune(policy(), Fake(), 0, seed=1)
