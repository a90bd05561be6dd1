"""The score as an objective for tuners: the training panel, in this process, without isolation.

For policies this package wrote itself, which have passed the gate. Candidates of a model go through
`sim.evaluation`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from sim.marks import Marks, load_marks
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy, clock_origin
from sim.prepared import prepare
from sim.result import counted_hits
from sim.score import REJECTED, score
from sim.simulation import Options, PolicyError, run_policy
from workloads.panel import load_panel


class CellReplays:
    """One compiled policy, replayed in one cell at a time.

    Attributes:
        shares: Of each cell, its part of the block references of a full pass; they add up to 1.
        groups: Of each cell, its trace.
    """

    def __init__(self, marks: Marks, compiled: Compiled, lifted: bool) -> None:
        """Replay this policy; with `lifted`, its literals are those a replay is given."""
        self._marks, self._compiled, self._lifted = marks, compiled, lifted
        self._options = Options(clock_origin=clock_origin(compiled.policy.source))
        panel = marks.panel
        refs = [panel.traces[cell.trace_name].n_refs for cell in panel.cells]
        self.shares = tuple(count / sum(refs) for count in refs)
        self.groups = tuple(cell.trace_name for cell in panel.cells)

    def replay(self, values: Sequence[float], cell: int) -> float:
        """Return the hit tokens that count in a cell; NaN if the policy gave no usable score."""
        literals = np.asarray(values, np.float64) if self._lifted else None
        place = self._marks.panel.cells[cell]
        trace = self._marks.panel.traces[place.trace_name]
        try:
            outcome = run_policy(prepare(trace), self._compiled, place.capacity_blocks, self._options, literals)
        except PolicyError:
            return math.nan
        return float(counted_hits(outcome.hits, place.first_counted) * trace.block_tokens)

    def score(self, found: Sequence[float]) -> float:
        """Return the combined score of hit tokens in all cells, exactly as the evaluator would."""
        if not all(map(math.isfinite, found)):
            return REJECTED
        return score(self._marks.cells([int(tokens) for tokens in found]), self._compiled.policy.nodes).combined

    def full(self, values: Sequence[float]) -> float:
        """Return the score of a pass over the whole panel."""
        return self.score([self.replay(values, cell) for cell in range(len(self.shares))])


class TrainingObjective:
    """Combined score on a panel; higher is better."""

    def __init__(self, marks: Marks) -> None:
        """Score against these marks."""
        self.marks = marks

    @property
    def refs(self) -> int:
        """Block references replayed in a pass."""
        return self.marks.panel.n_refs

    def score(self, policy: Policy) -> float:
        """Return the combined score of a policy, exactly as the evaluator would."""
        return CellReplays(self.marks, compile_policy(policy), lifted=False).full(())

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        """Return the score as a function of the policy's literals; compiled once."""
        return self.by_cell(policy).full

    def by_cell(self, policy: Policy) -> CellReplays:
        """Return the same, to be replayed cell by cell."""
        return CellReplays(self.marks, compile_policy(policy, lift=True), lifted=True)


@cache
def training_objective() -> TrainingObjective:
    """Return the process-wide objective on the training panel (`$KVEVOLVE_PANEL` as for the evaluator)."""
    return TrainingObjective(load_marks(load_panel("train", os.environ.get("KVEVOLVE_PANEL", "auto"))))
