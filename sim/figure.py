"""Draws a sweep: hit rate against cache size. Knows curves and their colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim import plotting
from sim.curves import LRU_FLAT, OPTIMUM, Sweep

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5539", "#5E3C99")
"""Okabe and Ito, 2008: told apart by readers with any colour vision, and two more."""
MARKERS = "osD^vPXd"


def draw(sweep: Sweep, path: Path) -> None:
    """Write a figure; the suffix chooses the format (.png, .pdf, .svg).

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the format is unknown.
    """
    figure = plotting.new_figure(6.4, 4.2, layout="constrained")
    _draw(figure.subplots(), sweep)
    plotting.save(figure, path, dpi=160)


def _draw(axes: Any, sweep: Sweep) -> None:
    axes.axhline(100 * sweep.ceiling, color="0.45", linewidth=1, linestyle=(0, (5, 3)), label="infinite cache")
    styles = zip(COLOURS * 4, MARKERS * 4, strict=True)
    hollow = False
    for i, policy in enumerate((OPTIMUM, *(name for name in sweep.policies if name != OPTIMUM))):
        best = policy == OPTIMUM
        colour, marker = ("black", "") if best else next(styles)
        label = {OPTIMUM: "offline optimum", LRU_FLAT: "lru-flat (independent blocks)"}.get(policy, policy)
        width = 1.6 if best else max(2.8 - 0.5 * i, 1.0)  # a curve that lies on another leaves its rim visible
        curve = {c: 100 * rate for c, rate in sweep.curve(policy).items()}
        line = {"color": colour, "linestyle": "-." if best else "-", "linewidth": width}
        axes.plot(list(curve), list(curve.values()), marker=marker, markersize=2 + width, label=label, **line)
        unfilled = [c for c in curve if not sweep.points[policy, c].filled]
        hollow = hollow or bool(unfilled)
        rim = {"color": colour, "markerfacecolor": "white", "markersize": 2.5 + width, "zorder": 3}
        axes.plot(unfilled, [curve[c] for c in unfilled], marker or "o", **rim)
    if hollow:
        axes.plot([], [], "o", color="0.3", markerfacecolor="white", markersize=5, label="cache never full")
    _label(axes, sweep)


def _label(axes: Any, sweep: Sweep) -> None:
    ticker = plotting.load("matplotlib.ticker")
    axes.set_xscale("log")
    axes.set_ylim(0, min(100.0, 100 * sweep.ceiling * 1.08 + 1))
    axes.set_xlabel("cache size (blocks)")
    axes.set_ylabel("hit tokens (% of prompt tokens)")
    total = max(sweep.n_blocks, 1)
    shares = axes.secondary_xaxis("top", functions=(lambda c: 100 * c / total, lambda s: s * total / 100))
    shares.set_xlabel("cache size (% of distinct blocks)", fontsize=9)
    for axis in (axes.xaxis, shares.xaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(plotting.thousands)
        axis.set_minor_locator(ticker.NullLocator())
    notes = [f"engine {sweep.settings['engine']}"] if "engine" in sweep.settings else []
    if sweep.settings["warmup"] not in ("0", "0%"):
        notes.append(f"after a warm-up of {sweep.settings['warmup']}")
    if "sample" in sweep.settings:
        notes.append(f"estimated from a sample of {sweep.settings['sample']:g}")
    axes.set_title(", ".join([sweep.trace, *notes]), fontsize=10)
    axes.grid(True, which="major", color=plotting.GRID, linewidth=0.8)
    axes.spines[["right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="best")
