"""Runs of several arms, summed up: scores over seeds, and at equal cost; paired differences with their uncertainty.

Knows finished runs; must not know how they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.ablation.curve import COSTS, best_at
from sim.ablation.runs import Finished
from sim.tables import table

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap that are reported."""
FEW_SEEDS = 5
"""With fewer, spread and interval say little, which the text then says."""


@dataclass(frozen=True)
class Spread:
    """Numbers over seeds."""

    mean: float
    sd: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean, sample standard deviation (0 of one), least and greatest."""
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return cls(float(np.mean(values)), sd, min(values), max(values))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """Return the mean difference over common seeds, with the percentile bootstrap interval over seeds.

    Args:
        ours: Value by seed.
        theirs: Value by seed.

    Returns:
        "mean", "low", "high", "seeds"; None without a common seed.
    """
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    drawn = np.random.default_rng(0).integers(0, len(seeds), (RESAMPLES, len(seeds)))
    low, high = np.percentile(differences[drawn].mean(axis=1), INTERVAL)
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high), "seeds": len(seeds)}


def summarise(runs: Mapping[str, Sequence[Finished]]) -> dict[str, Any]:
    """Return plain numbers, fit for JSON.

    Equal cost: every run's best when it had spent what the run that spent least of all had spent in the end. A cost
    that some arm does not have (dollars) is left out.

    Args:
        runs: Finished runs by arm; the first arm is what the others are compared with.
    """
    first = next(iter(runs))
    every = [run for found in runs.values() for run in found]
    limits = {cost: min(run.curve[-1].spent(cost) for run in every) for cost in COSTS}
    equal = {
        cost: {"limit": limit, "arms": _at(runs, cost, limit, first)} for cost, limit in limits.items() if limit > 0
    }
    return {
        "first": first,
        "arms": {name: _arm(found, runs[first]) for name, found in runs.items()},
        "equal": equal,
    }


def _arm(runs: Sequence[Finished], first: Sequence[Finished]) -> dict[str, Any]:
    content: dict[str, Any] = {"seeds": [run.seed for run in runs]}
    for part in ("train", "validation"):
        ours = {run.seed: float(getattr(run, part)) for run in runs}
        theirs = {run.seed: float(getattr(run, part)) for run in first}
        content[part] = vars(Spread.of(list(ours.values()))) | {"by_seed": {str(k): v for k, v in ours.items()}}
        if runs is not first:
            content[part]["difference"] = paired(ours, theirs)
    ends = [run.curve[-1] for run in runs]
    content["spent"] = {cost: float(np.mean([end.spent(cost) for end in ends])) for cost in COSTS}
    content["seconds"] = float(np.mean([run.seconds for run in runs]))
    content["run_cpu_s"] = float(np.mean([run.cpu_s for run in runs]))
    content["evaluations_per_s"] = float(np.mean([run.per_s for run in runs]))
    return content


def _at(runs: Mapping[str, Sequence[Finished]], cost: str, limit: float, first: str) -> dict[str, Any]:
    values = {
        name: {run.seed: best for run in found if (best := best_at(run.curve, cost, limit)) is not None}
        for name, found in runs.items()
    }
    content: dict[str, Any] = {}
    for name, found in values.items():
        content[name] = {"seeds": len(found)} | (vars(Spread.of(list(found.values()))) if found else {})
        if name != first:
            content[name]["difference"] = paired(found, values[first])
    return content


def describe(summary: Mapping[str, Any]) -> str:
    """Return a summary as text tables."""
    first = summary["first"]
    head = ["arm", "seeds", "evaluations", "CPU-s", "eval/s", "USD", "train mean", "sd", "min", "max"]
    head += ["validation mean", "sd", "min", "max"]
    rows = []
    for name, arm in summary["arms"].items():
        spent = arm["spent"]
        row = [name, str(len(arm["seeds"])), f"{spent['evaluations']:.0f}", f"{spent['cpu_s']:.0f}"]
        row += [f"{arm['evaluations_per_s']:.2f}", f"{spent['usd']:.2f}" if spent["usd"] else "-"]
        rows.append([*row, *_spread(arm["train"]), *_spread(arm["validation"])])
    parts = [table(head, rows, "l" + "r" * (len(head) - 1))]
    others = [name for name in summary["arms"] if name != first]
    if others:
        lines = [
            [name, _interval(summary["arms"][name]["train"]), _interval(summary["arms"][name]["validation"])]
            for name in others
        ]
        text = f"difference to {first}, paired by seed [95% bootstrap interval over seeds]"
        parts.append(f"{text}\n{table(['arm', 'train', 'validation'], lines, 'lrr')}")
    for cost, found in summary["equal"].items():
        lines = [[name, *_spread(arm), _interval(arm) if name != first else ""] for name, arm in found["arms"].items()]
        text = f"best training score at equal {_UNITS[cost]}: {found['limit']:,.6g}"
        columns = ["arm", "mean", "sd", "min", "max", f"difference to {first}"]
        parts.append(f"{text}\n{table(columns, lines, 'lrrrrr')}")
    fewest = min(len(arm["seeds"]) for arm in summary["arms"].values())
    if fewest < FEW_SEEDS:
        parts.append(f"only {fewest} seed(s) of some arm: spread and intervals say little; take at least {FEW_SEEDS}")
    return "\n\n".join(parts)


_UNITS = {"evaluations": "evaluations", "cpu_s": "CPU-seconds", "refs": "block references", "usd": "dollars"}


def _spread(found: Mapping[str, Any]) -> list[str]:
    if "mean" not in found:
        return ["-"] * 4
    return [f"{found['mean']:+.4f}", f"{found['sd']:.4f}", f"{found['low']:+.4f}", f"{found['high']:+.4f}"]


def _interval(found: Mapping[str, Any]) -> str:
    gap = found.get("difference")
    return f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" if gap else "-"
