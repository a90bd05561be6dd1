"""Means of the gap closed. Knows cells; must not know whose they are."""

from __future__ import annotations

from collections.abc import Sequence

from sim.score import Cell


def gap_means(cells: Sequence[Cell]) -> dict[str, float]:
    """Return the mean gap closed over cells that count, as "mean", then by trace; nothing if none counts."""
    counting = [cell for cell in cells if cell.counts]
    found = {"mean": _mean(counting)} if counting else {}
    for trace in dict.fromkeys(cell.trace for cell in counting):
        found[trace] = _mean([cell for cell in counting if cell.trace == trace])
    return found


def _mean(cells: Sequence[Cell]) -> float:
    return sum(cell.gap_closed for cell in cells) / len(cells)
