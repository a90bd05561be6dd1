"""Block-size transfer: policies on the same traffic in larger blocks, the cache as large in tokens.

Knows splits and block sizes. Must not know how a replay runs or a report is written. Blocks are merged, never split:
that would invent reuse (`workloads.cutting.coarsened`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.results import figures
from sim.results.contenders import Evolved
from sim.results.means import gap_means
from sim.results.places import Place, measure, places_of
from sim.results.replays import SERIAL, Workers
from sim.results.report import Report, Table, gap
from workloads.cutting import coarsened
from workloads.panel import load_panel
from workloads.trace import Trace

LARGEST = 2048
READING = "A level line: the policy does not depend on the block size; LRU and the optimum are those of each size."
TEXT = (
    "Mean gap closed: blocks of each trace of the {split} split are merged up to {largest} tokens, capacities stay "
    "the same in tokens (at least the longest prompt), policies are not tuned again. Blocks are never split, that "
    "would invent reuse. Only capacities that leave a gap of a point count, so the largest sizes rest on few."
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
            means = gap_means(cells)
            if means:
                lines = found.setdefault(name.partition(" in blocks")[0], {})
                lines.setdefault(each.name, []).append((float(trace.block_tokens), means["mean"]))
    ticks = sorted({x for lines in found.values() for points in lines.values() for x, _ in points})
    head = [f"{x:g}" for x in ticks]
    rows = [
        [trace, policy, *(gap(dict(points)[float(c)]) if float(c) in dict(points) else "" for c in head)]
        for trace, lines in found.items()
        for policy, points in lines.items()
    ]
    facts = {"panel": panel.name, "split": split, "fingerprint": panel.fingerprint, "mean_gap_closed": found}
    text, table = TEXT.format(split=split, largest=LARGEST), Table("Mean gap closed", ["trace", "policy", *head], rows)
    drawing = {"blocks": lambda path: figures.curves(found, "tokens per block", figures.SHARE, path, ticks)}
    return Report("blocks", "Transfer between block sizes", READING, text, [table], facts, drawing)


def sizes(trace: Trace) -> list[int]:
    """Return a trace's block size doubled up to `LARGEST` tokens, its own first."""
    found = [trace.block_tokens]
    while found[-1] * 2 <= LARGEST:
        found.append(found[-1] * 2)
    return found


def _placed(place: Place, name: str, trace: Trace, factor: int) -> Place:
    longest = int(trace.occupied_blocks.max(initial=1))
    return replace(place, trace=name, capacity_blocks=max(place.capacity_blocks // factor, longest, 1))
