"""More or less load from the same trace: time pressed together or stretched, sessions left out or cloned.

Knows requests, blocks, times and sessions. Must not know files or caches. Sessions are those of the session column,
and where it is unknown prefix families (:func:`workloads.sampling.groups`). Leaving some out is
:func:`workloads.cutting.hashed`.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads import chains, sampling
from workloads.columns import F64, I32, I64, INT32_MAX, Bool
from workloads.errors import TraceError
from workloads.manifest import stepped

if TYPE_CHECKING:
    from workloads.trace import Trace

SHARE = ("none", "trunk", "cross-session")


def compressed(trace: Trace, factor: float, keep_gaps: bool = False) -> Trace:
    """Multiply time: 0.5 makes a trace arrive twice as fast.

    Args:
        trace: The trace.
        factor: > 0. The first arrival keeps its time.
        keep_gaps: Only the starts of sessions move, requests keep their distance from the first of their session: more
            sessions are open at a time, none is faster (people and tools do not think faster under load). Requests of
            no session move on their own.

    Raises:
        TraceError: not such a factor, or gaps are to be kept and the trace has no session column.
    """
    if not (isfinite(factor) and factor > 0):
        raise TraceError(f"compressed: factor {factor}: expected a finite number > 0, for example 0.5 for double speed")
    first = trace.arrival_s[0]
    step = f"time x {factor:g}{', gaps within sessions kept' if keep_gaps else ''}"
    if not keep_gaps:
        with np.errstate(over="ignore"):
            return _moved(trace, first + (trace.arrival_s - first) * factor, step)
    if trace.session is None:
        raise TraceError(f"{trace.name}: no session column, so no gaps to keep; fix: compress without keep_gaps")
    starts = _starts_s(trace)
    with np.errstate(over="ignore"):
        return _moved(trace, first + (starts - first) * factor + (trace.arrival_s - starts), step)


def cloned(trace: Trace, copies: int, jitter_s: float, share: str = "trunk", seed: int = 0) -> Trace:
    """Play every session several times, each clone with ids of its own, at another time.

    Args:
        trace: The trace.
        copies: How often each session is there in the result, >= 1; one of them is the original, at its own time.
        jitter_s: Each clone of a session starts up to this much later, uniform.
        share: Which blocks a clone has in common with its original. ``none``: no block. ``trunk``: blocks in more than
            1 % of the requests (system prompts). ``cross-session``: all blocks that several sessions use, needs a
            session column. What is shared is closed under prefixes, so chains stay whole.
        seed: Of the jitter.

    Raises:
        TraceError: an argument that makes no sense, or more references than a trace may have.
    """
    if type(copies) is not int or copies < 1:
        raise TraceError(f"cloned: copies {copies!r}: expected an integer >= 1")
    if not (isfinite(jitter_s) and jitter_s >= 0):
        raise TraceError(f"cloned: jitter_s {jitter_s}: expected finite seconds >= 0")
    if trace.n_refs * copies > INT32_MAX:
        raise TraceError(
            f"{trace.name}: {trace.n_refs * copies:,} block references, at most {INT32_MAX:,} are supported"
        )
    common = _common(trace, share)
    groups = np.unique(sampling.groups(trace), return_inverse=True)[1]
    delay = np.random.default_rng(seed).uniform(0.0, jitter_s, (copies, int(groups.max()) + 1))
    delay[0] = 0.0
    arrival = np.concatenate([trace.arrival_s + delay[copy][groups] for copy in range(copies)])
    ids = trace.block_ids.astype(np.int64)
    shared = common[trace.block_ids]
    blocks = np.concatenate([np.where(shared, ids, ids + copy * trace.n_blocks) for copy in range(copies)])
    lengths = np.tile(np.diff(trace.offsets), copies)
    order = np.argsort(arrival, kind="stable")
    offsets, blocks = chains.take_rows(np.concatenate(([0], np.cumsum(lengths))), blocks, order)
    columns: dict[str, Any] = {
        name: np.tile(column, copies)[order]
        for name, column in trace.columns().items()
        if name not in ("offsets", "block_ids", "arrival_s", "session")
    }
    if trace.session is not None:
        columns["session"] = _sessions(trace, copies)[order]
    return replace(
        trace,
        name=f"{trace.name} x {copies}",
        offsets=offsets,
        block_ids=chains.densify(blocks)[0],
        arrival_s=arrival[order],
        provenance=stepped(trace.provenance, f"sessions x {copies}, share {share}, jitter {jitter_s:g} s, seed {seed}"),
        **columns,
    )


def _starts_s(trace: Trace) -> F64:
    """Return float64[n]: the first arrival of each request's session; its own where the session is unknown."""
    assert trace.session is not None
    starts = trace.arrival_s.copy()
    known = np.flatnonzero(trace.session >= 0)
    _, first, number = np.unique(trace.session[known], return_index=True, return_inverse=True)
    starts[known] = trace.arrival_s[known][first][number]
    return starts


def _moved(trace: Trace, arrival_s: F64, step: str) -> Trace:
    """Return the trace at other times, sorted stably."""
    if not np.isfinite(arrival_s).all():
        raise TraceError(f"{trace.name}: {step}: expected finite times, got some beyond - fix: a smaller factor")
    order: I64 = np.argsort(arrival_s, kind="stable")
    taken = trace.take(order, trace.name, step)
    return replace(taken, arrival_s=arrival_s[order])


def _common(trace: Trace, share: str) -> Bool:
    """Return bool[n_blocks], which blocks clones have in common."""
    if share not in SHARE:
        raise TraceError(f"cloned: share {share!r}: expected one of {', '.join(SHARE)}")
    if share == "trunk":
        return sampling.trunk(trace)
    if share == "none":
        return np.zeros(trace.n_blocks, np.bool_)
    if trace.session is None:
        raise TraceError(f"{trace.name}: no session column; fix: share trunk or none")
    session = np.repeat(trace.session, trace.full_blocks)
    low, high = np.full(trace.n_blocks, INT32_MAX, np.int32), np.full(trace.n_blocks, -2, np.int32)
    np.minimum.at(low, trace.block_ids, session)
    np.maximum.at(high, trace.block_ids, session)
    return low < high


def _sessions(trace: Trace, copies: int) -> I32:
    assert trace.session is not None
    own = trace.session.astype(np.int64)
    count = int(own.max()) + 1
    if count * copies > INT32_MAX:
        raise TraceError(f"{trace.name}: session numbers exceed 32 bits; fix: fewer copies, or renumber sessions")
    return np.concatenate([np.where(own >= 0, own + copy * count, -1) for copy in range(copies)]).astype(np.int32)
