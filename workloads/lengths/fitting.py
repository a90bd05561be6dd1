"""From arrivals and lengths to pieces of a workload specification.

Knows rate tables, gap distributions and quantile tables. Must not know files.
"""

from __future__ import annotations

from math import gamma
from typing import Any

import numpy as np

from workloads.columns import F64, I32
from workloads.errors import TraceError
from workloads.lengths.trace import LengthTrace, RateTrace
from workloads.statistics import ks_distance
from workloads.synthetic.draws import stream, weibull_shape

PROBABILITIES = np.unique(np.round([*np.linspace(0, 0.99, 100), *np.linspace(0.99, 1, 11)], 4))
_MIN_WINDOW_S, _PER_WINDOW, _MAX_WINDOWS = 60.0, 20, 2_000
_SAMPLE = 50_000
_SPREAD = (0.05, 50.0)  # burstiness that a specification may have


def fit_lengths(trace: LengthTrace | RateTrace) -> dict[str, Any]:
    """Fit what is known of a workload without block identity.

    Args:
        trace: Requests with lengths, or rates.

    Returns:
        Plain values: ``arrivals``, the section of that name of a specification (process ``table``, with the burstiness
        of the gaps on a clock of constant rate, and whether Gamma or Weibull gaps are closer); ``measured``, what
        was measured on the way. With lengths also ``lengths``: quantile tables ``input_tokens`` and ``output_tokens``
        (``p`` from 0 to 1, ``tokens``) and their rank ``correlation``, the parameters of the family
        ``measured_lengths``.

    Raises:
        TraceError: fewer than two requests, or all at one time.
    """
    if isinstance(trace, RateTrace):
        return {"arrivals": _rate_arrivals(trace), "measured": _rate_facts(trace)}
    if trace.n_requests < 2 or trace.span_s <= 0:
        raise TraceError(f"{trace.name}: expected at least two requests at different times - fix: use a longer trace")
    edges, rates = _windows(trace)
    spread, kind, distances = _gaps(trace, edges, rates)
    arrivals = {
        "process": "table",
        "moves": "requests",
        "t_s": _rounded(edges[:-1], 3),
        "rate_per_s": _rounded(rates, 6),
        "end_s": round(float(edges[-1]), 3),
        "burstiness": round(float(np.clip(spread, *_SPREAD)), 4),
        "gaps": kind,
    }
    lengths = {
        "input_tokens": quantiles(trace.input_tokens),
        "output_tokens": quantiles(trace.output_tokens),
        "correlation": round(rank_correlation(trace.input_tokens, trace.output_tokens), 4),
    }
    return {"arrivals": arrivals, "lengths": lengths, "measured": _facts(trace) | {"gap_distances": distances}}


def specification(trace: LengthTrace | RateTrace, name: str | None = None) -> dict[str, Any]:
    """Return a whole specification with the arrivals and lengths of a trace.

    What its prompts share is not measured but assumed: the defaults of the family ``measured_lengths``.

    Args:
        trace: Requests with lengths.
        name: Name of the specification; default: the trace's.

    Returns:
        Plain values, as :meth:`workloads.spec.WorkloadSpec.from_plain` takes them.

    Raises:
        TraceError: rates only, or as :func:`fit_lengths`.
    """
    if isinstance(trace, RateTrace):
        raise TraceError(f"{trace.name}: rates, no lengths - fix: use its arrivals: in a specification of your own")
    fitted = fit_lengths(trace)
    return {
        "format": "kvevolve-workload",
        "version": 1,
        "name": name or trace.name,
        "requests": trace.n_requests,
        "about": {"source": trace.provenance, "measured": fitted["measured"], "sharing": "assumed, not measured"},
        "arrivals": fitted["arrivals"],
        "sources": [{"family": "measured_lengths", "parameters": fitted["lengths"]}],
    }


def quantiles(tokens: I32) -> dict[str, list[float]]:
    """Return a quantile table of lengths: probabilities, and tokens at them."""
    return {"p": PROBABILITIES.tolist(), "tokens": _rounded(np.quantile(tokens, PROBABILITIES), 1)}


def rank_correlation(one: I32, two: I32) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; 0 where one of them is constant."""
    first, second = _mean_ranks(one), _mean_ranks(two)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _mean_ranks(values: I32) -> F64:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: F64 = last - (counts - 1) / 2
    return mean[group]


def _windows(trace: LengthTrace) -> tuple[F64, F64]:
    """Return edges from 0 and requests per second of equal windows, wide enough to tell a rate from noise."""
    width = max(_MIN_WINDOW_S, _PER_WINDOW / trace.requests_per_s, trace.span_s / _MAX_WINDOWS)
    edges = np.linspace(0.0, trace.span_s, max(1, round(trace.span_s / width)) + 1)
    counts, _ = np.histogram(trace.arrival_s, edges)
    return edges, counts / np.diff(edges)


def _gaps(trace: LengthTrace, edges: F64, rates: F64) -> tuple[float, str, dict[str, float]]:
    """Return burstiness on a clock of constant rate, the distribution of gaps that is closer, and both distances.

    Gamma and Weibull are matched to mean and burstiness; the distance is Kolmogorov's, to a large sample of each.
    """
    clock = np.interp(trace.arrival_s, edges, np.concatenate(([0.0], np.cumsum(rates * np.diff(edges)))))
    gaps = np.diff(clock) / np.diff(clock).mean()
    spread = float(np.clip(gaps.std(), *_SPREAD))
    rng = stream("gaps to compare with", 0)
    shape = weibull_shape(spread)
    samples = {
        "gamma": rng.gamma(spread**-2, spread**2, _SAMPLE),
        "weibull": rng.weibull(shape, _SAMPLE) / gamma(1 + 1 / shape),
    }
    distances = {kind: round(ks_distance(gaps, sample), 4) for kind, sample in samples.items()}
    return spread, min(distances, key=lambda kind: distances[kind]), distances


def _facts(trace: LengthTrace) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "requests": trace.n_requests,
        "span_s": round(trace.span_s, 3),
        "requests_per_s": round(trace.requests_per_s, 4),
        "interarrival_cv": round(trace.burstiness, 4),
        "input_tokens_mean": round(float(trace.input_tokens.mean()), 1),
        "output_tokens_mean": round(float(trace.output_tokens.mean()), 1),
    }
    if trace.session is not None:
        counts = np.bincount(trace.session[trace.session >= 0])
        facts |= {"sessions": len(counts), "turns_mean": round(float(counts.mean()), 3)}
    return facts


def _rate_arrivals(trace: RateTrace) -> dict[str, Any]:
    starts, rates = trace.whole()
    arrivals = {
        "process": "table",
        "t_s": _rounded(starts - starts[0], 3),
        "rate_per_s": _rounded(rates, 6),
        "end_s": round(float(starts[-1] - starts[0] + trace.window_s), 3),
    }
    if trace.burstiness is not None:
        arrivals["burstiness"] = round(float(np.clip(trace.burstiness, *_SPREAD)), 4)
    return arrivals


def _rate_facts(trace: RateTrace) -> dict[str, Any]:
    rates = trace.rate_per_s
    facts = {
        "windows": len(rates),
        "span_h": trace.span_h,
        "mean": rates.mean(),
        "peak": rates.max(),
        "min": rates.min(),
    }
    return {key: round(float(value), 4) for key, value in facts.items()}


def _rounded(values: F64, decimals: int) -> list[float]:
    return [float(value) for value in np.round(values, decimals)]
