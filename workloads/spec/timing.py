"""When the requests of a workload arrive.

Knows arrival processes, phases, and the one rule by which the sources' own times become those of the workload. Must
not know what is in the requests.

The rule. A clock common to all sources counts requests: at ``x`` of it, ``x`` requests of the workload should have
come. A source's own clock is mapped onto it phase by phase, linearly, so that its share of a phase's requests fills the
phase. The process then maps the common clock to seconds by a monotone function (the inverse of its cumulative rate),
and poisson, gamma, weibull or ``burstiness`` first draw the distances on the common clock anew. So the sources keep
their bursts and their order, and last equally long.

What is mapped is the start of each session (``moves: sessions``): the gaps within it then stay as generated, to the
0.1 ms of the result, and the last sessions run on past the end. Or it is every request (``moves: requests``): a
phase holds exactly its requests, in each source the order stays, and gaps within sessions stretch with the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workloads.columns import F64, I64
from workloads.spec.schema import AsGenerated, Bursts, Diurnal, Fields, Poisson, Renewal, Table
from workloads.synthetic.draws import stream, weibull_shape
from workloads.trace import Trace

DECIMALS = 4  # of arrival times in seconds, as families round them
_STEPS_PER_PERIOD = 288


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split a number by weights: largest remainders, ties to the first; sums to ``total`` exactly."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda index: counts[index] - exact[index])
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts


@dataclass(frozen=True)
class Plan:
    """How many requests come when.

    Attributes:
        counts: int64[phases, sources] requests.
        rates: float64[phases] factor of the rate.
    """

    counts: I64
    rates: F64

    @property
    def per_source(self) -> list[int]:
        """Requests of each source."""
        return [int(count) for count in self.counts.sum(axis=0)]

    @property
    def starts(self) -> I64:
        """int64[phases + 1] where phases start and end on the common clock."""
        return np.concatenate(([0], np.cumsum(self.counts.sum(axis=1))))


def plan(fields: Fields) -> Plan:
    """Return how many requests of each source each phase has."""
    own = [source.weight for source in fields.sources]
    if not fields.phases:
        return Plan(np.array([apportion(fields.requests, own)]), np.ones(1))
    sizes = apportion(fields.requests, [phase.share for phase in fields.phases])
    weights = [own if phase.weights is None else phase.weights for phase in fields.phases]
    counts = [apportion(size, row) for size, row in zip(sizes, weights, strict=True)]
    return Plan(np.array(counts), np.array([phase.rate for phase in fields.phases]))


def as_they_are(fields: Fields) -> bool:
    """Return whether the one source keeps its own times."""
    simple = isinstance(fields.arrivals, AsGenerated) and fields.arrivals.requests_per_s is None
    return simple and len(fields.sources) == 1 and not fields.phases


def arrivals(traces: Sequence[Trace], planned: Plan, fields: Fields) -> list[F64]:
    """Lay the requests of all sources on one clock.

    Args:
        traces: One per source that has requests, each with as many as planned.
        planned: Of those sources.
        fields: The specification.

    Returns:
        float64[n] per source, seconds; not sorted: sessions may overtake one another.
    """
    warp = _warp(traces, planned, fields)
    process = fields.arrivals
    firsts = [_firsts(trace) if process.moves == "sessions" else np.arange(trace.n_requests) for trace in traces]
    moved = [np.flatnonzero(first == np.arange(len(first))) for first in firsts]
    placed = [
        _clock(trace.arrival_s, planned, number)[at]
        for number, (trace, at) in enumerate(zip(traces, moved, strict=True))
    ]
    burstiness, gaps = _spacing(fields)
    if burstiness is not None:
        placed = _respaced(placed, planned, burstiness, gaps, stream("workload arrivals", fields.seed))
    found = []
    for trace, first, at, x in zip(traces, firsts, moved, placed, strict=True):
        seconds = np.empty(trace.n_requests)
        seconds[at] = warp(_phased(x, planned))
        found.append(np.round(seconds[first] + (trace.arrival_s - trace.arrival_s[first]), DECIMALS))
    return found


def _firsts(trace: Trace) -> I64:
    """Return, for each request, the first request of its session; its own index where the session is unknown."""
    rows = np.arange(trace.n_requests, dtype=np.int64)
    if trace.session is None:
        return rows
    _, index, group = np.unique(trace.session, return_index=True, return_inverse=True)
    return np.where(trace.session < 0, rows, index[group])


def _clock(own_s: F64, planned: Plan, source: int) -> F64:
    """Map a source's own clock to the common one: each phase's requests fill the phase."""
    x = np.empty(len(own_s))
    ends = np.cumsum(planned.counts[:, source])
    mean_gap = (own_s[-1] - own_s[0]) / max(len(own_s) - 1, 1)
    start, from_s = 0, min(own_s[0], 0.0)
    for phase, end in enumerate(ends.tolist()):
        if end > start:
            to_s = (own_s[end - 1] + own_s[end]) / 2 if end < len(own_s) else own_s[-1] + mean_gap
            share = (own_s[start:end] - from_s) / (to_s - from_s) if to_s > from_s else np.zeros(end - start)
            low, high = planned.starts[phase], planned.starts[phase + 1]
            x[start:end] = low + share * (high - low)
            from_s = to_s
        start = end
    return x


def _spacing(fields: Fields) -> tuple[float | None, str]:
    process = fields.arrivals
    if isinstance(process, Poisson):
        return 1.0, "gamma"
    if isinstance(process, Renewal):
        return process.burstiness, process.process
    return (None, "") if isinstance(process, AsGenerated) else (process.burstiness, process.gaps)


def _respaced(
    placed: Sequence[F64], planned: Plan, burstiness: float, gaps: str, rng: np.random.Generator
) -> list[F64]:
    """Draw positions anew: a renewal process in each phase, order kept, the mean rate of the phase exact."""
    every = np.concatenate(placed)
    order = np.argsort(every, kind="stable")
    bounds = np.searchsorted(every[order], planned.starts[1:-1], side="left").tolist()
    for phase, (start, stop) in enumerate(zip([0, *bounds], [*bounds, len(every)], strict=True)):
        drawn = np.cumsum(_gaps(stop - start + 1, burstiness, gaps, rng))
        low, high = planned.starts[phase], planned.starts[phase + 1]
        every[order[start:stop]] = low + (high - low) * drawn[:-1] / max(drawn[-1], np.finfo(float).tiny)
    return np.split(every, np.cumsum([len(x) for x in placed])[:-1])


def _gaps(count: int, burstiness: float, kind: str, rng: np.random.Generator) -> F64:
    """Draw gaps of a coefficient of variation, in any unit."""
    drawn: F64
    if kind == "weibull":
        drawn = rng.weibull(weibull_shape(burstiness), count)
    else:
        drawn = rng.gamma(burstiness**-2, size=count)
    return drawn


def _phased(x: F64, planned: Plan) -> F64:
    """Stretch the common clock where phases are slower, and press it together where they are faster."""
    if len(planned.rates) == 1 and planned.rates[0] == 1:
        return x
    stretched = np.concatenate(([0.0], np.cumsum(np.diff(planned.starts) / planned.rates)))
    phase = np.clip(np.searchsorted(planned.starts, x, side="right") - 1, 0, len(planned.rates) - 1)
    return stretched[phase] + (x - planned.starts[phase]) / planned.rates[phase]


class Warp:
    """The inverse of a cumulative rate that starts again at its end: requests that should have come, to seconds."""

    def __init__(self, edges_s: F64, rates: F64) -> None:
        """Take windows.

        Args:
            edges_s: float64[k + 1] ascending from 0.
            rates: float64[k] requests per second, >= 0, not all 0.
        """
        self.edges_s = edges_s
        self.cumulative = np.concatenate(([0.0], np.cumsum(rates * np.diff(edges_s))))

    def __call__(self, x: F64) -> F64:
        """Return the seconds at which ``x`` requests have come; not decreasing in ``x`` >= 0."""
        whole = self.cumulative[-1]
        cycle = np.floor(x / whole)
        within = np.interp(np.clip(x - cycle * whole, 0.0, whole), self.cumulative, self.edges_s)
        seconds: F64 = cycle * self.edges_s[-1] + within
        return seconds


def _warp(traces: Sequence[Trace], planned: Plan, fields: Fields) -> Warp:
    """Return the map from the common clock to seconds that the process asks for."""
    process, total = fields.arrivals, float(planned.starts[-1])
    if isinstance(process, Table):
        return _table_warp(process, total)
    mean = process.requests_per_s or total / sum(map(_natural_s, traces))
    if isinstance(process, Diurnal):
        edges = np.linspace(0.0, process.period_s, _STEPS_PER_PERIOD + 1)
        middle = (edges[1:] + edges[:-1]) / 2
        swing = (1 - process.trough) / (1 + process.trough)
        shape = 1 + swing * np.cos(2 * np.pi * (middle - process.peak_s) / process.period_s)
        return Warp(edges, mean * shape / shape.mean())
    if isinstance(process, Bursts):
        needed_s = float(np.sum(np.diff(planned.starts) / planned.rates)) / mean
        return _burst_warp(process, mean, needed_s, stream("workload bursts", fields.seed))
    return Warp(np.array([0.0, max(total, 1.0) / mean]), np.array([mean]))


def _natural_s(trace: Trace) -> float:
    """Return how long a source takes for its requests by itself."""
    gaps = trace.n_requests - 1
    return trace.span_s * (gaps + 1) / gaps if gaps and trace.span_s > 0 else 1.0


def _table_warp(process: Table, total: float) -> Warp:
    starts, rates = np.array(process.t_s), np.array(process.rate_per_s)
    last = starts[-1] - starts[-2] if len(starts) > 1 else 1.0
    edges = np.append(starts, starts[-1] + last if process.end_s is None else process.end_s) - starts[0]
    covered = float(np.sum(rates * np.diff(edges)))
    if process.once:
        rates = rates * (total / covered)
    elif process.requests_per_s is not None:
        rates = rates * (process.requests_per_s * edges[-1] / covered)
    return Warp(edges, rates)


def _burst_warp(process: Bursts, mean: float, needed_s: float, rng: np.random.Generator) -> Warp:
    """Alternate calm and burst until the requests fit, at least a hundred times."""
    cycle_s = process.every_s + process.lasting_s
    count = int(min(max(100.0, 2 * needed_s / cycle_s), 1e6))
    lengths = rng.exponential((process.every_s, process.lasting_s), (count, 2))
    calm = mean * cycle_s / (process.every_s + process.lasting_s * process.factor)
    return Warp(np.concatenate(([0.0], np.cumsum(lengths.ravel()))), np.tile((calm, calm * process.factor), count))
