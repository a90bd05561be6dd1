"""Block-size transfer: policies on the same traffic in larger blocks, the cache as large in tokens.

Knows splits and block sizes. Must not know how a replay runs or a report is written. Blocks are merged, never split:
that would invent reuse (`workloads.cutting.coarsened`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.results import figures
from sim.results.contenders import Evolved
from sim.results.places import Place, measure, places_of
from sim.results.replays import SERIAL, Workers
from sim.results.report import Report, Table, gap
from workloads.cutting import coarsened
from workloads.panel import load_panel
from workloads.trace import Trace

LARGEST = 2048
TEXT = (
    "Mean gap closed by block size: blocks of each trace of the {split} split are merged up to {largest} tokens, "
    "capacities stay the same in tokens (at least the longest prompt). The optimum and LRU are those of each size. "
    "Where no capacity leaves a gap of a point nothing is shown. Policies are not tuned again."
)


def report(which: str, split: str, policies: Sequence[Evolved], workers: Workers = SERIAL) -> Report:
    """Measure policies at block sizes from each trace's own up."""
    panel = load_panel(split, which, purpose="report")
    traces: dict[str, Trace] = {}
    places = []
    for place in places_of(panel):
        own = panel.traces[place.trace]
        for size in sizes(own):
            name = f"{place.trace} in blocks of {size}"
            trace = traces.setdefault(name, coarsened(own, size))
            places.append(_placed(place, name, trace, size // own.block_tokens))
    runners = [each.runner for each in policies]
    measured = measure(traces, places, runners, workers, "block sizes, replays")
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, trace in traces.items():
        for each in policies:
            cells = [measured.cell(each.runner, place) for place in places if place.trace == name]
            gaps = [cell.gap_closed for cell in cells if cell.counts]
            if gaps:
                lines = found.setdefault(name.partition(" in blocks")[0], {})
                lines.setdefault(each.name, []).append((float(trace.block_tokens), sum(gaps) / len(gaps)))
    head = [f"{size}" for size in sorted({int(x) for rows in found.values() for row in rows.values() for x, _ in row})]
    rows = [
        [trace, policy, *(gap(dict(points)[float(c)]) if float(c) in dict(points) else "" for c in head)]
        for trace, lines in found.items()
        for policy, points in lines.items()
    ]
    facts = {"panel": panel.name, "split": split, "fingerprint": panel.fingerprint, "mean_gap_closed": found}
    text, table = TEXT.format(split=split, largest=LARGEST), Table("Mean gap closed", ["trace", "policy", *head], rows)
    drawing = {"blocks": lambda path: figures.curves(found, "tokens per block", "gap closed", path)}
    return Report("blocks", "Transfer between block sizes", text, [table], facts, drawing)


def sizes(trace: Trace) -> list[int]:
    """Return a trace's block size doubled up to `LARGEST` tokens, its own first."""
    found = [trace.block_tokens]
    while found[-1] * 2 <= LARGEST:
        found.append(found[-1] * 2)
    return found


def _placed(place: Place, name: str, trace: Trace, factor: int) -> Place:
    longest = int(trace.occupied_blocks.max(initial=1))
    return replace(place, trace=name, capacity_blocks=max(place.capacity_blocks // factor, longest, 1))
