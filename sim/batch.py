"""Scores many candidate files at once: each worker has an evaluator, and so a zygote, of its own.

Knows the evaluator and executors. Candidates run isolated in children of the zygotes, never in the workers. A job is
a whole candidate, not a cell of it: its limits hold for all cells together, its first cell may stop it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.evaluation import Evaluation, Evaluator, read_candidate
from sim.executor import run
from sim.marks import load_marks
from workloads.panel import load_panel

_evaluators: dict[PanelKey, Evaluator] = {}
"""Of this worker: the one of the last panel. Its zygote ends with the worker."""


@dataclass(frozen=True)
class PanelKey:
    """Which panel to score on, and what it must be: a node might hold other traces under the same names."""

    split: str
    which: str
    fingerprint: str


def evaluate_many(
    files: Sequence[str | Path],
    split: str = "train",
    which: str = "auto",
    executor: str = "serial",
    workers: int | None = None,
    advice: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Evaluation]:
    """Score policies in files, each as `Evaluator.evaluate` would; never raises for anything a file contains.

    On a cluster each node loads the panel from its own files: it needs `$KVEVOLVE_TRACES` like this machine, unless
    the panel is synthetic, and a panel file of the user's under the same path.

    Args:
        files: The candidates.
        split: "train" or "validation".
        which: Name or file of the panel, see `workloads.panel.load_panel`.
        executor: "serial", "process" or "ray", see `sim.executor.run`.
        workers: Most candidates at a time. With more than there are free cores, slow ones may run out of time.
        advice: Whether to look for the costliest evictions too.
        progress: Called as progress(candidates done, all that could be read).

    Raises:
        ValueError: If there is no such panel or executor.
        RuntimeError: If a node holds another panel.
    """
    panel = load_panel(split, which)
    load_marks(panel, executor, workers)  # once here, not in every worker
    key = PanelKey(split, panel.which, panel.fingerprint)
    read = [read_candidate(path) for path in files]
    jobs = [("panel", (source, advice)) for source in read if isinstance(source, str)]
    try:
        scored = iter(run(evaluate, {"panel": key}, jobs, executor, workers, progress))
    finally:
        _close()
    return [next(scored) if isinstance(source, str) else source for source in read]


def evaluate(key: PanelKey, candidate: tuple[str, bool]) -> Evaluation:
    """Score one candidate in a worker: its source, and whether to give advice."""
    if key not in _evaluators:
        _close()
        evaluator = Evaluator(key.split, key.which)
        if evaluator.panel.fingerprint != key.fingerprint:
            raise RuntimeError(
                f"panel {key.which} {key.split} is {evaluator.panel.fingerprint[:12]} in this worker and "
                f"{key.fingerprint[:12]} where the job comes from; fix: give all nodes the same traces and code"
            )
        _evaluators[key] = evaluator
    return _evaluators[key].evaluate_source(*candidate)


def _close() -> None:
    while _evaluators:
        _evaluators.popitem()[1].close()
