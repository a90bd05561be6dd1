"""Ceilings of a cell: the offline optimum and the infinite cache.

Needs the future; processes that run candidates must not import this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.core import belady
from sim.prepared import prepare
from sim.simulation import parse_capacity
from workloads.trace import Trace


@dataclass(frozen=True, eq=False)
class Bound:
    """The most any policy can hit, serial mode, decode not modelled.

    Attributes:
        hit_blocks: Over the counted requests.
        hit_tokens: The same in tokens.
        hit_blocks_per_request: int32 (n,), -1 for unserved requests.
    """

    capacity_blocks: int
    hit_blocks: int
    hit_tokens: int
    prompt_tokens: int
    hit_blocks_per_request: npt.NDArray[np.int32]

    @property
    def hit_rate(self) -> float:
        """Hit tokens per prompt token, 0..1."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


def optimum(trace: Trace, capacity: int | float | str, first_counted: int = 0) -> Bound:
    """Return the offline optimum (batch Belady, deepest first), see `sim.core.belady`.

    Args:
        trace: What is replayed.
        capacity: As for `sim.simulate`.
        first_counted: Requests before this one warm the cache up: the most hits of the others, and theirs is 0.

    Raises:
        ValueError: If the capacity makes no sense.
    """
    capacity_blocks = parse_capacity(capacity, trace.n_blocks)
    prepared = prepare(trace)
    hits = np.zeros(trace.n_requests, np.int32)
    keep = belady.new_kept(trace.n_refs, prepared.parents, capacity_blocks, first_counted)
    next_of = np.zeros(trace.n_blocks, np.int64)
    blocks = belady.replay_optimum(prepared.requests, keep, next_of, trace.block_tokens, capacity_blocks, hits)
    prompt_tokens = int(trace.input_tokens[first_counted:].sum(dtype=np.int64))
    return Bound(capacity_blocks, blocks, blocks * trace.block_tokens, prompt_tokens, hits)


def ceiling(trace: Trace, first_counted: int = 0) -> Bound:
    """Return the hits of an infinite cache; `first_counted` as in `optimum`."""
    room = trace.n_blocks + int(trace.occupied_blocks.max(initial=0)) + 1
    return optimum(trace, room, first_counted)
