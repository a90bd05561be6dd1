"""Parts of a trace: by time, by session, in coarser blocks.

Knows requests, times and sessions. Must not know files or caches. Cuts by request number and random samples are methods
of :class:`workloads.trace.Trace` and :mod:`workloads.sampling`.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from workloads import chains, sampling
from workloads.columns import I64
from workloads.errors import TraceError
from workloads.manifest import stepped

if TYPE_CHECKING:
    from workloads.trace import Trace


def between(trace: Trace, from_s: float | None = None, to_s: float | None = None) -> Trace:
    """Return the requests that arrive in [from_s, to_s), arrival times kept.

    Args:
        trace: The trace.
        from_s: Seconds since the first arrival; None: from the beginning.
        to_s: Seconds since the first arrival; None: to the end.

    Raises:
        TraceError: bounds that make no sense, or no request between them.
    """
    low, high = 0.0 if from_s is None else from_s, float("inf") if to_s is None else to_s
    if not (isfinite(low) and low < high):
        raise TraceError(f"between({from_s}, {to_s}): expected seconds since the first arrival, from_s < to_s")
    since = trace.arrival_s - trace.arrival_s[0]
    start, stop = np.searchsorted(since, [low, high], side="left").tolist()
    if start >= stop:
        raise TraceError(
            f"{trace.name}: no request arrives between {low:g} and {high:g} s; fix: its span is {trace.span_s:g} s"
        )
    return trace.slice(start, stop, f"{trace.name}[{low:g}s:{high:g}s]")


def within(trace: Trace, low: float, high: float) -> Trace:
    """Return the requests that arrive in [low, high) of the time from first to last arrival, arrival times kept.

    Ranges that do not overlap give traces that share no request.

    Args:
        trace: The trace.
        low: Lower end, 0..1.
        high: Upper end; 1 includes the last arrival.

    Raises:
        TraceError: no request within.
    """
    cuts = [trace.arrival_s[0] + trace.span_s * share for share in (low, high)]
    start, stop = np.searchsorted(trace.arrival_s, cuts, side="left").tolist()
    stop = trace.n_requests if high >= 1 else stop
    if start >= stop:
        raise TraceError(f"{trace.name}: no request from {low:.6g} to {high:.6g} of the time - fix: use a wider range")
    return trace.slice(start, stop)


def hashed(trace: Trace, low: float, high: float, seed: int = 0) -> Trace:
    """Return the sessions (without: prefix families) whose hash lies in [low, high), arrival times kept.

    Ranges that do not overlap give traces that share no session; samples of one seed are nested.

    Args:
        trace: The trace.
        low: Lower end, 0..1.
        high: Upper end, 0..1.
        seed: Of the hash.

    Raises:
        TraceError: not such a range, or nothing in it.
    """
    if not 0 <= low < high <= 1:
        raise TraceError(f"hashed({low}, {high}): expected 0 <= low < high <= 1")
    place = sampling.hashed(sampling.groups(trace), seed)
    rows = np.flatnonzero((place >= low) & (place < high))
    if not len(rows):
        raise TraceError(f"{trace.name}: no request group hashes into [{low:g}, {high:g}) - fix: a larger range")
    step = f"groups with hash in [{low:g}, {high:g}) seed {seed}"
    return trace.take(rows, f"{trace.name}[hash {low:g}:{high:g}]", step)


def coarsened(trace: Trace, block_tokens: int) -> Trace:
    """Merge every k blocks of a request into one; exact for prefix-chained ids, the last of a group stands for all.

    Args:
        trace: The trace.
        block_tokens: Tokens per block of the result, a multiple of the trace's.

    Raises:
        TraceError: not a multiple: blocks cannot be split.
    """
    if block_tokens == trace.block_tokens:
        return trace
    if block_tokens < 1 or block_tokens % trace.block_tokens:
        raise TraceError(
            f"{trace.name}: block_tokens {block_tokens}: expected a multiple of {trace.block_tokens} (blocks can be"
            " merged, not split: that would invent reuse)"
        )
    factor = block_tokens // trace.block_tokens
    kept: I64 = trace.full_blocks.astype(np.int64) // factor
    offsets = np.concatenate(([0], np.cumsum(kept)))
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept)
    at = np.repeat(trace.offsets[:-1], kept) + (within + 1) * factor - 1
    step = f"{factor} blocks merged into one of {block_tokens} tokens"
    return replace(
        trace,
        block_tokens=block_tokens,
        offsets=offsets,
        block_ids=chains.densify(trace.block_ids[at])[0],
        provenance=stepped(trace.provenance, step),
    )
