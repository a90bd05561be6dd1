"""The whole hit curve of LRU over independent blocks, one pass for every capacity.

Knows the trace and stack distances. This is not an engine: `vllm` pins running requests, gives partial tails a block,
keeps second copies and refuses prompts larger than the cache, so its LRU is no stack algorithm and is replayed per
capacity. Where no prompt is a whole number of blocks and all fit, a serial vLLM >= 0.23 with C blocks hits what this
curve says at C - 1: the block less is the partial tail's (`tests/test_stack.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.core import replay, stack
from sim.prepared import prepare
from workloads.trace import Trace


@dataclass(frozen=True, eq=False)
class LruCurve:
    """Hits of an LRU cache of independent blocks at every capacity.

    Attributes:
        hits: int64 (n_blocks + 1,): `hits[c]` blocks hit with `c` blocks of cache, over the counted requests.
        counted_tokens: Prompt tokens of the counted requests, the denominator of rates.
        block_tokens: Tokens per block.
    """

    hits: npt.NDArray[np.int64]
    counted_tokens: int
    block_tokens: int

    def hit_blocks(self, capacity_blocks: int) -> int:
        """Return the hits at a capacity; beyond the trace's distinct blocks nothing more is hit."""
        return int(self.hits[min(capacity_blocks, self.hits.size - 1)])

    def hit_rate(self, capacity_blocks: int) -> float:
        """Return hit tokens per prompt token, 0..1."""
        return (
            self.hit_blocks(capacity_blocks) * self.block_tokens / self.counted_tokens if self.counted_tokens else 0.0
        )


def stack_distances(trace: Trace) -> npt.NDArray[np.uint32]:
    """Return, per block reference, the smallest LRU cache in blocks that hits it; `replay.NONE` at a first use."""
    requests = prepare(trace).requests
    found = np.empty(trace.n_refs, np.uint32)
    order = stack.new_order(trace.n_blocks, int(trace.full_blocks.max(initial=0)))
    stack.stack_distances(requests.offsets, requests.block_ids, order, found)
    return found


def lru_curve(trace: Trace, first_counted: int = 0) -> LruCurve:
    """Return the hit curve of LRU over independent blocks.

    The block with a prompt's last token never counts: engines always recompute it. `sim.reuse` counts it, as the
    literature does.

    Args:
        trace: What is replayed.
        first_counted: Requests before this one warm the cache up and are not counted.
    """
    distances = stack_distances(trace)
    counted = distances != replay.NONE
    counted[: trace.offsets[first_counted]] = False
    exact = (trace.input_tokens > 0) & (trace.input_tokens % trace.block_tokens == 0)
    counted[trace.offsets[1:][exact] - 1] = False
    hits = np.bincount(distances[counted], minlength=trace.n_blocks + 1).cumsum()
    tokens = int(trace.input_tokens[first_counted:].sum(dtype=np.int64))
    return LruCurve(hits, tokens, trace.block_tokens)
