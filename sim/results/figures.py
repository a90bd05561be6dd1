"""Draws the results. Knows colours and axes; must not know how numbers came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim import plotting
from sim.figure import COLOURS, MARKERS

LOWEST = -1.0
"""A policy far below LRU would flatten all others; what lies below is not drawn."""


def gaps(data: Mapping[str, Any], path: Path) -> None:
    """Draw gap closed by capacity, a panel per trace, intervals as bars; `data` as the table writes it."""
    cells = [cell for cell in data["cells"] if cell["scored"]]
    traces = list(dict.fromkeys(cell["trace"] for cell in cells))
    figure = plotting.new_figure(4.2 * max(len(traces), 1), 3.8, layout="constrained")
    titles = [title for title in cells[0]["columns"] if title != "optimum" and not title.startswith("hindsight")]
    for axes, trace in zip(figure.subplots(1, len(traces), squeeze=False)[0], traces, strict=True):
        mine = [cell for cell in cells if cell["trace"] == trace]
        for title, colour, marker in zip(titles, COLOURS * 4, MARKERS * 4, strict=False):
            found = [cell["columns"][title] for cell in mine]
            height = [each["gap_closed"] for each in found]
            below = [h - min(each["interval"][0], h) for h, each in zip(height, found, strict=True)]
            above = [max(each["interval"][1], h) - h for h, each in zip(height, found, strict=True)]
            places = [cell["capacity"] for cell in mine]
            axes.errorbar(places, height, [below, above], color=colour, marker=marker, ms=4, capsize=2, label=title)
        _frame(axes, trace, "cache, of distinct blocks", "gap closed (LRU 0, optimum 1)")
        axes.set_ylim(bottom=max(LOWEST, axes.get_ylim()[0]))
    figure.axes[0].legend(fontsize=7, frameon=False)
    plotting.save(figure, path, dpi=160)


def matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], path: Path) -> None:
    """Draw numbers as a table of colours, -1 to 1."""
    figure = plotting.new_figure(1.8 + 0.75 * len(columns), 1.6 + 0.4 * len(rows), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=7, color=plotting.INK)
    plotting.save(figure, path, dpi=160)


def curves(lines: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], across: str, up: str, path: Path) -> None:
    """Draw lines by title in a panel per name; points are (x, y), x on a log scale."""
    figure = plotting.new_figure(4.2 * max(len(lines), 1), 3.6, layout="constrained")
    for axes, (name, titled) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True):
        for (title, points), colour, marker in zip(titled.items(), COLOURS * 4, MARKERS * 4, strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=title)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plotting.thousands)
        _frame(axes, name, across, up)
    figure.axes[0].legend(fontsize=7, frameon=False)
    plotting.save(figure, path, dpi=160)


def bars(values: Mapping[str, float], across: str, path: Path) -> None:
    """Draw a bar per name, the largest on top."""
    figure = plotting.new_figure(5.4, 0.9 + 0.28 * len(values), layout="constrained")
    axes = figure.subplots()
    order = sorted(values, key=lambda name: values[name])
    axes.barh(order, [values[name] for name in order], color=COLOURS[0])
    axes.tick_params(labelsize=8)
    _frame(axes, "", across, "")
    plotting.save(figure, path, dpi=160)


def _frame(axes: Any, title: str, across: str, up: str) -> None:
    axes.axhline(0, color=plotting.MUTED, linewidth=0.8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.grid(True, color=plotting.GRID, linewidth=0.8)
    axes.spines[["right", "top"]].set_visible(False)
