"""The score as an objective for tuners: the training panel, in this process, without isolation.

For policies this package wrote itself, which have passed the gate. Candidates of a model go through
`sim.evaluation`.
"""

from __future__ import annotations

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


class TrainingObjective:
    """Combined score on a panel; higher is better."""

    def __init__(self, marks: Marks) -> None:
        """Score against these marks."""
        self.marks = marks

    def score(self, policy: Policy) -> float:
        """Return the combined score of a policy, exactly as the evaluator would."""
        return self._score(compile_policy(policy), None, policy.nodes)

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        """Return the score as a function of the policy's literals; compiled once."""
        compiled = compile_policy(policy, lift=True)
        return lambda values: self._score(compiled, values, policy.nodes)

    def _score(self, compiled: Compiled, values: Sequence[float] | None, nodes: int) -> float:
        literals = None if values is None else np.asarray(values, np.float64)
        options = Options(clock_origin=clock_origin(compiled.policy.source))
        panel = self.marks.panel
        hit_tokens = []
        try:
            for cell in panel.cells:
                trace = panel.traces[cell.trace_name]
                outcome = run_policy(prepare(trace), compiled, cell.capacity_blocks, options, literals)
                hit_tokens.append(counted_hits(outcome.hits, cell.first_counted) * trace.block_tokens)
        except PolicyError:
            return REJECTED
        return score(self.marks.cells(hit_tokens), nodes).combined


@cache
def training_objective() -> TrainingObjective:
    """Return the process-wide objective on the training panel (`$KVEVOLVE_PANEL` as for the evaluator)."""
    return TrainingObjective(load_marks(load_panel("train", os.environ.get("KVEVOLVE_PANEL", "auto"))))
