"""Whether a score beats another beyond chance: a paired cluster bootstrap of the panel's own score.

Within each trace whole clusters of requests are drawn with replacement (`sim.resampling`), the same ones for every
policy and every capacity of that trace; a policy's hit tokens in a cell are then LRU's plus the drawn clusters'
difference to LRU, scaled to the trace's prompt tokens, and `sim.score` scores them.

The traces themselves are not drawn, a panel has too few: an interval holds for other sessions of the same traces.
How much hangs on one trace is told by leaving each out (`without_a_trace`).

Knows hits per request and the score. Must not know policies or what a difference is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim import resampling
from sim.marks import LRU, Marks
from sim.promotion.replays import Hits
from sim.score import Cell, score
from workloads.trace import Trace


@dataclass(frozen=True)
class Entry:
    """A policy: its hits per request in every cell of the panel, and its size."""

    hits: Sequence[Hits]
    nodes: int


@dataclass(frozen=True)
class Interval:
    """The score of a policy minus another's: as measured, and the ends of the bootstrap's percentile interval."""

    measured: float
    low: float
    high: float


def intervals(
    marks: Marks,
    candidate: Entry,
    others: Mapping[str, Entry],
    clustering: str,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Interval]:
    """Return by name how the candidate's score differs from each other's.

    Args:
        marks: Of the panel, with the hit tokens of LRU and the optimum.
        candidate: The policy in question.
        others: What it is compared with; the engine's LRU is among them.
        clustering: One of `sim.resampling.CLUSTERINGS`.
        tell: Called as tell(policies scored, all).
    """
    entries = {"": candidate, **others}
    drawn = _drawn(marks, entries, resampling.CLUSTERINGS[clustering])
    scores = {}
    for done, (name, entry) in enumerate(entries.items(), 1):
        scores[name] = _scores(marks, drawn[name], entry.nodes)
        if tell:
            tell(done, len(entries))
    found = {}
    for name, entry in others.items():
        measured = combined(marks, candidate) - combined(marks, entry)
        found[name] = Interval(measured, *resampling.interval(scores[""] - scores[name]))
    return found


def combined(marks: Marks, entry: Entry, without: str | None = None) -> float:
    """Return the score of a policy on the panel, or on the panel without one of its traces."""
    cells = marks.cells(tokens(marks, entry.hits))
    return score([cell for cell in cells if cell.trace != without], entry.nodes).combined


def without_a_trace(marks: Marks, candidate: Entry, other: Entry) -> dict[str, float]:
    """Return the difference of the scores with each trace left out, where what remains can be scored."""
    found = {}
    counting = {cell.trace for cell in marks.cells(tokens(marks, candidate.hits)) if cell.counts}
    for name in marks.panel.traces:
        if counting - {name}:
            found[name] = combined(marks, candidate, name) - combined(marks, other, name)
    return found


def tokens(marks: Marks, hits: Sequence[Hits]) -> list[int]:
    """Return hit tokens per cell, of the requests that count."""
    panel = marks.panel
    return [
        int(_counted(found, cell.first_counted).sum()) * panel.traces[cell.trace_name].block_tokens
        for cell, found in zip(panel.cells, hits, strict=True)
    ]


def _counted(hits: Hits, first: int) -> npt.NDArray[np.int64]:
    return np.maximum(hits[first:], 0).astype(np.int64)


def _drawn(
    marks: Marks, entries: Mapping[str, Entry], clusters_of: Callable[[Trace], npt.NDArray[np.int64]]
) -> dict[str, list[npt.NDArray[np.float64]]]:
    """Return, by policy and cell, the difference to LRU in tokens in every drawn sample."""
    panel, found = marks.panel, {name: [np.zeros(0)] * len(marks.panel.cells) for name in entries}
    lru = next(entry for name, entry in entries.items() if name == LRU)
    generator = np.random.default_rng(resampling.SEED)
    for trace_name, trace in panel.traces.items():
        own = [i for i, cell in enumerate(panel.cells) if cell.trace_name == trace_name]
        first = panel.cells[own[0]].first_counted
        draws = resampling.draw(clusters_of(trace)[first:], generator, resampling.SAMPLES)
        prompt = trace.input_tokens[first:]
        scale = prompt.sum(dtype=np.int64) / np.maximum(draws.sums(prompt), 1.0)
        for i in own:
            base = _counted(lru.hits[i], first)
            for name, entry in entries.items():
                difference = (_counted(entry.hits[i], first) - base) * trace.block_tokens
                found[name][i] = draws.sums(difference) * scale
    return found


def _scores(marks: Marks, drawn: Sequence[npt.NDArray[np.float64]], nodes: int) -> npt.NDArray[np.float64]:
    cells = marks.cells([mark.lru for mark in marks.marks])
    facts = [
        (c.trace, c.fraction, c.capacity_blocks, c.prompt_tokens, c.lru_hit_tokens, c.optimum_hit_tokens) for c in cells
    ]
    weights = [c.weight for c in cells]
    moved = np.rint(np.array(drawn).T).astype(np.int64).tolist()
    return np.array(
        [
            score(
                [Cell(*f, f[4] + more, weight) for f, more, weight in zip(facts, row, weights, strict=True)], nodes
            ).combined
            for row in moved
        ]
    )
