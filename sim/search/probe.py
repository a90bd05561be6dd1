"""The behaviour of a policy: how it ranks the candidates of recorded moments and what it admits, without a replay.

Two policies of equal behaviour do the same wherever the probe looks. Runs a policy as plain Python, some
milliseconds, so static work is bounded first. Knows policies and `probe_history`; must not know scores.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import fields
from sim.policy import language
from sim.policy.compiler import python_functions
from sim.policy.program import Policy
from sim.search.probe_history import SHOWN, Moment, Values, histories

MAX_WORK = 20_000
"""Most syntax nodes one call of a policy may run through, loops and helpers counted, to be probed."""

_BLANK_BLOCK = {entry.name: 0.0 for entry in fields.BLOCK if entry.unit == "yours"}
_BLANK_CACHE = {entry.name: 0.0 for entry in fields.CACHE if entry.unit == "yours"}


class Unsound(ValueError):
    """The policy gave a score that is not finite, or costs too much to be probed; the message says which."""


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What a policy did.

    Attributes:
        ranks: int16 (moments, SHOWN): position of each candidate in the order of eviction; -1 for none.
        admitted: For each missing block, 1 if it may enter.
        mark: Hash of both; equal for policies that behave alike.
    """

    ranks: npt.NDArray[np.int16]
    admitted: bytes
    mark: str

    def distance(self, other: Behaviour) -> float:
        """Return how far two policies are apart, 0 to 1: 0 for equal, about 1/3 for unrelated orders."""
        shown = self.ranks >= 0
        ranks = np.abs(self.ranks[shown].astype(float) - other.ranks[shown]).mean() / SHOWN
        one, two = (np.frombuffer(item.admitted, np.uint8) for item in (self, other))
        return float(max(ranks, np.mean(one != two)))


def behaviour(policy: Policy) -> Behaviour:
    """Return the behaviour of a policy.

    Raises:
        Unsound: If a score is not finite, or a call may run through more than `MAX_WORK` nodes.
    """
    if _work(policy) > MAX_WORK:
        raise Unsound("one call may take too many steps to be probed")
    ranks: list[npt.NDArray[np.int16]] = []
    admitted = bytearray()
    for index in range(len(histories())):
        run = _Run(policy)
        for moment, still in zip(histories()[index], _still(index), strict=True):
            run.serve(moment, still)
        ranks += run.ranks
        admitted += run.admitted
    table = np.stack(ranks)
    mark = hashlib.sha256(table.tobytes() + bytes(admitted)).hexdigest()[:16]
    return Behaviour(table, bytes(admitted), mark)


class Still(NamedTuple):
    """Records of one moment that nothing changes."""

    shown: list[SimpleNamespace]
    missing: list[SimpleNamespace]


@cache
def _still(index: int) -> tuple[Still, ...]:
    """Return, for each moment of a history, the records a policy without hooks is shown."""
    moments = histories()[index]
    return tuple(Still(_records(moment.shown), _records(moment.missing)) for moment in moments)


def _records(shown: list[tuple[int, Values]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(**_BLANK_BLOCK, **values) for _, values in shown]


class _Run:
    """A policy at work on one history."""

    def __init__(self, policy: Policy) -> None:
        functions = python_functions(policy)
        self.priority: Callable[..., float] = functions["priority"]
        self.admit, self.on_hit, self.on_insert, self.on_evict = (
            functions.get(name) for name in ("admit", "on_hit", "on_insert", "on_evict")
        )
        self.touch = policy.scoring == "touch"
        self.hooked = bool(self.on_hit or self.on_insert or self.on_evict)
        self.cache = SimpleNamespace(**_BLANK_CACHE)
        self.request = SimpleNamespace()
        self.blocks: dict[int, SimpleNamespace] = {}
        self.kept: dict[int, float] = {}
        self.ranks: list[npt.NDArray[np.int16]] = []
        self.admitted = bytearray()

    def serve(self, moment: Moment, still: Still) -> None:
        """Rank the candidates of a moment, then call the hooks as the engine does.

        Args:
            moment: What happens.
            still: The same records for a policy without hooks, which writes no slot.
        """
        vars(self.cache).update(moment.cache)
        vars(self.request).update(moment.request)
        if moment.shown:
            self._rank(moment.shown, still.shown)
        if self.on_hit:
            for block, values in moment.hits:
                self._call(self.on_hit, self._record(block, values), self.request)
        entered = self._enter(moment, still)
        if self.on_evict:
            for block, values in moment.evicted:
                self._call(self.on_evict, self._record(block, values))
        if self.on_insert:
            for block, values in moment.missing[:entered]:
                self._call(self.on_insert, self._record(block, values), self.request)
        if self.touch:
            for block, values in moment.released:
                self.kept[block] = self._call(self.priority, self._record(block, values))

    def _enter(self, moment: Moment, still: Still) -> int:
        """Ask for admission until the first refusal, as the engine does; return how many blocks enter."""
        entered = 0
        while entered < len(moment.missing):
            record = self._record(*moment.missing[entered]) if self.hooked else still.missing[entered]
            if self.admit and not self._call(self.admit, record, self.request):
                break
            entered += 1
        self.admitted += bytes([1] * entered + [0] * (len(moment.missing) - entered))
        return entered

    def _rank(self, shown: list[tuple[int, Values]], still: list[SimpleNamespace]) -> None:
        if self.touch:
            scores = [self.kept.get(block, 0.0) for block, _ in shown]
        else:
            records = [self._record(block, values) for block, values in shown] if self.hooked else still
            scores = [self._call(self.priority, record) for record in records]
        if not all(map(math.isfinite, scores)):
            raise Unsound("a score is not finite")
        ranks = np.full(SHOWN, -1, np.int16)
        ranks[np.argsort(scores, kind="stable")] = np.arange(len(scores))
        self.ranks.append(ranks)

    def _record(self, block: int, values: Values) -> SimpleNamespace:
        record = self.blocks.get(block)
        if record is None:
            record = self.blocks[block] = SimpleNamespace(**_BLANK_BLOCK)
        vars(record).update(values)
        return record

    def _call(self, function: Callable[..., float] | None, *records: SimpleNamespace) -> float:
        try:
            return function(*records, self.cache) if function else 0.0
        except (ArithmeticError, ValueError) as error:
            raise Unsound(f"a hook or score cannot be computed: {error}") from None


def _work(policy: Policy) -> int:
    """Return a bound of the nodes one call of any contract function runs through."""
    costs: dict[str, int] = {}

    def cost(node: ast.AST) -> int:
        below = sum(cost(child) for child in ast.iter_child_nodes(node))
        if isinstance(node, ast.For):
            return 1 + below * language.MAX_LOOP_STEPS
        called: Any = node.func if isinstance(node, ast.Call) else None
        return 1 + below + (costs.get(called.id, 0) if isinstance(called, ast.Name) else 0)

    for name, function in policy.functions.items():  # helpers are defined above their use
        costs[name] = cost(function)
    return max(costs.values())
