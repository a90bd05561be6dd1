"""Draws the results. Knows colours and axes; must not know how numbers came about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim import plotting
from sim.figure import COLOURS, MARKERS
from sim.results.means import LOWEST

ACROSS = 3
"""Panels side by side."""
SHARE = "gap closed (LRU 0, optimum 1)"
Lines = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def gaps(data: Mapping[str, Any], path: Path) -> None:
    """Draw gap closed by capacity, a panel per trace, intervals as bars; `data` as the table writes it."""
    cells = [cell for cell in data["cells"] if cell["scored"]]
    traces = list(dict.fromkeys(cell["trace"] for cell in cells))
    figure, panels = _panels(traces, "cache, of distinct blocks", SHARE)
    titles = [title for title in cells[0]["columns"] if title not in ("optimum", "hindsight classic")]
    for trace, axes in panels.items():
        mine = [cell for cell in cells if cell["trace"] == trace]
        for i, (title, style) in enumerate(zip(titles, _styles(), strict=False)):
            found = [cell["columns"][title] for cell in mine]
            height = [each["gap_closed"] for each in found]
            below = [h - min(each["interval"][0], h) for h, each in zip(height, found, strict=True)]
            above = [max(each["interval"][1], h) - h for h, each in zip(height, found, strict=True)]
            places = [x + 0.05 * (i - len(titles) / 2) for x in range(len(mine))]
            axes.errorbar(places, height, [below, above], ms=4, capsize=2, lw=1.2, label=title, **style)
        axes.set_xticks(range(len(mine)), [cell["capacity"] for cell in mine])
        low, high = axes.get_ylim()
        axes.set_ylim(max(LOWEST, low), min(1.05, high))
    _legend(figure, panels)
    plotting.save(figure, path, dpi=160)


def matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], path: Path) -> None:
    """Draw numbers as a table of colours, -1 to 1; one that is not a number is left white."""
    figure = plotting.new_figure(2.4 + 0.9 * len(columns), 2.0 + 0.4 * len(rows), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, cmap="RdBu", vmin=LOWEST, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value == value:
                ink = plotting.INK if abs(value) < 0.6 else "white"
                axes.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=ink)
    plotting.save(figure, path, dpi=160)


def curves(lines: Lines, across: str, up: str, path: Path, ticks: Sequence[float] = (), log_up: bool = False) -> None:
    """Draw lines by title in a panel per name; points are (x, y), x on a log scale, with ticks of one's own.

    With `log_up` y is on one too, and what is not above 0 is left out; without it what is below `LOWEST` is not drawn.
    """
    figure, panels = _panels(list(lines), across, up)
    for name, axes in panels.items():
        for (title, points), style in zip(lines[name].items(), _styles(), strict=False):
            shown = [(x, y if y > 0 or not log_up else math.nan) for x, y in points]
            axes.plot(*zip(*shown, strict=True), markersize=4, linewidth=1.4, label=title, **style)
        axes.set_xscale("log")
        if ticks:
            seen = [x for points in lines[name].values() for x, _ in points]
            axes.set_xticks([x for x in ticks if min(seen) <= x <= max(seen)])
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(plotting.thousands)
        if log_up:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=max(LOWEST, axes.get_ylim()[0]))
    _legend(figure, panels)
    plotting.save(figure, path, dpi=160)


def bars(values: Mapping[str, tuple[float, tuple[float, float]]], across: str, path: Path) -> None:
    """Draw a bar with its interval per name, the largest on top."""
    figure = plotting.new_figure(6.4, 1.0 + 0.28 * len(values), layout="constrained")
    axes = figure.subplots()
    order = sorted(values, key=lambda name: values[name][0])
    middle = [values[name][0] for name in order]
    below = [max(m - values[name][1][0], 0.0) for m, name in zip(middle, order, strict=True)]
    above = [max(values[name][1][1] - m, 0.0) for m, name in zip(middle, order, strict=True)]
    axes.barh(order, middle, xerr=[below, above], color=COLOURS[0], error_kw={"ecolor": plotting.MUTED, "capsize": 2})
    axes.axvline(0, color=plotting.MUTED, linewidth=0.8)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(across, fontsize=9)
    axes.grid(True, axis="x", color=plotting.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["right", "top"]].set_visible(False)
    plotting.save(figure, path, dpi=160)


def _panels(names: Sequence[str], across: str, up: str) -> tuple[Any, dict[str, Any]]:
    """Return a figure and its panels by name; those beyond the last name are blank."""
    columns = min(ACROSS, max(len(names), 1))
    rows = -(-max(len(names), 1) // columns)
    figure = plotting.new_figure(4.2 * columns, 3.3 * rows + 0.5, layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[len(names) :]:
        axes.set_axis_off()
    panels = dict(zip(names, every, strict=False))
    for i, (name, axes) in enumerate(panels.items()):
        _frame(axes, name, across, up if i % columns == 0 else "")
    return figure, panels


def _legend(figure: Any, panels: Mapping[str, Any]) -> None:
    known = {label: handle for axes in panels.values() for handle, label in zip(*axes.get_legend_handles_labels(),
             strict=True)}  # fmt: skip
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=min(len(known), 5), fontsize=8,
                  frameon=False)  # fmt: skip


def _styles() -> list[dict[str, str]]:
    return [{"color": colour, "marker": marker} for colour, marker in zip(COLOURS * 4, MARKERS * 4, strict=True)]


def _frame(axes: Any, title: str, across: str, up: str) -> None:
    axes.axhline(0, color=plotting.MUTED, linewidth=0.8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.grid(True, color=plotting.GRID, linewidth=0.8)
    axes.spines[["right", "top"]].set_visible(False)
