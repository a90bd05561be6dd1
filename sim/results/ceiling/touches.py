"""References of a trace with their features, when each block is used next, and which references are alike.

Knows traces and the kernel that describes them. Must not know models or caches. Needs the future.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.core import touches as core
from sim.core.replay import frozen
from workloads.trace import Trace

FEATURES = core.FEATURES
ALIKE = 3
"""Of consecutive blocks of a request with one history, so many stand for all."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Touches:
    """The references that stand for all of a trace.

    Attributes:
        features: float32 (rows, len(FEATURES)).
        wait_s: float64 (rows,), seconds until the block is used next, infinite if it never is.
        left_s: float64 (rows,), seconds from the reference to the end of the trace: unused until then is all that
            is known.
        size: float64 (rows,), references a row stands for.
        row_of: int32 (references,), the row of every reference of the trace.
    """

    features: Floats
    wait_s: npt.NDArray[np.float64]
    left_s: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]
    row_of: npt.NDArray[np.int32]


def touches_of(trace: Trace) -> Touches:
    """Describe a trace."""
    features = _features(trace)
    kept, row_of = _alike(trace, features)
    request = np.repeat(np.arange(trace.n_requests), trace.full_blocks)
    wait_s, left_s = _waits(trace, request), trace.arrival_s[-1] - trace.arrival_s[request]
    size = np.bincount(row_of, minlength=kept.size).astype(np.float64)
    return Touches(features[kept], wait_s[kept], left_s[kept], size, row_of)


def _features(trace: Trace) -> Floats:
    unknown = np.full(trace.n_requests, -1, np.int32)
    session = unknown if trace.session is None else trace.session
    sessions = int(session.max(initial=-1)) + 1
    columns = (
        trace.offsets,
        trace.block_ids,
        trace.arrival_s,
        trace.input_tokens,
        trace.output_tokens,
        unknown if trace.turn is None else trace.turn,
        unknown if trace.request_type is None else trace.request_type,
        np.where(session < 0, sessions, session),
    )
    stream = core.Stream(*(frozen(np.asarray(c), kind) for c, kind in zip(columns, core.KINDS, strict=True)))
    found = np.zeros((trace.n_refs, len(FEATURES)), np.float32)
    core.describe(stream, core.new_memory(trace.n_blocks, trace.n_requests, sessions), found)
    return found


def _waits(trace: Trace, request: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return seconds until each reference's block is asked for again where it can be hit."""
    place = np.arange(trace.n_refs) - trace.offsets[request]
    counts = place < (trace.input_tokens[request].astype(np.int64) - 1) // trace.block_tokens
    order = np.lexsort((request, trace.block_ids))
    at_s = np.where(counts, trace.arrival_s[request], np.inf)[order]
    block = trace.block_ids[order]
    following = np.full(trace.n_refs, np.inf)
    following[:-1] = np.where(block[1:] == block[:-1], at_s[1:], np.inf)
    waits = np.empty(trace.n_refs)
    waits[order] = following - trace.arrival_s[request][order]
    return waits


def _alike(trace: Trace, features: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the references kept, and for each reference the one of them that stands for it."""
    history = features[:, [core.SEEN, core.GAP, core.GAP_BEFORE]]
    fresh = np.ones(trace.n_refs, bool)
    fresh[1:] = (np.abs(history[1:] - history[:-1]) > 1e-3).any(axis=1)
    fresh[trace.offsets[:-1][trace.full_blocks > 0]] = True
    run = np.cumsum(fresh) - 1
    starts = np.flatnonzero(fresh)
    length = np.diff(np.append(starts, trace.n_refs))
    shown = np.minimum(length, ALIKE)
    first = np.cumsum(shown) - shown
    within = np.arange(trace.n_refs) - starts[run]
    part = within * shown[run] // length[run]
    row_of = first[run] + part
    kept = np.empty(int(shown.sum()), np.int64)
    for each in range(ALIKE):
        has = shown > each
        kept[first[has] + each] = starts[has] + (2 * each + 1) * length[has] // (2 * shown[has])
    return kept, row_of.astype(np.int32)
