"""Whether a policy still wins when the cache is a little larger, blocks are smaller, or time runs faster.

A winner that has learned the panel's own sizes, instead of traffic, loses its gain as soon as they move. So every cell
is replayed under `sim.promotion.variants`, against LRU and the optimum of the same condition, and the gap closed is
compared with that before the change, over the cells that count on both sides.

Knows variants and tokens. Must not know why a policy is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sim.executor import run
from sim.promotion.replays import Tokens, tokens_of
from sim.promotion.variants import ALL, Variant, varied
from sim.promotion.verdict import Check
from sim.score import SCORED_GAP, TOLERATED_LOSS
from workloads.panel import Cell, Panel
from workloads.trace import Trace

KEPT = 0.5
"""Share of its gain that a policy must keep, on each trace and on average. Gains of honest policies move by a third
from one capacity to another (gap_corrected_lru on Mooncake toolagent: 0.18 to 0.10 at 1.2 x); one that has learned
the sizes keeps nothing."""
SLACK = 0.05
"""Of the gap, beyond that: what the same policy differs by on one trace without being another policy."""


@dataclass(frozen=True)
class Moved:
    """One cell before and after a change."""

    before: Tokens
    after: Tokens

    @property
    def counts(self) -> bool:
        """Whether the cell is worth comparing: LRU leaves a gap on both sides."""
        return all(t.optimum - t.lru >= SCORED_GAP * t.prompt for t in (self.before, self.after))


def check_stability(
    panel: Panel, source: str, executor: str, workers: int | None, progress: Callable[[int, int], None]
) -> list[Check]:
    """Return one check for each kind of variant."""
    cells = {name: tuple(c for c in panel.cells if c.trace_name == name) for name in panel.traces}
    jobs = [(name, (source, cells[name], variant)) for variant in ALL for name in panel.traces]
    found = iter(run(moved, panel.traces, jobs, executor, workers, progress))
    by_kind: dict[str, dict[str, Any]] = {}
    faults: dict[str, list[str]] = {}
    for variant in ALL:
        per_trace = {name: next(found) for name in panel.traces}
        figures, wrong = judged(variant, per_trace)
        by_kind.setdefault(variant.kind, {})[str(variant)] = figures
        faults.setdefault(variant.kind, []).extend(wrong)
    return [_check(kind, by_kind[kind], faults[kind]) for kind in by_kind]


def moved(trace: Trace, what: tuple[str, Sequence[Cell], Variant]) -> tuple[list[Moved], str]:
    """Replay the cells of one trace before and after a change; return them and what is not exact about it."""
    source, cells, variant = what
    case = varied(trace, cells, variant)
    found = []
    for i, before, after in case.cells:
        first = cells[i].first_counted
        found.append(Moved(tokens_of(case.before, before, first, source), tokens_of(case.after, after, first, source)))
    return found, case.note


def judged(variant: Variant, per_trace: dict[str, tuple[list[Moved], str]]) -> tuple[dict[str, Any], list[str]]:
    """Return the figures of one variant, and every rule it breaks in words."""
    figures: dict[str, Any] = {"traces": {}}
    faults: list[str] = []
    every: list[Moved] = []
    for name, (cells, note) in per_trace.items():
        counting = [cell for cell in cells if cell.counts]
        every += counting
        lost = fmean((c.after.lru - c.after.hits) / max(c.after.prompt, 1) for c in cells) if cells else 0.0
        figures["traces"][name] = _pair(counting) | {"lost_to_lru": lost, "cells": len(cells), "note": note}
        faults += _fallen(f"{name}, {variant}", counting, SLACK)
        if lost > TOLERATED_LOSS:
            faults.append(f"{name}, {variant}: {100 * lost:.2f}% of the prompt tokens lost to LRU")
    figures |= _pair(every)
    faults += _fallen(f"all traces, {variant}", every, 0.0)
    return figures, faults


def _fallen(where: str, cells: Sequence[Moved], slack: float) -> list[str]:
    if not cells:
        return []
    before, after = (fmean(side) for side in _sides(cells))
    if after >= before - (1.0 - KEPT) * max(before, 0.0) - slack:
        return []
    return [f"{where}: gap closed falls from {before:+.3f} to {after:+.3f}"]


def _pair(cells: Sequence[Moved]) -> dict[str, Any]:
    if not cells:
        return {"counting_cells": 0, "gap_closed_before": None, "gap_closed_after": None}
    before, after = (fmean(side) for side in _sides(cells))
    return {"counting_cells": len(cells), "gap_closed_before": before, "gap_closed_after": after}


def _sides(cells: Sequence[Moved]) -> tuple[list[float], list[float]]:
    """Return the gap closed before and after, each at least -1 as in the score."""
    return [max(c.before.gap_closed, -1.0) for c in cells], [max(c.after.gap_closed, -1.0) for c in cells]


def _check(kind: str, figures: dict[str, Any], faults: Sequence[str]) -> Check:
    figures = {"kept": KEPT, "slack": SLACK, "variants": figures}
    compared = [found for found in figures["variants"].values() if found["counting_cells"]]
    if not compared:
        return Check(kind, False, figures, "no cell leaves a gap before and after: nothing could be compared")
    if faults:
        more = f" (and {len(faults) - 1} more)" * (len(faults) > 1)
        return Check(kind, False, figures, f"{faults[0]}{more}")
    lowest = min(compared, key=lambda found: found["gap_closed_after"] - found["gap_closed_before"])
    text = f"gap closed at worst {lowest['gap_closed_before']:+.3f} before, {lowest['gap_closed_after']:+.3f} after"
    return Check(kind, True, figures, text)
