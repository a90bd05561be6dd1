"""Draws an ablation: best training score against evaluations and against CPU-seconds. Knows runs and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim import plotting
from sim.ablation.curve import best_at
from sim.ablation.runs import Finished
from sim.figure import COLOURS

AXES = {"evaluations": "evaluations", "cpu_s": "CPU-seconds of evaluations, screening and tuning"}
_STEPS = 400


def draw(runs: Mapping[str, Sequence[Finished]], path: Path, title: str) -> None:
    """Write a figure: the median over seeds, and the range; the suffix chooses the format.

    Args:
        runs: Finished runs by arm.
        path: The file.
        title: Above it.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the format is unknown.
    """
    figure = plotting.new_figure(9.6, 4.2, layout="constrained")
    for axes, (cost, label) in zip(figure.subplots(1, 2, sharey=True), AXES.items(), strict=True):
        _draw(axes, runs, cost)
        axes.set_xlabel(label)
        axes.grid(True, color=plotting.GRID, linewidth=0.8)
        axes.spines[["right", "top"]].set_visible(False)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(plotting.thousands)
    figure.axes[0].set_ylabel("best training score so far")
    figure.axes[0].legend(fontsize=8, frameon=False, loc="lower right", title="median, range over seeds")
    figure.suptitle(title, fontsize=10)
    plotting.save(figure, path, dpi=160)


def _draw(axes: Any, runs: Mapping[str, Sequence[Finished]], cost: str) -> None:
    for colour, (name, found) in zip(COLOURS * 4, runs.items(), strict=False):
        ends = [run.curve[-1].spent(cost) for run in found]
        grid = np.linspace(0.0, min(ends), _STEPS)  # as far as every seed went
        rows = [[_or_nan(best_at(run.curve, cost, spent)) for spent in grid] for run in found]
        scores = np.array(rows)
        known = ~np.isnan(scores).any(axis=0)
        if not known.any():
            continue
        axes.plot(grid[known], np.median(scores[:, known], axis=0), color=colour, linewidth=1.8, label=name)
        low, high = scores[:, known].min(axis=0), scores[:, known].max(axis=0)
        axes.fill_between(grid[known], low, high, color=colour, alpha=0.15, linewidth=0)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
