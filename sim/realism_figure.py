"""Draws how like a real trace synthetic ones are. Knows what `sim.realism` found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sim import plotting
from sim.realism import Realism
from sim.reuse import SHARES

COLOURS = {"optimum": "black", "lru": "#0072B2", "fifo": "#D55E00"}
NAMES = {"optimum": "optimum", "lru": "LRU", "fifo": "FIFO"}
PANELS = {
    "reuse distance": "reuse distance (blocks)",
    "return time": "return time (s)",
    "sharing depth": "blocks shared with earlier prompts",
    "prompt length": "prompt length (tokens)",
}


def draw(found: Realism, path: Path) -> None:
    """Write a figure; the suffix chooses the format (.png, .pdf, .svg).

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the format is unknown.
    """
    figure = plotting.new_figure(11.5, 6.6, layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    _curves(axes[0], found)
    for panel, (name, label) in zip(axes[1:5], PANELS.items(), strict=True):
        _distribution(panel, found, name, label)
    _arrivals(axes[5], found)
    seeds = ", ".join(map(str, found.seeds))
    figure.suptitle(f"{found.real.name}: real (lines) and fitted (dots, thin lines; seeds {seeds})", fontsize=11)
    plotting.save(figure, path, dpi=130)


def _curves(axes: Any, found: Realism) -> None:
    ticker = plotting.load("matplotlib.ticker")
    percent = 100 * np.array(SHARES)
    for policy, colour in COLOURS.items():
        axes.plot(percent, found.real.curves[policy], color=colour, linewidth=1.6, label=NAMES[policy])
        for made in found.made:
            axes.plot(percent, made.curves[policy], "o", color=colour, markersize=4.5, markerfacecolor="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.FixedLocator(percent.tolist()))
    axes.xaxis.set_major_formatter(plotting.thousands)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(bottom=0)
    _label(axes, "cache size (% of distinct blocks)", "hits (% of block references)")
    axes.legend(fontsize=8, frameon=False)


def _distribution(axes: Any, found: Realism, name: str, label: str) -> None:
    share = np.linspace(0, 100, len(found.real.distributions[name]))
    for made in found.made:
        values = made.distributions[name]
        axes.plot(values, np.linspace(0, 100, len(values)), color="#D55E00", linewidth=0.9)
    axes.plot(found.real.distributions[name], share, color="black", linewidth=1.6)
    positive = [value for one in (found.real, *found.made) for value in one.distributions[name] if value > 0]
    if positive:
        axes.set_xscale("log")
        axes.set_xlim(left=max(min(positive), max(positive) * 1e-6))
    axes.text(0.03, 0.93, f"KS {found.distances(name).mean():.3f}", transform=axes.transAxes, fontsize=9)
    _label(axes, label, "at most so much (%)")


def _arrivals(axes: Any, found: Realism) -> None:
    for one in (*found.made, found.real):
        real = one is found.real
        rows = np.linspace(0, one.numbers["requests"], len(one.arrival_s))
        style = {"color": "black", "linewidth": 1.6} if real else {"color": "#D55E00", "linewidth": 0.9}
        axes.plot(one.arrival_s, rows, zorder=1 if real else 2, **style)
    _label(axes, "time (s)", "requests so far")


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color=plotting.GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
