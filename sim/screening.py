"""The screen: a policy's score on a reduced training panel, for a tenth of the replay, isolated like an evaluation.

What it says is for choosing what to evaluate, never a result. Knows evaluators; must not know how policies are made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from sim.evaluation import Evaluator
from sim.fitness import TrainingObjective
from sim.isolation import Limits
from sim.marks import load_marks
from workloads.panel import load_panel
from workloads.panel_reduction import reduced

MOST_REFS = 500_000
"""Block references of each trace: of the three recorded ones two whole, and a sixth of the third."""

LIMITS = Limits(wall_s=60.0, cpu_s=10.0, memory_bytes=1 << 30, output_bytes=1 << 20)


@dataclass(frozen=True)
class Screened:
    """What came of a policy.

    Attributes:
        score: On the reduced panel; `sim.score.REJECTED` if it was rejected there.
        stage: Where it ended, see `sim.evaluation.Evaluation`.
        refs: Block references replayed for its score; the few of the check of clocks come on top.
    """

    score: float
    stage: str
    refs: int


class Screen:
    """Scores policies on the reduced training panel."""

    def __init__(self, which: str = "auto", most_refs: int = MOST_REFS) -> None:
        """Load the panel; a trace gives at most `most_refs` block references.

        Raises:
            ValueError: If LRU is as good as the optimum on the reduced panel.
        """
        try:
            self._evaluator = Evaluator("train", which, LIMITS, most_refs)
        except ValueError as error:
            raise ValueError(f"the reduced panel cannot screen ({error}); fix: set screen_children to 0") from None

    def measure(self, source: str) -> Screened:
        """Return the score of the text of a policy; never raises for anything the text contains."""
        found = self._evaluator.evaluate_source(source, advice=False)
        panel = self._evaluator.panel
        smoke = min(panel.traces[cell.trace_name].n_refs for cell in panel.cells)
        refs = panel.n_refs if found.stage == "panel" else smoke if found.stage in ("smoke", "run", "clock") else 0
        return Screened(found.metrics["combined_score"], found.stage, refs)

    def close(self) -> None:
        """Stop the process that runs policies."""
        self._evaluator.close()


@cache
def screening_objective() -> TrainingObjective:
    """Return the score on the reduced training panel as an objective for tuners, in this process, not isolated."""
    panel = load_panel("train", os.environ.get("KVEVOLVE_PANEL", "auto"))
    return TrainingObjective(load_marks(reduced(panel, MOST_REFS)))


@cache
def training_screen() -> Screen:
    """Return the process-wide screen of the training panel (`$KVEVOLVE_PANEL` as for the evaluator)."""
    return Screen(os.environ.get("KVEVOLVE_PANEL", "auto"))
