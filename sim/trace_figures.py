"""A trace as figures: lengths, arrivals, popularity, working set, reuse distance, hits by cache size.

Must not know how numbers are found beyond `sim.reuse` and `workloads.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.plotting import GRID, INK, MUTED, load, new_figure, save, thousands
from sim.reuse import Reuse
from workloads import progress
from workloads.statistics import first_uses, previous_use, reuse_gaps_s
from workloads.trace import Trace

BLUE, GREEN = "#0072B2", "#009E73"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 150,
}
WINDOWS = 60
"""Pieces of the span that arrivals and working set are counted in."""
POINTS = 24
"""Cache sizes of the hit curves."""


def draw(reuse: Reuse, folder: Path, kind: str = "png") -> list[Path]:
    """Write the figures of a trace and return their paths; what there is nothing to show of is left out.

    Args:
        reuse: Of the trace.
        folder: Where to.
        kind: png, svg or pdf.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        OSError: If the folder cannot be written.
    """
    painters: dict[str, Callable[[Any, Reuse], None]] = {"lengths": _lengths, "arrivals": _arrivals}
    if reuse.trace.n_refs:
        painters |= {"popularity": _popularity, "working_set": _working_set, "hit_curves": _hit_curves}
    if reuse.hit_distances.size:
        painters |= {"reuse": _reuse}
    paths = []
    with load("matplotlib").rc_context(STYLE):
        for done, (name, paint) in enumerate(painters.items()):
            progress.tell("figures", done, len(painters))
            figure = new_figure(8.6 if name in _WIDE else 6.4, 3.9, layout="constrained")
            paint(figure, reuse)
            paths.append(folder / f"{name}.{kind}")
            save(figure, paths[-1], facecolor="white")
    progress.tell("figures", len(painters), len(painters))
    return paths


_WIDE = ("lengths", "reuse")


def _lengths(figure: Any, reuse: Reuse) -> None:
    trace = reuse.trace
    axes = figure.subplots(1, 2, sharey=True)
    for place, name, values in ((0, "input", trace.input_tokens), (1, "output", trace.output_tokens)):
        _cumulative(axes[place], values[values > 0], BLUE)
        empty = int(np.count_nonzero(values == 0))
        note = f" ({empty:,} of 0 left out)" if empty else ""
        axes[place].set_xlabel(f"{name} tokens per request{note}")
        _log_x(axes[place])
        for percent in (50, 90):
            _mark(axes[place], float(np.percentile(values, percent)), percent)
    axes[0].set_ylabel("requests (%)")
    axes[0].set_title(f"Lengths · {trace.name}")


def _arrivals(figure: Any, reuse: Reuse) -> None:
    trace = reuse.trace
    axes = figure.subplots()
    edges, unit, scale = _windows(trace)
    counts = np.histogram(trace.arrival_s - trace.arrival_s[0], edges)[0]
    width = float(edges[1] - edges[0])
    mean = trace.n_requests / trace.span_s if trace.span_s else 0.0
    per, seconds = ("second", 1.0) if mean >= 0.5 else ("minute", 60.0) if mean >= 0.5 / 60 else ("hour", 3_600.0)
    rates = counts * (seconds / width)
    axes.stairs(rates, edges / scale, color=BLUE, fill=True, alpha=0.35)
    axes.stairs(rates, edges / scale, color=BLUE, linewidth=1.4)
    style = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3))}
    axes.axhline(mean * seconds, label=f"mean {mean * seconds:,.3g} per {per}", **style)
    axes.set_xlabel(f"time since the first arrival ({unit})")
    axes.set_ylabel(f"requests per {per}")
    axes.set_title(f"Arrivals, means over {_shown_s(width)} · {trace.name}")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.legend(loc="best")


def _popularity(figure: Any, reuse: Reuse) -> None:
    trace = reuse.trace
    axes = figure.subplots()
    uses = np.sort(np.bincount(trace.block_ids, minlength=trace.n_blocks))[::-1]
    at = np.unique(np.geomspace(1, len(uses), 400).astype(np.int64)) - 1
    axes.plot(at + 1, uses[at], color=BLUE)
    once = int(np.count_nonzero(uses == 1))
    text = f"{once / len(uses):.1%} of the blocks\nare used once"
    axes.annotate(text, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top")
    _log_x(axes)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(thousands)
    axes.set_xlabel("distinct blocks, most used first (rank)")
    axes.set_ylabel("requests that use the block")
    axes.set_title(f"Popularity · {trace.name}")


def _working_set(figure: Any, reuse: Reuse) -> None:
    trace = reuse.trace
    axes = figure.subplots()
    edges, unit, scale = _windows(trace)
    cuts = np.searchsorted(trace.arrival_s - trace.arrival_s[0], edges[1:-1], side="left")
    cuts = trace.offsets[np.concatenate(([0], cuts, [trace.n_requests]))]
    new = np.concatenate(([0], np.cumsum(first_uses(trace))))
    inside = [len(np.unique(trace.block_ids[low:high])) for low, high in pairwise(cuts.tolist())]
    axes.plot(edges / scale, new[cuts], color=INK, label="seen so far")
    width = float(edges[1] - edges[0])
    axes.stairs(inside, edges / scale, color=BLUE, fill=True, alpha=0.35, label=f"used within {_shown_s(width)}")
    axes.set_xlabel(f"time since the first arrival ({unit})")
    axes.set_ylabel("distinct blocks")
    axes.yaxis.set_major_formatter(thousands)
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.set_title(f"Working set · {trace.name}")
    axes.legend(loc="upper left")


def _hit_curves(figure: Any, reuse: Reuse) -> None:
    trace = reuse.trace
    axes = figure.subplots()
    sizes = np.unique(np.geomspace(max(1, trace.n_blocks // 1000), max(1, trace.n_blocks), POINTS).astype(np.int64))
    best = reuse.optima(sizes.tolist())
    most = 100 * (1 - trace.n_blocks / trace.n_refs)
    axes.axhline(most, color="0.45", linewidth=1, linestyle=(0, (5, 3)), label=f"infinite cache, {most:.1f} %")
    axes.plot(sizes, [100 * hit for hit in best], color=INK, linestyle="-.", label="offline optimum")
    axes.plot(sizes, [100 * reuse.lru(size) for size in sizes.tolist()], color=BLUE, label="LRU")
    _log_x(axes)
    axes.set_ylim(0, max(1.0, 1.08 * most))
    axes.set_xlabel("cache size (blocks)")
    axes.set_ylabel("hits (% of block references)")
    share = axes.secondary_xaxis(
        "top", functions=(lambda c: 100 * c / max(trace.n_blocks, 1), lambda s: s * trace.n_blocks / 100)
    )
    share.set_xlabel("cache size (% of distinct blocks)", fontsize=9)
    _ticks(share.xaxis)
    axes.set_title(f"Hits by cache size · {trace.name}", pad=10)
    axes.legend(loc="lower right")


def _reuse(figure: Any, reuse: Reuse) -> None:
    trace = reuse.trace
    axes = figure.subplots(1, 2, sharey=True)
    _cumulative(axes[0], reuse.hit_distances, BLUE)
    axes[0].set_xlabel("reuse distance: depth in the LRU stack (blocks)")
    gaps = reuse_gaps_s(trace, previous_use(trace))
    _cumulative(axes[1], gaps[gaps > 0], GREEN, len(gaps))
    same = int(np.count_nonzero(gaps == 0)) / len(gaps)
    if same >= 0.005:
        note = f"{same:.0%} have the time of the last use"
        axes[1].annotate(note, (0.97, 0.04), xycoords="axes fraction", ha="right", va="bottom", fontsize=9)
    axes[1].set_xlabel("reuse gap: time since the last use (s)")
    for axis in axes:
        _log_x(axis)
    for percent in (50, 90):
        _mark(axes[0], float(np.percentile(reuse.hit_distances, percent)), percent)
        _mark(axes[1], float(np.percentile(gaps, percent)), percent)
    axes[0].set_ylabel("hits of an infinite cache (%)")
    axes[0].set_title(f"Reuse · {trace.name}")


def _cumulative(axes: Any, values: npt.NDArray[Any], colour: str, whole: int | None = None) -> None:
    """Draw which percentage of the values is at most x; of more values (`whole`), the others are smaller than all."""
    order = np.sort(values)
    count = len(order)
    if not count:
        return
    whole = count if whole is None else whole
    at = np.unique(np.linspace(0, count - 1, 1_000).astype(np.int64))
    axes.plot(order[at], 100 * (at + 1 + whole - count) / whole, color=colour, drawstyle="steps-post")
    axes.set_ylim(0, 101)


def _mark(axes: Any, value: float, percent: int) -> None:
    """Name a percentile on its curve."""
    if value <= 0:
        return
    axes.plot([value], [percent], "o", color=INK, markersize=4)
    label = f"p{percent} {value:,.0f}" if value >= 10 else f"p{percent} {value:,.2g}"
    bounds = axes.get_xlim()
    right = np.log(value / bounds[0]) > 0.6 * np.log(bounds[1] / bounds[0])
    place = {"ha": "right" if right else "left", "va": "bottom" if right else "top", "fontsize": 9}
    axes.annotate(
        label, (value, percent), (-6 if right else 6, 3 if right else -3), textcoords="offset points", **place
    )


def _windows(trace: Trace) -> tuple[npt.NDArray[np.float64], str, float]:
    """Return the edges of equal pieces of the span in seconds from its start, a unit to show, and its seconds."""
    span = trace.span_s or 1.0
    units = (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0))
    unit, scale = next((unit for unit in units if span >= 3 * unit[1]), units[-1])
    return np.linspace(0.0, span, WINDOWS + 1), unit, scale


def _shown_s(seconds: float) -> str:
    for unit, scale in (("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.3g} {unit}"
    return f"{seconds:,.3g} s"


def _log_x(axes: Any) -> None:
    axes.set_xscale("log")
    _ticks(axes.xaxis)


def _ticks(axis: Any) -> None:
    """Put ticks at powers of ten, few enough for their labels; at 1, 2 and 5 where there are hardly any of those."""
    ticker = load("matplotlib.ticker")
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if 0 < low < high < 100 * low else (1.0,)
    axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=5))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(thousands)
