"""What runs cost: evaluations, CPU time, replayed blocks, tokens and money, from the raw logs of run directories.

Knows the names of the logs and of their fields. Must not know how a run works. A line that a killed run left half
written at the end of a log is skipped; any other broken line is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.results.report import Report, Table
from sim.search import spending

EVALUATIONS, OPERATOR, MODEL = "evaluations.jsonl", "operator.jsonl", "llm.jsonl"
READING = "Scores are of the training split; a run is one search, from its seed program on."
TEXT = (
    "Per run directory, from its logs. Evaluations: candidates scored, those answered from a cache apart. "
    "CPU-hours: of the evaluations, all processes. Operator hours: what the keyless operator took to propose, its "
    "screening and tuning included, by the wall clock. Its G refs: block references it replayed for that, of the "
    "reduced panel. Polish: passes over the training panel that tuned a model's constants. To the best: evaluations "
    "until the best score of the run first appeared. What was done outside of runs (`kvevolve tune`, by hand) is not "
    "here."
)
COLUMNS = ("run", "evaluations", "cached", "invalid", "CPU-hours", "G block refs", "operator hours", "its G refs",
           "polish", "best score", "to the best", "model calls", "tokens", "USD")  # fmt: skip


def report(runs: Sequence[Path]) -> Report:
    """Add up the logs of runs.

    Args:
        runs: Run directories, and directories of them at any depth, such as that of `kvevolve ablate`.

    Raises:
        ValueError: If a run has no log of evaluations, or a log is broken; names file and line.
    """
    found = {name: cost_of(run) for name, run in _named(runs).items()}
    rows = [[name, *_shown(each)] for name, each in found.items()]
    if len(found) > 1:
        total = {key: sum(each[key] for each in found.values()) for key in next(iter(found.values()))}
        rows.append(["all", *_shown(total | {"best_score": None, "evaluations_to_best": None})])
    text = TEXT if found else f"{TEXT}\n\nNo run was named: --runs RUN_DIRECTORY."
    return Report(
        "cost", "What it cost", READING, text, [Table("Runs", COLUMNS, rows)] if found else [], {"runs": found}
    )


def _named(places: Sequence[Path]) -> dict[str, Path]:
    """Return run directories by name: their own, or as much of their path as tells them apart."""
    runs: dict[Path, None] = {}
    for place in places:
        below = sorted(path.parent for path in place.rglob(EVALUATIONS))
        runs |= dict.fromkeys(each.resolve() for each in below or [place])
    for length in range(1, 1 + max((len(run.parts) for run in runs), default=0)):
        names = ["/".join(run.parts[-length:]) for run in runs]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return {}


def cost_of(run: Path) -> dict[str, Any]:
    """Return the cost of one run."""
    scored = list(_lines(run / EVALUATIONS))
    if not scored:
        raise ValueError(f"{run / EVALUATIONS}: no evaluation is logged; fix: name the directory of a run")
    fresh = [each for each in scored if not each.get("cached")]
    metrics = [each["metrics"] for each in scored]
    scores = [float(each.get("combined_score", -1.0)) for each in metrics]
    calls, proposals = ([*_lines(run / log)] if (run / log).is_file() else [] for log in (MODEL, OPERATOR))
    polished = [each.get("polish") or {} for each in calls]
    usage = [call.get("usage") or {} for call in calls]
    return {
        "evaluations": len(fresh),
        "cached": len(scored) - len(fresh),
        "invalid": sum(float(each.get("valid", 0.0)) == 0.0 for each in metrics),
        "cpu_hours": sum(float(each["cpu_seconds"]) for each in fresh) / 3600.0,
        "refs": sum(int(each["refs"]) for each in fresh),
        "operator_hours": sum(float(each.get("seconds") or 0.0) for each in proposals) / 3600.0,
        "operator_refs": sum(map(spending.refs, proposals)),
        "polish_passes": sum(float(each.get("passes", each.get("evaluations", 0.0))) for each in polished),
        "best_score": max(scores),
        "evaluations_to_best": scores.index(max(scores)) + 1,
        "model_calls": len(calls),
        "tokens": sum(int(each.get(kind) or 0) for each in usage for kind in ("prompt_tokens", "completion_tokens")),
        "cost_usd": sum(float(call.get("cost_usd") or 0.0) for call in calls),
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}; fix: name the directory of a run") from None
    lines = text.split("\n")
    needed: Callable[[Mapping[str, Any]], bool] = _complete if path.name == EVALUATIONS else bool
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            sound = isinstance(found, dict) and needed(found)
        except (ValueError, RecursionError):
            if number == len(lines):
                return
            sound = False
        if not sound:
            raise ValueError(f"{path}, line {number}: is not what a run logs; fix: restore the log from the run")
        yield found


def _complete(line: Mapping[str, Any]) -> bool:
    numbers = [line.get("cpu_seconds"), line.get("refs")]
    return isinstance(line.get("metrics"), dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in numbers
    )


def _shown(each: Mapping[str, Any]) -> list[str]:
    best = each["best_score"]
    return [
        f"{each['evaluations']:,}",
        f"{each['cached']:,}",
        f"{each['invalid']:,}",
        f"{each['cpu_hours']:.3f}",
        f"{each['refs'] / 1e9:.1f}",
        f"{each['operator_hours']:.3f}",
        f"{each['operator_refs'] / 1e9:.1f}",
        f"{each['polish_passes']:,.0f}",
        "" if best is None else f"{best:+.4f}",
        "" if each["evaluations_to_best"] is None else f"{each['evaluations_to_best']:,}",
        f"{each['model_calls']:,}",
        f"{each['tokens']:,}",
        f"{each['cost_usd']:.2f}",
    ]
