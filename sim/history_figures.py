"""A run as PNG figures: best so far, what came of the proposals, the MAP-Elites grid, the way to the winner.

Must not know how anything was found.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.plotting import GRID, INK, MUTED, load, new_figure, save, thousands
from sim.score import LOWEST

if TYPE_CHECKING:
    from sim.history.grid import Grid
    from sim.history.summary import Summary

BLUE, RED, GREY = "#0072B2", "#D55E00", "#b8b8b8"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
MOST_STEPS, MOST_REASONS, MOST_ISLANDS = 30, 10, 8
_LABEL = 48


def draw(found: Summary, folder: Path) -> list[Path]:
    """Write the figures and return their paths; what there is nothing to show of is left out.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        OSError: If the folder cannot be written.
    """
    painters: dict[str, tuple[bool, Callable[[Summary], Any]]] = {
        "best_so_far": (bool(found.curve), _best_so_far),
        "proposals": (any(found.outcomes.values()), _proposals),
        "cells": (found.grid is not None and bool(found.grid.bins), _cells),
        "lineage": (len(found.steps) > 1, _lineage),
    }
    paths = []
    with load("matplotlib").rc_context(STYLE):
        for name, (there, paint) in painters.items():
            if there:
                paths.append(folder / f"{name}.png")
                save(paint(found), paths[-1], facecolor="white")
    return paths


def _best_so_far(found: Summary) -> Any:
    figure = new_figure(7.2, 4.0, layout="constrained")
    axes = figure.subplots()
    places = [best.evaluations for best in found.curve]
    scores = [best.score for best in found.curve]
    least = _floor([score for _, score in found.trials], scores)
    shown = [(at, score) for at, score in found.trials if score >= least]
    hidden = len(found.trials) - len(shown)
    label = "one evaluation" + (f" ({hidden} of {len(found.trials)} lie below)" if hidden else "")
    axes.scatter([at for at, _ in shown], [score for _, score in shown], s=10, color=GREY, label=label)
    total = max(int(found.evaluations["total"] or 1), places[-1])
    axes.step([*places, total], [*scores, scores[-1]], where="post", color=BLUE, linewidth=2, label="best so far")
    axes.plot(places, scores, "o", color=BLUE, markersize=4)
    axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 9}
    axes.annotate("LRU", (1, 0), (0, 3), ha="right", **place)
    last = found.curve[-1]
    axes.annotate(f"{last.score:+.4f}", (total, last.score), (0, 5), textcoords="offset points", ha="right", color=BLUE)
    room = (max(scores) - least) or 0.01
    axes.set_ylim(least - 0.04 * room, max(*scores, 0.0) + 0.12 * room)
    axes.xaxis.set_major_formatter(thousands)
    axes.set_xlabel("evaluations, those of tunings included")
    axes.set_ylabel("score on the training panel")
    axes.grid(True)
    axes.set_title(f"Best so far · {Path(found.run).name}")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def _floor(scores: list[float], best: list[float]) -> float:
    """Return the least score to show: far below the curve, it would be a line."""
    return max(min(scores), best[0] - 1.5 * max(best[-1] - best[0], 0.005))


def _proposals(found: Summary) -> Any:
    came = [(name, count) for name, count in found.outcomes.items() if count]
    reasons = [(f"{stage}: {reason}" if reason else stage, count) for stage, reason, count in found.rejections]
    shown = reasons[:MOST_REASONS]
    rest = sum(count for _, count in reasons[MOST_REASONS:])
    shown += [("other reasons", rest)] if rest else []
    heights = [len(came), len(shown)] if shown else [len(came)]
    figure = new_figure(9.0, 0.7 + 0.42 * sum(heights) + 0.6 * len(heights), layout="constrained")
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=[height + 0.6 for height in heights])
    _bars(grid[0][0], came, [BLUE if name == "stored" else GREY for name, _ in came])
    grid[0][0].set_title(f"What came of {sum(count for _, count in came)} proposals · {Path(found.run).name}")
    if shown:
        _bars(grid[1][0], shown, [RED] * len(shown))
        grid[1][0].set_title("Where and why proposals were refused")
    return figure


def _bars(axes: Any, rows: list[tuple[str, int]], colours: list[str]) -> None:
    places = range(len(rows))
    counts = [count for _, count in rows]
    axes.barh(places, counts, color=colours, height=0.5)
    for place, count in zip(places, counts, strict=True):
        axes.annotate(f"{count:,}", (count, place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [textwrap.fill(name, _LABEL, max_lines=2, placeholder=" …") for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(counts))
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _cells(found: Summary) -> Any:
    grid = found.grid
    assert grid is not None
    panels = [("all islands", grid.union())]
    if len(grid.islands) > 1:
        panels += [(f"island {i}", island.cells) for i, island in enumerate(grid.islands[:MOST_ISLANDS])]
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    lines = -(-len(panels) // columns)
    figure = new_figure(4.2 * columns + 0.9, 3.1 * lines + 0.9, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    best = max((score for score in grid.union().values() if score is not None), default=0.0)
    reach = max(abs(best), 1e-3)
    image = None
    for place, (name, cells) in zip(axes, panels, strict=False):
        image = _panel(place, grid, cells, reach)
        place.set_title(f"{name}: {len(cells)} cells", fontsize=10)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    figure.supxlabel(_axis(grid, 0), fontsize=10)
    figure.supylabel(_axis(grid, 1) if len(grid.bins) > 1 else "", fontsize=10)
    bar = figure.colorbar(image, ax=list(axes), extend="min", shrink=0.85)
    bar.set_label("best score in the cell: 0 is LRU, × not run on all cells")
    bar.outline.set_visible(False)
    other = "" if len(grid.bins) < 3 else f", best over {', '.join(grid.features[2:])}"
    head = f"MAP-Elites cells after iteration {grid.iteration}{other} · {Path(found.run).name}"
    figure.suptitle(head, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _panel(axes: Any, grid: Grid, cells: dict[tuple[int, ...], float | None], reach: float) -> Any:
    width, height = grid.bins[0], grid.bins[1] if len(grid.bins) > 1 else 1
    best: dict[tuple[int, int], float] = {}
    for cell, score in cells.items():
        place = (cell[1] if len(cell) > 1 else 0, cell[0])
        best[place] = max(best.get(place, -9.0), -9.0 if score is None else score)
    table = [[best.get((row, column), float("nan")) for column in range(width)] for row in range(height)]
    image = axes.imshow(table, origin="lower", cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_facecolor("#f4f4f4")
    for (row, column), score in best.items():
        strong = abs(score) > 0.6 * reach
        text = "×" if score <= LOWEST else f"{score:+.3f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if strong else INK)
    axes.set_xticks([column - 0.5 for column in range(width + 1)], minor=True)
    axes.set_yticks([row - 0.5 for row in range(height + 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(range(width))
    axes.set_yticks(range(height))
    axes.spines[:].set_visible(False)
    return image


def _axis(grid: Grid, number: int) -> str:
    seen = grid.ranges[number]
    name = f"bin of {grid.features[number]}"
    return f"{name} ({seen[0]:.4g} to {seen[1]:.4g})" if seen else name


def _lineage(found: Summary) -> Any:
    steps = found.steps[-MOST_STEPS:]
    figure = new_figure(8.2, 1.3 + 0.36 * len(steps), layout="constrained")
    axes = figure.subplots()
    known = [(place, step) for place, step in enumerate(steps) if step.score is not None]
    scores = [float(step.score or 0.0) for _, step in known]
    least = min((score for score in scores if score > -0.5), default=min(scores, default=0.0))
    room = (max(scores, default=0.0) - least) or 0.01
    drawn = [max(score, least - 0.08 * room) for score in scores]
    axes.plot(drawn, [place for place, _ in known], color=GREY, linewidth=1.4, zorder=1)
    for (place, step), at in zip(known, drawn, strict=True):
        gained = step.gain is None or step.gain >= 0
        axes.plot([at], [place], "o", color=BLUE if gained else RED, markersize=6, zorder=2)
        text = f"{step.score:+.4f}" + (f"  ({step.gain:+.4f})" if step.gain is not None else "")
        label = axes.annotate(text, (at, place), (8, 0), textcoords="offset points", va="center", fontsize=9)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85})
    axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (5, 3)), zorder=0)
    axes.annotate("LRU", (0, 1), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9)
    labels = [(f"{step.iteration}: " if step.iteration else "") + step.by for step in steps]
    axes.set_yticks(range(len(steps)), [textwrap.shorten(label, _LABEL, placeholder=" …") for label in labels])
    axes.set_ylim(len(steps) - 0.4, -0.6)
    axes.set_xlim(least - 0.12 * room, max(*scores, 0.0) + 0.35 * room)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("score on the training panel; change against the parent in brackets")
    left_out = len(found.steps) - len(steps)
    note = f", its last {len(steps)} steps" if left_out else ""
    axes.set_title(f"The way to the winner by iteration{note} · {Path(found.run).name}", pad=16)
    return figure
