"""The headline: who hits what on the held-out split, per trace and capacity, with intervals.

Knows pools, splits and columns. Must not know how a replay runs or a report is written. What stands in a column is
chosen on the validation split; the test split is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim.options import Options
from sim.results import contenders, figures
from sim.results.contenders import Evolved
from sim.results.places import LRU_RUNNER, OPTIMUM_RUNNER, GapIntervals, Measured, Place, measure, places_of
from sim.results.replays import SERIAL, Runner, Workers
from sim.results.report import Report, Table, percent, ranged
from workloads.panel import Panel, load_panel

TEXT = (
    "Hit tokens in % of prompt tokens. LRU is vLLM's own; vLLM runs nothing else. SGLang best: the one of SGLang's "
    "own policies, under SGLang's accounting (radix tree, whole segments leave), with the highest score on the "
    "validation split. Best classic: the one of all {classics} classics under vLLM's accounting with the highest "
    "score on the validation split; hindsight: the best classic of the cell itself, chosen on this very split, an "
    "upper bound no one can pick beforehand. Peer: the production policy of prefix-cache-evolve in our contract. "
    "Gap closed: 0 is LRU, 1 the offline optimum; 95% intervals by a paired bootstrap, the wider of sessions and of"
    " time windows drawn. Rows marked ~ are reported, not scored: LRU is within a point of the optimum."
)


@dataclass(frozen=True)
class Columns:
    """The columns of the table, by title, and the pool hindsight chooses from."""

    chosen: dict[str, Runner]
    pool: Sequence[Runner]


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
    ends = GapIntervals(measured)
    tables = [_hits(measured, columns), _gaps(measured, columns, ends), _beaten(measured, columns, policies)]
    tables.append(_ttft(measured, served, columns))
    data = _data(panel, measured, served, columns, ends)
    name = "table" if split == "test" else f"table_{split}"
    text = TEXT.format(classics=len(columns.pool))
    drawing = {name: lambda path: figures.gaps(data, path)}
    return Report(name, f"Who hits what: {panel.name}, {split} split", text, tables, data, drawing)


def _columns(which: str, policies: Sequence[Evolved], workers: Workers) -> Columns:
    panel = load_panel("validation", which)
    pools = {"SGLang best": contenders.sglang(), "best classic": contenders.classics()}
    every = [runner for pool in pools.values() for runner in pool]
    measured = measure(panel.traces, places_of(panel), every, workers, "choosing on validation, replays")
    chosen = {"vLLM (LRU)": LRU_RUNNER}
    for title, pool in pools.items():
        best = max(pool, key=measured.score)
        chosen[f"{title}: {best.name}"] = best
    chosen["peer"] = contenders.peer()
    chosen |= {each.name: each.runner for each in policies}
    return Columns(chosen, pools["best classic"])


def _hindsight(measured: Measured, columns: Columns, place: Place) -> Runner:
    return max(columns.pool, key=lambda runner: measured.hit_tokens(runner, place))


def _names(place: Place, counts: bool) -> list[str]:
    return [place.trace, f"{place.label}{'' if counts else ' ~'}"]


def _hits(measured: Measured, columns: Columns) -> Table:
    rows = []
    for place in measured.places:
        cells = {title: measured.cell(runner, place) for title, runner in columns.chosen.items()}
        best = measured.cell(_hindsight(measured, columns, place), place)
        optimum = measured.cell(OPTIMUM_RUNNER, place)
        shown = [*cells.values(), best, optimum]
        numbers = [percent(cell.hit_tokens / max(cell.prompt_tokens, 1)) for cell in shown]
        rows.append(_names(place, optimum.counts) + numbers)
    head = ["trace", "capacity", *columns.chosen, "hindsight classic", "optimum"]
    return Table("Hit tokens, % of prompt tokens", head, rows)


def _gaps(measured: Measured, columns: Columns, ends: GapIntervals) -> Table:
    shown = {title: runner for title, runner in columns.chosen.items() if runner != LRU_RUNNER}
    rows = []
    for place in measured.places:
        cells = {title: measured.cell(runner, place) for title, runner in shown.items()}
        numbers = [ranged(cells[title].gap_closed, ends.of(runner, [place])) for title, runner in shown.items()]
        rows.append(_names(place, next(iter(cells.values())).counts) + numbers)
    for trace, places in _scored(measured).items():
        means = {title: _mean(measured, runner, places) for title, runner in shown.items()}
        rows.append([f"**{trace}**", "mean", *(ranged(means[t], ends.of(r, places)) for t, r in shown.items())])
    return Table("Gap closed between LRU and the optimum [95% interval]", ["trace", "capacity", *shown], rows)


def _beaten(measured: Measured, columns: Columns, policies: Sequence[Evolved]) -> Table:
    everyone = dict.fromkeys((*columns.chosen.values(), *columns.pool))
    rivals = [runner for runner in everyone if not _is_one_of(runner, policies)]
    rows = []
    for each in policies:
        lost = []
        for place in measured.places:
            best = max(rivals, key=lambda runner: measured.hit_tokens(runner, place))
            mine, theirs = measured.cell(each.runner, place), measured.cell(best, place)
            if mine.hit_tokens < theirs.hit_tokens:
                behind = (theirs.hit_tokens - mine.hit_tokens) / max(mine.prompt_tokens, 1)
                lost.append(f"{place.trace} {place.label}: {best.name} by {percent(behind)}")
        below = [p for p in measured.places if measured.cell(each.runner, p).lost > 0]
        under = ", ".join(f"{p.trace} {p.label}" for p in below)
        rows.append([each.name, f"{len(measured.places) - len(lost)} of {len(measured.places)}",
                     "; ".join(lost) or "none", under or "none"])  # fmt: skip
    head = ["policy", "cells won against every rival", "lost to, points of prompt tokens", "below LRU in"]
    return Table("Against every rival of the cell, chosen in hindsight", head, rows)


def _ttft(measured: Measured, served: Measured | None, columns: Columns) -> Table:
    rate = Options().prefill_tokens_per_s
    rows = []
    for place in measured.places:
        numbers = []
        for runner in (*columns.chosen.values(), OPTIMUM_RUNNER):
            text = f"{measured.prefill_mean_s(runner, place, rate):.2f}"
            found = served.latency(runner, place) if served else {}
            numbers.append(text + (f" / {found['ttft_mean_s']:.2f} / {found['ttft_p95_s']:.2f}" if found else ""))
        rows.append([place.trace, place.label, *numbers])
    note = (
        f"Mean prefill of what was not hit at {rate:,.0f} tokens/s / mean TTFT / 95th percentile of TTFT, the last two "
        "in overlap mode, where requests run at the same time, hold their blocks and may have to wait for "
        "room: a cache far too small for the load is a queue."
    )
    return Table("TTFT estimate, s", ["trace", "capacity", *columns.chosen, "optimum"], rows, note)


def _data(
    panel: Panel, measured: Measured, served: Measured | None, columns: Columns, ends: GapIntervals
) -> dict[str, Any]:
    cells = []
    for place in measured.places:
        best = _hindsight(measured, columns, place)
        rows = {**columns.chosen, f"hindsight classic: {best.name}": best, "optimum": OPTIMUM_RUNNER}
        found: dict[str, Any] = {}
        for title, runner in rows.items():
            cell = measured.cell(runner, place)
            found[title] = {"hit_tokens": cell.hit_tokens, "gap_closed": cell.gap_closed}
            found[title]["interval"] = list(ends.of(runner, [place])) if cell.counts else None
            found[title]["prefill_mean_s"] = measured.prefill_mean_s(runner, place, Options().prefill_tokens_per_s)
            if served and runner in columns.chosen.values():
                found[title] |= served.latency(runner, place)
        cell = measured.cell(OPTIMUM_RUNNER, place)
        cells.append(
            {"trace": place.trace, "capacity": place.label, "capacity_blocks": place.capacity_blocks,
             "prompt_tokens": cell.prompt_tokens, "scored": cell.counts, "columns": found}
        )  # fmt: skip
    means = {
        trace: {title: _mean(measured, runner, places) for title, runner in columns.chosen.items()}
        for trace, places in _scored(measured).items()
    }
    scores = {title: measured.score(runner) for title, runner in columns.chosen.items()}
    engines = {title: runner.engine for title, runner in columns.chosen.items()}
    facts = {"panel": panel.name, "split": panel.split, "fingerprint": panel.fingerprint, "engines": engines}
    return {**facts, "cells": cells, "mean_gap_closed": means, "score_without_size_charge": scores}


def _scored(measured: Measured) -> dict[str, list[Place]]:
    """Return the places that count, by trace."""
    found: dict[str, list[Place]] = {}
    for place in measured.places:
        if measured.cell(OPTIMUM_RUNNER, place).counts:
            found.setdefault(place.trace, []).append(place)
    return found


def _mean(measured: Measured, runner: Runner, places: Sequence[Place]) -> float:
    return sum(measured.cell(runner, place).gap_closed for place in places) / len(places)


def _is_one_of(runner: Runner, policies: Sequence[Evolved]) -> bool:
    return any(runner == each.runner for each in policies)
