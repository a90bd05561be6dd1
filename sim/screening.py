"""The screen: a policy's score on a reduced training panel, for an eighth of the replay, isolated like an evaluation.

What it says is for choosing what to evaluate, never a result. Knows evaluators; must not know how policies are made.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache

from sim.evaluation import Evaluator
from sim.fitness import TrainingObjective
from sim.isolation import Limits
from sim.marks import load_marks
from sim.score import NoCellCounts
from workloads.panel import Panel, load_panel
from workloads.panel_reduction import reduced

log = logging.getLogger(__name__)

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
        """Load the panel; a trace gives at most `most_refs` block references."""
        refs = _useful_refs(load_panel("train", which), most_refs)
        self._evaluator = Evaluator("train", which, LIMITS, refs)
        self.panel = self._evaluator.panel

    def measure(self, source: str) -> Screened:
        """Return the score of the text of a policy; never raises for anything the text contains."""
        found = self._evaluator.evaluate_source(source, advice=False)
        smallest = min(self.panel.traces[cell.trace_name].n_refs for cell in self.panel.cells)
        replayed = {"panel": self.panel.n_refs, "smoke": smallest, "run": smallest, "clock": smallest}
        return Screened(found.metrics["combined_score"], found.stage, replayed.get(found.stage, 0))

    def close(self) -> None:
        """Stop the process that runs policies."""
        self._evaluator.close()


def _useful_refs(panel: Panel, most_refs: int) -> int | None:
    """Return `most_refs` if policies can be told apart on the panel reduced to that, else None: the whole panel."""
    try:
        load_marks(reduced(panel, most_refs)).baseline_scores()
    except NoCellCounts:
        log.warning("nothing counts on the reduced panel %s; policies are screened on the whole one", panel.name)
        return None
    return most_refs


@cache
def training_screen() -> Screen:
    """Return the process-wide screen of the training panel (`$KVEVOLVE_PANEL` as for the evaluator)."""
    return Screen(os.environ.get("KVEVOLVE_PANEL", "auto"))


@cache
def screening_objective() -> TrainingObjective:
    """Return the score on the reduced training panel as an objective for tuners, in this process, not isolated."""
    panel = load_panel("train", os.environ.get("KVEVOLVE_PANEL", "auto"))
    refs = _useful_refs(panel, MOST_REFS)
    return TrainingObjective(load_marks(panel if refs is None else reduced(panel, refs)))
