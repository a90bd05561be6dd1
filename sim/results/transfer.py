"""What carries over: policies tuned on one training trace, or at one cache size, scored everywhere.

Knows groups of training places and of places to score. Must not know how a replay runs or a report is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sim.policy.program import Policy
from sim.results import figures
from sim.results.contenders import Evolved
from sim.results.means import gap_means
from sim.results.places import Measured, Place, measure, places_of
from sim.results.replays import SERIAL, Runner, Workers
from sim.results.report import Report, Table, gap
from sim.results.retuning import retuned
from workloads import progress
from workloads.panel import Panel, load_panel
from workloads.trace import Trace

TRACES_READING = (
    "Down a column: what tuning on one kind of traffic does to a trace; a good policy loses little anywhere."
)
CAPACITIES_READING = "Down a column: what tuning at one cache size does at another; 0 is LRU, 1 the optimum."
TRACES_TEXT = (
    "Rows: the policy as it is, and with its literals tuned ({passes} CMA-ES passes) on one training trace alone, "
    "the one after @. Columns: every trace of the splits {splits}; only train is tuned on."
)
CAPACITIES_TEXT = (
    "Rows: the policy as it is, and with its literals tuned ({passes} CMA-ES passes) on all training traces at one "
    "cache size alone, the one after @. Columns: mean over the traces of the validation split at every size. The "
    "curves: policies as they are, at sizes the panel does not have too, where there is a gap of a point."
)
TICKS = (0.5, 1, 2, 5, 10, 20, 50)
LADDER = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)


def traces(which: str, split: str, policies: Sequence[Evolved], passes: int, workers: Workers = SERIAL) -> Report:
    """Return the transfer matrix between traces; `split` is scored beside train and validation."""
    panels = [load_panel(each, which, purpose="report") for each in dict.fromkeys(("train", "validation", split))]
    groups = _groups(places_of(panels[0]), "trace")
    tuned = _tuned(policies, panels[0], groups, passes)
    rows: dict[str, dict[str, float]] = {name: {} for name in tuned}
    for panel in panels:
        measured = _measure(panel, tuned, workers)
        for name, runner in tuned.items():
            found = gap_means(measured.cells(runner))
            rows[name] |= {f"{panel.split}: {trace}": value for trace, value in found.items() if trace != "mean"}
    text = TRACES_TEXT.format(passes=passes, splits=", ".join(panel.split for panel in panels))
    facts = {"fingerprints": {panel.split: panel.fingerprint for panel in panels}}
    return _report("transfer", "Transfer between traces", TRACES_READING, text, rows, tuned, facts | {"passes": passes})


def capacities(which: str, policies: Sequence[Evolved], passes: int, workers: Workers = SERIAL) -> Report:
    """Return the transfer matrix between cache sizes, and curves over sizes in between."""
    train, validation = (load_panel(split, which) for split in ("train", "validation"))
    tuned = _tuned(policies, train, _groups(places_of(train), "label"), passes)
    measured = _measure(validation, tuned, workers)
    rows: dict[str, dict[str, float]] = {}
    for name, runner in tuned.items():
        cells = {label: [measured.cell(runner, place) for place in places]
                 for label, places in _groups(measured.places, "label").items()}  # fmt: skip
        means = {label: gap_means(found) for label, found in cells.items()}
        rows[name] = {label: found["mean"] for label, found in means.items() if found}
    lines = _curves(validation, policies, workers)
    facts = {"panel": validation.name, "fingerprint": validation.fingerprint, "passes": passes, "curves": lines}
    text = CAPACITIES_TEXT.format(passes=passes)
    report = _report("capacity", "Transfer between cache sizes", CAPACITIES_READING, text, rows, tuned, facts)
    across = "cache, % of distinct blocks"
    drawn = {"capacity_curves": lambda path: figures.curves(lines, across, figures.SHARE, path, TICKS)}
    return replace(report, figures={**report.figures, **drawn})


def _groups(places: Sequence[Place], by: str) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(getattr(place, by), []).append(place)
    return found


def _tuned(
    policies: Sequence[Evolved], train: Panel, groups: Mapping[str, Sequence[Place]], passes: int
) -> dict[str, Runner]:
    """Return runners by name: each policy as it is, then tuned on each group."""
    found = {each.name: each.runner for each in policies}
    jobs = [(each, group) for each in policies for group in groups] if passes else []
    for done, (each, group) in enumerate(jobs):
        progress.tell("tuning for transfer, policies", done, len(jobs))
        policy, name = Policy.from_source(each.source, each.name), f"{each.name} @ {group}"
        found[name] = Runner(name, retuned(policy, train.traces, groups[group], passes, name).source)
    return found


def _measure(panel: Panel, tuned: Mapping[str, Runner], workers: Workers) -> Measured:
    what = f"transfer, {panel.split}, replays"
    return measure(panel.traces, places_of(panel), list(tuned.values()), workers, what)


def _curves(
    panel: Panel, policies: Sequence[Evolved], workers: Workers
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return points (% of distinct blocks, gap closed) by trace and policy, where there is a gap."""
    places = [place for name, trace in panel.traces.items() for place in ladder(name, trace, LADDER)]
    measured = measure(panel.traces, places, [each.runner for each in policies], workers, "cache sizes, replays")
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for place in places:
        for each in policies:
            cell = measured.cell(each.runner, place)
            if cell.counts:
                points = found.setdefault(place.trace, {}).setdefault(each.name, [])
                points.append((100.0 * place.fraction, cell.gap_closed))
    return found


def ladder(name: str, trace: Trace, shares: Sequence[float]) -> list[Place]:
    """Return places at shares of a trace's distinct blocks, those too small for its longest prompt left out."""
    longest = int(trace.occupied_blocks.max(initial=0))
    sizes = {share: int(share * trace.n_blocks) for share in shares}
    return [Place(name, f"{100 * s:g}%", s, blocks) for s, blocks in sizes.items() if blocks >= max(longest, 1)]


def _report(
    name: str,
    title: str,
    reading: str,
    text: str,
    rows: Mapping[str, Mapping[str, float]],
    tuned: Mapping[str, Runner],
    facts: Mapping[str, Any],
) -> Report:
    head = list(dict.fromkeys(column for row in rows.values() for column in row))
    shown = [[row, *(gap(found[c]) if c in found else "" for c in head)] for row, found in rows.items()]
    values = [[found.get(c, math.nan) for c in head] for found in rows.values()]
    data = {**facts, "mean_gap_closed": rows, "sources": {key: runner.source for key, runner in tuned.items()}}
    drawing = {name: lambda path: figures.matrix(list(rows), head, values, path)}
    return Report(name, title, reading, text, [Table("Mean gap closed", ["policy", *head], shown)], data, drawing)
