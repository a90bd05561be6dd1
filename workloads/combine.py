"""Several traces made into one.

Knows how ids and sessions are kept apart when traces meet. Must not know where the traces come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from workloads import chains
from workloads.columns import F64, I32, I64, INT32_MAX
from workloads.errors import TraceError

if TYPE_CHECKING:
    from workloads.trace import Trace

_PER_REQUEST = ("input_tokens", "output_tokens", "turn", "tenant", "request_type", "priority")


def concat(traces: Sequence[Trace], name: str, gap_s: float = 0.0) -> Trace:
    """Play traces one after another.

    Args:
        traces: At least one; all of one block size.
        name: Name of the result.
        gap_s: Seconds between the last arrival of a trace and the first of the next. Later traces are shifted in
            time so; the first keeps its times.

    Returns:
        A trace with ids and sessions namespaced per input (nothing is shared between inputs). An optional column
        that only some inputs have is filled with -1 (unknown) for the others (0 for priority).

    Raises:
        TraceError: no traces, different block sizes, or a negative gap.
    """
    if not (isfinite(gap_s) and gap_s >= 0):
        raise TraceError(f"concat: gap_s {gap_s}: expected finite seconds >= 0")
    _check(traces)
    arrivals = [traces[0].arrival_s]
    for trace in traces[1:]:
        shifted = trace.arrival_s - trace.arrival_s[0] + (arrivals[-1][-1] + gap_s)
        arrivals.append(np.maximum.accumulate(shifted))
    return interleave(traces, np.concatenate(arrivals), name, f"concat gap_s={gap_s:g}")


def merge(traces: Sequence[Trace], name: str, starts_s: Sequence[float] | None = None) -> Trace:
    """Interleave traces by arrival time, ties in the order given; ids and sessions namespaced as in :func:`concat`.

    Args:
        traces: At least one; all of one block size.
        name: Name of the result.
        starts_s: When the first request of each trace arrives, seconds >= 0; None: each keeps its own times.

    Raises:
        TraceError: no traces, different block sizes, or starts that are not a time for each.
    """
    _check(traces)
    if starts_s is None:
        return interleave(traces, np.concatenate([trace.arrival_s for trace in traces]), name, "merge")
    if len(starts_s) != len(traces) or not all(isfinite(start) and start >= 0 for start in starts_s):
        raise TraceError(f"merge: starts_s {list(starts_s)}: expected {len(traces)} finite seconds >= 0")
    moved = [trace.arrival_s - trace.arrival_s[0] + start for trace, start in zip(traces, starts_s, strict=True)]
    return interleave(
        traces, np.concatenate(moved), name, f"merge, starting at {', '.join(f'{s:g}' for s in starts_s)} s"
    )


def _check(traces: Sequence[Trace]) -> None:
    sizes = sorted({trace.block_tokens for trace in traces})
    if len(sizes) != 1:
        raise TraceError(
            f"cannot combine traces with block_tokens {sizes}: expected one size; fix: load them with one block_tokens"
            if sizes
            else "cannot combine: no traces given"
        )


def interleave(traces: Sequence[Trace], arrival_s: F64, name: str, step: str) -> Trace:
    """Put the requests of traces in the order of given arrival times, ties in the order given.

    Args:
        traces: At least one, all of one block size; ids and sessions are namespaced as in :func:`concat`.
        arrival_s: float64[sum of requests] times of the requests, trace after trace.
        name: Name of the result.
        step: What was done, for the provenance.

    Raises:
        TraceError: more than 2**31 - 1 block references or sessions.
    """
    from workloads.trace import Trace as Result

    order = np.argsort(arrival_s, kind="stable")
    rows = np.concatenate([[0], *(np.diff(trace.offsets) for trace in traces)]).cumsum()
    if rows[-1] > INT32_MAX:
        raise TraceError(f"cannot combine: {rows[-1]:,} block references, at most {INT32_MAX:,}; fix: combine fewer")
    first_id = np.cumsum([0, *(trace.n_blocks for trace in traces)])
    ids = np.concatenate([trace.block_ids + np.int32(first_id[i]) for i, trace in enumerate(traces)])
    offsets, ids = chains.take_rows(rows, ids, order)
    columns = {key: _optional(traces, key) for key in _PER_REQUEST} | {"session": _sessions(traces)}
    return Result(
        name=name,
        block_tokens=traces[0].block_tokens,
        offsets=offsets,
        block_ids=chains.densify(ids)[0],
        arrival_s=arrival_s[order],
        provenance={"steps": [step], "parts": [{"name": t.name, **t.provenance} for t in traces]},
        **{key: None if column is None else column[order] for key, column in columns.items()},  # type: ignore[arg-type]
    )


def _optional(traces: Sequence[Trace], key: str) -> I32 | None:
    columns: list[I32 | None] = [getattr(trace, key) for trace in traces]
    if all(column is None for column in columns):
        return None
    unknown = 0 if key == "priority" else -1
    filled = [
        np.full(trace.n_requests, unknown, np.int32) if column is None else column
        for trace, column in zip(traces, columns, strict=True)
    ]
    return np.concatenate(filled)


def _sessions(traces: Sequence[Trace]) -> I32 | None:
    if all(trace.session is None for trace in traces):
        return None
    first = 0
    columns: list[I64] = []
    for trace in traces:
        own = np.full(trace.n_requests, -1, np.int64) if trace.session is None else trace.session.astype(np.int64)
        columns.append(np.where(own >= 0, own + first, -1))
        first += int(own.max()) + 1
    if first > 2**31 - 1:
        raise TraceError("cannot combine: session numbers exceed 32 bits; fix: renumber sessions from 0")
    return np.concatenate(columns).astype(np.int32)
