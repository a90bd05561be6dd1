"""What FIFO, LRU and the optimum hit at a ladder of cache sizes, as block-level studies count (`sim.reuse`).

Knows shares of the distinct blocks and percentages of the block references. Needs the future; processes that run
candidates must not import this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.reuse import SHARES, Reuse
from workloads.trace import Trace

Percent = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ladder:
    """Hits in percent of the block references, one per cache size.

    Attributes:
        shares: The cache sizes, as shares of the distinct blocks; rounded down, at least a block.
        lru: What LRU hits.
        optimum: What no policy can beat.
    """

    shares: tuple[float, ...]
    lru: Percent
    optimum: Percent


def ladder(trace: Trace, shares: Sequence[float] = SHARES) -> Ladder:
    """Return what LRU and the optimum hit in caches of the given shares of the distinct blocks."""
    reuse = Reuse(trace)
    sizes = [reuse.blocks(share) for share in shares]
    lru, best = ([100 * hits(size) for size in sizes] for hits in (reuse.lru, reuse.optimum))
    return Ladder(tuple(shares), np.array(lru), np.array(best))


def fifo(trace: Trace, shares: Sequence[float] = SHARES) -> Percent:
    """Return what FIFO hits, in percent of the block references."""
    from sim.simulation import simulate

    sizes = [Reuse(trace).blocks(share) for share in shares]
    hits = [simulate(trace, "fifo", size, engine="flat").hit_blocks for size in sizes]
    return 100 * np.array(hits) / max(trace.n_refs, 1)
