"""Means of the gap closed. Knows cells; must not know whose they are."""

from __future__ import annotations

from collections.abc import Sequence

from sim.score import Cell

LOWEST = -1.0
"""A cell counts as no less in a mean, as in the score: one cache far below LRU would hide all others."""


def gap_means(cells: Sequence[Cell]) -> dict[str, float]:
    """Return the mean gap closed over cells that count, as "mean", then by trace; nothing if none counts."""
    counting = [cell for cell in cells if cell.counts]
    found = {"mean": mean_gap(counting)} if counting else {}
    for trace in dict.fromkeys(cell.trace for cell in counting):
        found[trace] = mean_gap([cell for cell in counting if cell.trace == trace])
    return found


def mean_gap(cells: Sequence[Cell]) -> float:
    """Return the mean gap closed, each at least `LOWEST`."""
    return sum(max(cell.gap_closed, LOWEST) for cell in cells) / len(cells)
