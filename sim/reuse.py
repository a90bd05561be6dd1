"""How a trace reuses its blocks: LRU stack distances, and what LRU and the offline optimum hit at any size.

Counts as block-level studies do: percentages are of block references over the whole trace, cold start included; a
request's blocks are looked up, then touched last to first, and only between requests the cache is trimmed. Engines
differ (pinned requests, the recomputed last token, partial tails): see `sim.simulate` and `sim.bounds.optimum`. Needs
the future; processes that run candidates must not import this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sim.core import packing, replay
from sim.lru_curve import stack_distances
from workloads import progress
from workloads.columns import Bool
from workloads.statistics import Spread
from workloads.trace import Trace

SHARES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Sizes of the usual tables, as shares of the distinct blocks."""


@dataclass(frozen=True, eq=False)
class Reuse:
    """How a trace reuses its blocks.

    Attributes:
        trace: The trace.
    """

    trace: Trace

    @cached_property
    def distances(self) -> npt.NDArray[np.uint32]:
        """uint32 (n_refs,): smallest LRU cache in blocks that hits the reference; `replay.NONE` at a first use."""
        return stack_distances(self.trace)

    @cached_property
    def hit_distances(self) -> npt.NDArray[np.uint32]:
        """The distances of all references but first uses, in the order of the trace."""
        reused: Bool = self.distances != replay.NONE
        return self.distances[reused]

    @cached_property
    def _hits_within(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.hit_distances, minlength=self.trace.n_blocks + 1).cumsum()

    def blocks(self, share: float) -> int:
        """Return a share of the distinct blocks in blocks: rounded down, at least 1."""
        return max(1, math.floor(share * self.trace.n_blocks))

    def lru(self, capacity_blocks: int) -> float:
        """Return what LRU hits, as a share of the block references."""
        found = self._hits_within
        return int(found[min(capacity_blocks, found.size - 1)]) / max(self.trace.n_refs, 1)

    def optimum(self, capacity_blocks: int) -> float:
        """Return the most any policy hits, as a share of the block references; see `sim.core.packing`."""
        return int(optimum_hits(self.trace, capacity_blocks).sum(dtype=np.int64)) / max(self.trace.n_refs, 1)

    def optima(self, capacities: Sequence[int]) -> list[float]:
        """Return `optimum` at several sizes; tells progress."""
        found = []
        for done, capacity in enumerate(capacities):
            progress.tell("offline optimum, cache sizes", done, len(capacities))
            found.append(self.optimum(capacity))
        progress.tell("offline optimum, cache sizes", len(capacities), len(capacities))
        return found

    def spread(self, percents: Sequence[int]) -> Spread:
        """Return how the reuse distances of all hits are spread, in blocks."""
        return Spread.of(self.hit_distances, percents, exact=True)


def optimum_hits(trace: Trace, capacity_blocks: int) -> npt.NDArray[np.int32]:
    """Return int32 (n,): hit blocks per request of the offline optimum; see `sim.core.packing`.

    Raises:
        ValueError: the capacity is less than a block.
    """
    if capacity_blocks < 1:
        raise ValueError(f"capacity {capacity_blocks}: expected at least 1 block")
    hits = np.zeros(trace.n_requests, np.int32)
    arrays = replay.frozen(trace.offsets, np.int64), replay.frozen(trace.next_use, np.int64)
    packing.most_hits(*arrays, capacity_blocks, packing.new_kept(trace.n_refs), hits)
    return hits
