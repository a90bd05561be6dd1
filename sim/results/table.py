"""The headline: who hits what on the held-out split, per trace and capacity, with intervals.

Knows pools, splits and columns. Must not know how a replay runs or how tables are laid out. What stands in a column is
chosen on the validation split; the test split is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.options import Options
from sim.results import contenders, figures, table_text
from sim.results.contenders import Evolved
from sim.results.means import mean_gap
from sim.results.places import LRU_RUNNER, OPTIMUM_RUNNER, Ends, GapIntervals, Measured, Place, measure, places_of
from sim.results.replays import SERIAL, Runner, Workers
from sim.results.report import Report
from workloads.panel import Panel, load_panel

CLASSIC = "best classic"
PREFILL_TOKENS_PER_S = Options().prefill_tokens_per_s


@dataclass(frozen=True)
class Columns:
    """The columns of the table, by title, the pool hindsight chooses from, and the policies under discussion."""

    chosen: dict[str, Runner]
    pool: Sequence[Runner]
    policies: Sequence[Evolved]

    @property
    def classic(self) -> tuple[str, Runner]:
        """The title and the runner of the best classic."""
        return next((title, runner) for title, runner in self.chosen.items() if title.startswith(CLASSIC))


@dataclass(frozen=True, eq=False)
class Found:
    """All that the tables show.

    Attributes:
        columns: Who.
        measured: Serial replays of columns and pool.
        served: Replays of the columns in overlap mode, None if they were not asked for.
    """

    columns: Columns
    measured: Measured
    served: Measured | None
    _ends: dict[tuple[Runner, Runner | None, tuple[Place, ...]], Ends] = field(default_factory=dict)
    _intervals: list[GapIntervals] = field(default_factory=list)

    def ends(self, runner: Runner, places: Sequence[Place], other: Runner | None = None) -> Ends:
        """Return the interval of a runner's mean gap closed, or of its lead on another."""
        key = runner, other, tuple(places)
        if key not in self._ends:
            if not self._intervals:
                self._intervals.append(GapIntervals(self.measured))
            drawn = self._intervals[0]
            self._ends[key] = drawn.difference(runner, other, places) if other else drawn.of(runner, places)
        return self._ends[key]

    def mean(self, runner: Runner, places: Sequence[Place]) -> float:
        """Return the mean gap closed over places."""
        return mean_gap([self.measured.cell(runner, place) for place in places])

    def best_of(self, runners: Sequence[Runner], place: Place) -> Runner:
        """Return who hits most at a place."""
        return max(runners, key=lambda runner: self.measured.hit_tokens(runner, place))

    def scored(self) -> dict[str, list[Place]]:
        """Return the places that count, by trace."""
        found: dict[str, list[Place]] = {}
        for place in self.measured.places:
            if self.measured.cell(OPTIMUM_RUNNER, place).counts:
                found.setdefault(place.trace, []).append(place)
        return found

    def rivals(self) -> list[Runner]:
        """Return everyone but the policies under discussion."""
        mine = {each.runner for each in self.columns.policies}
        everyone = dict.fromkeys((*self.columns.chosen.values(), *self.columns.pool))
        return [runner for runner in everyone if runner not in mine]


def report(
    which: str, split: str, policies: Sequence[Evolved], workers: Workers = SERIAL, latency: bool = True
) -> Report:
    """Measure the table of a split.

    Args:
        which: The panel, see `workloads.panel.load_panel`.
        split: "test", or "validation" for a rehearsal.
        policies: The evolved ones.
        workers: Where replays run.
        latency: Whether to replay the columns once more in overlap mode, for TTFT.
    """
    columns = _columns(which, policies, workers)
    panel = load_panel(split, which, purpose="report")
    runners = [*columns.pool, *columns.chosen.values()]
    measured = measure(panel.traces, places_of(panel), runners, workers, f"table, {split}, replays")
    served = None
    if latency:
        shown = list(columns.chosen.values())
        served = measure(panel.traces, measured.places, shown, workers, f"TTFT, {split}, replays", "overlap")
    found = Found(columns, measured, served)
    data = _data(panel, found)
    return Report(
        "table",
        f"Who hits what: {panel.name}, {split} split",
        table_text.READING,
        table_text.METHOD.format(classics=len(columns.pool)),
        table_text.tables(found),
        data,
        {"table": lambda path: figures.gaps(data, path)},
    )


def _columns(which: str, policies: Sequence[Evolved], workers: Workers) -> Columns:
    panel = load_panel("validation", which)
    pools = {"SGLang best": contenders.sglang(), CLASSIC: contenders.classics()}
    every = [runner for pool in pools.values() for runner in pool]
    measured = measure(panel.traces, places_of(panel), every, workers, "choosing on validation, replays")
    chosen = {"vLLM (LRU)": LRU_RUNNER}
    for title, pool in pools.items():
        best = max(pool, key=measured.score)
        chosen[f"{title}: {best.name}"] = best
    chosen["peer"] = contenders.peer()
    chosen |= {each.name: each.runner for each in policies}
    return Columns(chosen, pools[CLASSIC], policies)


def _data(panel: Panel, found: Found) -> dict[str, Any]:
    chosen, scored = found.columns.chosen, found.scored()
    means = {
        trace: {
            title: {"gap_closed": found.mean(runner, places), "interval": list(found.ends(runner, places))}
            for title, runner in chosen.items()
        }
        for trace, places in scored.items()
    }
    return {
        "panel": panel.name,
        "split": panel.split,
        "fingerprint": panel.fingerprint,
        "engines": {title: runner.engine for title, runner in chosen.items()},
        "cells": [_cell(found, place) for place in found.measured.places],
        "mean_gap_closed": means,
        "score_without_size_charge": {title: found.measured.score(runner) for title, runner in chosen.items()},
    }


def _cell(found: Found, place: Place) -> Mapping[str, Any]:
    measured, chosen = found.measured, found.columns.chosen
    best = found.best_of(found.columns.pool, place)
    rows: dict[str, Any] = {}
    for title, runner in {**chosen, "hindsight classic": best, "optimum": OPTIMUM_RUNNER}.items():
        cell = measured.cell(runner, place)
        rows[title] = {"hit_tokens": cell.hit_tokens, "gap_closed": cell.gap_closed}
        rows[title]["interval"] = list(found.ends(runner, [place])) if cell.counts else None
        rows[title]["prefill_mean_s"] = measured.prefill_mean_s(runner, place, PREFILL_TOKENS_PER_S)
        if found.served and title in chosen:
            rows[title] |= found.served.latency(runner, place)
    cell = measured.cell(OPTIMUM_RUNNER, place)
    return {
        "trace": place.trace,
        "capacity": place.label,
        "capacity_blocks": place.capacity_blocks,
        "prompt_tokens": cell.prompt_tokens,
        "scored": cell.counts,
        "hindsight": best.name,
        "columns": rows,
    }
