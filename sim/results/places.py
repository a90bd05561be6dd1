"""Where a policy is measured, and what it hits there: traces at capacities, under any engine, with intervals.

Knows replays, LRU and the optimum. Must not know which policies are of interest, nor how numbers are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim import resampling
from sim.marks import LRU
from sim.results.means import LOWEST
from sim.results.replays import OPTIMUM, SERIAL, Job, Outcome, Runner, Workers, replays
from sim.score import Cell, score
from workloads.panel import Panel
from workloads.trace import Trace

LRU_RUNNER, OPTIMUM_RUNNER = Runner(LRU), Runner(OPTIMUM)
KINDS = range(len(resampling.CLUSTERINGS))

Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]
"""Of an interval."""


@dataclass(frozen=True)
class Place:
    """One trace at one capacity.

    Attributes:
        trace: Name of the trace.
        label: The capacity as tables show it.
        fraction: Of the trace's distinct blocks.
        capacity_blocks: In blocks.
        first_counted: Requests before this one warm up.
        weight: Of the trace in the mean.
    """

    trace: str
    label: str
    fraction: float
    capacity_blocks: int
    first_counted: int = 0
    weight: float = 1.0


def places_of(panel: Panel) -> list[Place]:
    """Return the cells of a panel."""
    return [
        Place(c.trace_name, c.label, c.fraction, c.capacity_blocks, c.first_counted, panel.weight(c.trace_name))
        for c in panel.cells
    ]


@dataclass(frozen=True, eq=False)
class Measured:
    """What runners hit at places.

    Attributes:
        traces: By name.
        places: In order.
        outcomes: By runner and place; LRU and the optimum are there.
    """

    traces: Mapping[str, Trace]
    places: Sequence[Place]
    outcomes: Mapping[tuple[Runner, Place], Outcome]

    def cell(self, runner: Runner, place: Place) -> Cell:
        """Return tokens of a runner at a place against LRU and the optimum."""
        hit, lru, best = (self.hit_tokens(each, place) for each in (runner, LRU_RUNNER, OPTIMUM_RUNNER))
        prompt = int(self.traces[place.trace].input_tokens[place.first_counted :].sum(dtype=np.int64))
        return Cell(place.trace, place.fraction, place.capacity_blocks, prompt, lru, best, hit, place.weight)

    def cells(self, runner: Runner) -> list[Cell]:
        """Return the cells of a runner, one per place."""
        return [self.cell(runner, place) for place in self.places]

    def score(self, runner: Runner, nodes: int = 0) -> float:
        """Return the panel's score of a runner, see `sim.score`."""
        return score(self.cells(runner), nodes).combined

    def hit_tokens(self, runner: Runner, place: Place) -> int:
        """Return the hit tokens of the requests that count."""
        return int(self.tokens_per_request(runner, place).sum())

    def tokens_per_request(self, runner: Runner, place: Place) -> npt.NDArray[np.int64]:
        """Return int64: hit tokens of each request that counts; 0 where it was not served."""
        hits = self.outcomes[runner, place].hits[place.first_counted :]
        return np.maximum(hits, 0).astype(np.int64) * self.traces[place.trace].block_tokens

    def latency(self, runner: Runner, place: Place) -> Mapping[str, float]:
        """Return what overlap mode gave; empty if it was not asked for."""
        return self.outcomes[runner, place].latency

    def prefill_mean_s(self, runner: Runner, place: Place, prefill_tokens_per_s: float) -> float:
        """Return the mean time to compute what was not hit: TTFT of a server that never queues."""
        cell = self.cell(runner, place)
        requests = self.traces[place.trace].n_requests - place.first_counted
        return (cell.prompt_tokens - cell.hit_tokens) / prefill_tokens_per_s / max(requests, 1)


def measure(
    traces: Mapping[str, Trace],
    places: Sequence[Place],
    runners: Sequence[Runner],
    workers: Workers = SERIAL,
    what: str = "replays",
    mode: str = "serial",
) -> Measured:
    """Replay runners, LRU and the optimum at places.

    Args:
        traces: By name.
        places: Where.
        runners: Who.
        workers: See `sim.results.replays.Workers`.
        what: Name of the work, for whoever listens to progress.
        mode: "overlap" adds latency; the optimum has none and stays serial.
    """
    every = list(dict.fromkeys((LRU_RUNNER, OPTIMUM_RUNNER, *runners)))
    wanted = [(runner, place) for runner in every for place in places]
    jobs = [
        (place.trace, Job(runner, place.capacity_blocks, "serial" if runner == OPTIMUM_RUNNER else mode))
        for runner, place in wanted
    ]
    return Measured(traces, places, dict(zip(wanted, replays(traces, jobs, workers, what), strict=True)))


class GapIntervals:
    """Intervals of the gap closed, each at least -1: the wider of those by each of `sim.resampling.CLUSTERINGS`.

    All places of one trace, and all runners, share the draws of the trace; traces are drawn independently.
    """

    def __init__(self, measured: Measured) -> None:
        """Draw for every trace."""
        self._measured = measured
        self._draws: dict[str, list[resampling.Draws]] = {}
        generator = np.random.default_rng(resampling.SEED)
        firsts = {place.trace: place.first_counted for place in measured.places}
        for name, first in firsts.items():
            labels = [cut(measured.traces[name])[first:] for cut in resampling.CLUSTERINGS.values()]
            self._draws[name] = [resampling.draw(each, generator) for each in labels]

    def of(self, runner: Runner, places: Sequence[Place]) -> Ends:
        """Return the interval of the mean gap closed over places."""
        return _widest(self._means(runner, places, kind) for kind in KINDS)

    def difference(self, runner: Runner, other: Runner, places: Sequence[Place]) -> Ends:
        """Return the interval of the difference of two runners' means: paired, the same draws for both."""
        return _widest(self._means(runner, places, kind) - self._means(other, places, kind) for kind in KINDS)

    def _means(self, runner: Runner, places: Sequence[Place], kind: int) -> Floats:
        tokens: Callable[..., Any] = self._measured.tokens_per_request
        rows = []
        for place in places:
            sums = self._draws[place.trace][kind].sums
            lru = tokens(LRU_RUNNER, place)
            gap = sums(tokens(OPTIMUM_RUNNER, place) - lru)
            with np.errstate(divide="ignore", invalid="ignore"):
                rows.append(np.where(gap > 0, np.maximum(sums(tokens(runner, place) - lru) / gap, LOWEST), np.nan))
        mean: Floats = np.mean(rows, axis=0)
        return mean


def _widest(sampled: Iterable[Floats]) -> Ends:
    return max((resampling.interval(each) for each in sampled), key=lambda ends: ends[1] - ends[0])
