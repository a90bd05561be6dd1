"""What FIFO, LRU and the optimum hit at a ladder of cache sizes, as block-level studies count.

Percentages are of block references over the whole trace, cold start included; blocks are independent objects, a
request's are looked up first, then used last to first, and between requests the cache is trimmed. LRU comes from stack
distances, FIFO from the zoo, the optimum is Belady's with bypass. Needs the future; processes that run candidates must
not import this module.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.core import replay
from sim.lru_curve import stack_distances
from workloads.trace import Trace

Percent = npt.NDArray[np.float64]

SHARES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Cache sizes, as shares of a trace's distinct blocks."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """Hits in percent of the block references, one per cache size.

    Attributes:
        shares: The cache sizes, as shares of the distinct blocks; rounded down, at least a block.
        lru: What LRU hits.
        optimum: What no policy can beat.
        infinite: What a cache that never evicts hits.
    """

    shares: tuple[float, ...]
    lru: Percent
    optimum: Percent
    infinite: float


def ladder(trace: Trace, shares: Sequence[float] = SHARES) -> Ladder:
    """Return what LRU and the optimum hit in caches of the given shares of the distinct blocks."""
    sizes = capacities(trace, shares)
    distances = stack_distances(trace)
    within = np.bincount(distances[distances != replay.NONE], minlength=trace.n_blocks + 1).cumsum()
    lru, best = _percent(within[sizes], trace), _percent(optimum_hits(trace, sizes), trace)
    return Ladder(tuple(shares), lru, best, float(100 * within[-1] / max(trace.n_refs, 1)))


def fifo(trace: Trace, shares: Sequence[float] = SHARES) -> Percent:
    """Return what FIFO hits, in percent of the block references."""
    from sim.simulation import simulate

    hits = [simulate(trace, "fifo", size, engine="flat").hit_blocks for size in capacities(trace, shares)]
    return _percent(np.array(hits), trace)


def _percent(hits: npt.NDArray[np.int64], trace: Trace) -> Percent:
    share: Percent = 100 * hits / max(trace.n_refs, 1)
    return share


def capacities(trace: Trace, shares: Sequence[float]) -> list[int]:
    """Return shares of the distinct blocks in blocks."""
    return [min(max(1, math.floor(share * trace.n_blocks)), trace.n_blocks) for share in shares]


def optimum_hits(trace: Trace, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the most hits a cache of each size can have.

    Blocks of one request that wait for the same later request are alike: they are kept and dropped as one number, so
    that the work goes by requests, not by block references.
    """
    starts, waits = _waits(trace)
    return np.array([_optimum(starts, waits, size) for size in sizes], np.int64)


def _waits(trace: Trace) -> tuple[list[int], list[tuple[int, int]]]:
    """Return (next request, how many blocks wait for it) in order, and where those of each request begin."""
    request = np.repeat(np.arange(trace.n_requests, dtype=np.int64), np.diff(trace.offsets))
    waiting = trace.next_use < trace.n_refs
    start, stop = request[waiting], request[trace.next_use[waiting]]
    first = np.flatnonzero(np.diff(start, prepend=-1) | np.diff(stop, prepend=-1))
    counts = np.diff(np.append(first, len(start)))
    rows = np.searchsorted(start[first], np.arange(trace.n_requests + 1))
    return rows.tolist(), list(zip(stop[first].tolist(), counts.tolist(), strict=True))


def _optimum(starts: list[int], waits: list[tuple[int, int]], size: int) -> int:
    n = len(starts) - 1
    held = [0] * n
    farthest: list[int] = []
    kept = hits = 0
    for i in range(n):
        hits += held[i]
        kept -= held[i]
        held[i] = 0
        for stop, count in waits[starts[i] : starts[i + 1]]:
            if not held[stop]:
                heapq.heappush(farthest, -stop)
            held[stop] += count
            kept += count
        while kept > size:
            last = -farthest[0]
            dropped = min(held[last], kept - size)
            held[last] -= dropped
            kept -= dropped
            if not held[last]:
                heapq.heappop(farthest)
    return hits
