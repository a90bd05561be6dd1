"""The part of a trace that warms the cache up and is not counted.

Knows how users write it. Must not know caches.
"""

from __future__ import annotations

import math

import numpy as np

from workloads.errors import TraceError
from workloads.trace import Trace


def first_counted(trace: Trace, warmup: int | float | str = 0) -> int:
    """Return the index of the first request that counts.

    Args:
        trace: What is replayed; a warm-up is replayed as well, but neither its hits nor its tokens are counted.
        warmup: Requests (1000), a share of the requests ("50%", 0.5; rounded down, as the published curves do), or a
            share of the time between first and last arrival ("50%time").

    Raises:
        TraceError: If it is none of these, or leaves nothing to count.
    """
    text = str(warmup).strip()
    by_time = text.endswith("%time")
    number = text.removesuffix("time")
    try:
        value = float(number.removesuffix("%")) / (100.0 if number.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if number.endswith("%") or isinstance(warmup, float):
        valid = 0 <= value < 1
        cut = trace.arrival_s[0] + value * trace.span_s if by_time and valid else 0.0
        first = int(np.searchsorted(trace.arrival_s, cut)) if by_time else int(value * trace.n_requests) if valid else 0
    else:
        valid = math.isfinite(value) and value >= 0 and value.is_integer()
        first = int(value) if valid else 0
    if not valid or first >= trace.n_requests:
        raise TraceError(
            f"warmup {warmup!r}: give requests (1000), a share of them ('50%') or of the time ('50%time') that leaves "
            f"some of the {trace.n_requests:,} requests to count"
        )
    return first
