"""A run's best training score so far against what it had spent: evaluations, CPU-seconds, references, dollars.

Read from the logs of a run's directory. Knows logs; must not know arms or policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sim import jsonlines
from sim.rundir import RunDir
from sim.search import spending

COSTS = ("evaluations", "cpu_s", "refs", "usd")
"""What may be spent. Evaluations: candidates the evaluator scored, and what screening and tuning replayed beside, in
passes over the panel by block references."""


@dataclass(frozen=True)
class Point:
    """Spent so far, and the best training score so far; None before the first valid candidate."""

    evaluations: float
    cpu_s: float
    refs: float
    usd: float
    best: float | None

    def spent(self, cost: str) -> float:
        """Return one of `COSTS`."""
        return float(getattr(self, cost))


@dataclass(frozen=True)
class _Event:
    """Something a run did, by the time it ended."""

    time: float
    evaluations: float = 0.0
    cpu_s: float = 0.0
    refs: float = 0.0
    usd: float = 0.0
    score: float | None = None


def best_at(curve: Sequence[Point], cost: str, limit: float) -> float | None:
    """Return the best score a run had when it had spent no more than `limit`."""
    reached = [point.best for point in curve if point.spent(cost) <= limit * (1 + 1e-9)]
    return reached[-1] if reached else None


def read(run: RunDir, panel_refs: int) -> tuple[Point, ...]:
    """Return the curve of an engine's run.

    Every evaluation comes from `evaluations.jsonl`; without that file, every stored child from the engine's trace: it
    lacks children of parents dropped meanwhile, its references are those of whole passes, and its CPU-seconds are wall
    seconds of iterations, the wait for an answer and all tuning included.

    Args:
        run: Its directory.
        panel_refs: Block references of a pass over the training panel.
    """
    journal = jsonlines.read(run.root / "evaluations.jsonl")
    evaluated = [_evaluated(line) for line in journal] or [_child(line, panel_refs) for line in run.children()]
    passes = [event.cpu_s for event in evaluated if event.refs >= panel_refs and event.cpu_s > 0]
    per_pass = median(passes) if journal and passes else 0.0
    tuned = [_tuned(line, panel_refs) for line in jsonlines.read(run.root / "operator.jsonl")]
    asked = [_asked(line, panel_refs, per_pass) for line in jsonlines.read(run.root / "llm.jsonl")]
    return accumulate([*evaluated, *tuned, *asked])


def accumulate(events: Iterable[_Event]) -> tuple[Point, ...]:
    """Return the running totals of events in order of time."""
    points: list[Point] = []
    totals = dict.fromkeys(COSTS, 0.0)
    best: float | None = None
    for event in sorted(events, key=lambda event: event.time):
        for cost in COSTS:
            totals[cost] += getattr(event, cost)
        if event.score is not None and (best is None or event.score > best):
            best = event.score
        points.append(Point(**totals, best=best))
    return tuple(points)


def _evaluated(line: dict[str, Any]) -> _Event:
    metrics = line["metrics"]
    score = float(metrics["combined_score"]) if metrics.get("valid") else None
    spent = {"cpu_s": float(line.get("cpu_seconds", 0.0)), "refs": float(line.get("refs", 0))}
    return _Event(float(line["time"]), 1.0, **({} if line.get("cached") else spent), score=score)


def _child(line: dict[str, Any], panel_refs: int) -> _Event:
    metrics = line.get("child_metrics") or {}
    valid = bool(metrics.get("valid"))
    seconds = float((line.get("metadata") or {}).get("iteration_time", 0.0))
    score = float(metrics["combined_score"]) if valid else None
    return _Event(float(line["timestamp"]), 1.0, seconds, panel_refs if valid else 0.0, score=score)


def _tuned(line: dict[str, Any], panel_refs: int) -> _Event:
    """Return what an answer of the operator cost beside its evaluation: replays of the reduced panel, by references."""
    refs = float(spending.refs(line))
    return _Event(_ended(line), refs / panel_refs if panel_refs else 0.0, spending.cpu_s(line), refs)


def _asked(line: dict[str, Any], panel_refs: int, per_pass: float) -> _Event:
    polish = line.get("polish") or {}
    passes = float(polish.get("passes", polish.get("evaluations", 0.0)))
    return _Event(_ended(line), passes, passes * per_pass, passes * panel_refs, float(line.get("cost_usd") or 0.0))


def _ended(line: dict[str, Any]) -> float:
    return float(line.get("time", 0.0)) + float(line.get("seconds") or 0.0)
