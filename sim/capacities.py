"""Ranges of cache sizes and the part of a trace that counts, as users write them.

Knows text and numbers; must not know policies or engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.simulation import parse_capacity
from workloads.trace import Trace

Capacities = str | int | float | Sequence[int | float | str]


def parse_capacities(given: Capacities, points: int, n_blocks: int) -> tuple[int, ...]:
    """Return ascending cache sizes in blocks, each once.

    Args:
        given: "0.5%..50%" (from..to, spaced evenly in the logarithm), "1%,2%,5000", or a sequence of what
            `sim.simulate` takes as capacity.
        points: How many sizes a range becomes.
        n_blocks: Distinct blocks of the trace, for shares.

    Raises:
        ValueError: If a size makes no sense, or a range does not ascend.
    """
    parts: Sequence[int | float | str]
    parts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int | float) else given
    found: set[int] = set()
    for part in parts:
        first, dots, last = part.partition("..") if isinstance(part, str) else (part, "", "")
        low = parse_capacity(first, n_blocks)
        if not dots:
            found.add(low)
            continue
        high = parse_capacity(last, n_blocks)
        if high < low or points < 2:
            raise ValueError(f"capacities {part!r} with {points} points: give an ascending range and at least 2 points")
        found.update(round(float(size)) for size in np.geomspace(low, high, points))
    if not found:
        raise ValueError("no capacities given; for example '0.5%..50%' or '1%,5%,20%'")
    return tuple(sorted(found))


def first_counted(trace: Trace, warmup: int | float | str = 0) -> int:
    """Return the index of the first request that counts.

    Args:
        trace: What is replayed; a warm-up is replayed as well, but neither its hits nor its tokens are counted.
        warmup: Requests (1000), a share of the requests ("50%", 0.5; rounded down, as the published curves do), or a
            share of the time between first and last arrival ("50%time").

    Raises:
        ValueError: If it is none of these, or leaves nothing to count.
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
        first = int(np.searchsorted(trace.arrival_s, cut)) if by_time else int(value * trace.n_requests)
    else:
        valid, first = value >= 0 and value.is_integer(), int(value)
    if not valid or first >= trace.n_requests:
        raise ValueError(
            f"warmup {warmup!r}: give requests (1000), a share of them ('50%') or of the time ('50%time') that leaves "
            f"some of the {trace.n_requests:,} requests to count"
        )
    return first
