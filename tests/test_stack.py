"""LRU stack distances against caches replayed with a dict, and vLLM's own LRU; published ones: test_statistics.py."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim.core import replay, stack
from sim.lru_curve import lru_curve
from sim.reuse import Reuse
from sim.simulation import simulate


def replayed_lru(trace, capacity: int, first_counted: int = 0, last_token: bool = True) -> int:
    """Return the hits of an LRU dict: look a request up, then use its blocks last to first, then trim.

    Without `last_token` the block with a prompt's last token is looked up, but never counts.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for i in range(trace.n_requests):
        blocks = trace.block_ids[trace.offsets[i] : trace.offsets[i + 1]].tolist()
        found = [block in cache for block in blocks]
        if not last_token:
            found = found[: max(int(trace.input_tokens[i]) - 1, 0) // trace.block_tokens]
        hits += sum(found) * (i >= first_counted)
        for block in reversed(blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


@given(random_traces(), st.integers(0, 3))
def test_the_curves_equal_a_replay_at_every_capacity(trace, first_counted):
    first_counted = min(first_counted, trace.n_requests)
    curve, reuse = lru_curve(trace, first_counted), Reuse(trace)
    for capacity in range(trace.n_blocks + 2):
        assert curve.hit_blocks(capacity) == replayed_lru(trace, capacity, first_counted, last_token=False)
        assert round(reuse.lru(capacity) * trace.n_refs) == replayed_lru(trace, capacity)


def test_distances_survive_many_compactions():
    random = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(random.integers(1, 40, 4_000))])
    ids = np.concatenate([random.choice(150, b - a, replace=False) for a, b in pairwise(offsets)])
    found = np.empty(ids.size, np.uint32)
    arrays = replay.frozen(offsets, np.int64), replay.frozen(ids, np.uint32)
    stack.stack_distances(*arrays, stack.new_order(150, 40), found)
    recency: list[int] = []
    for a, b in pairwise(offsets):
        expected = [recency.index(x) + 1 if x in recency else int(replay.NONE) for x in ids[a:b].tolist()]
        assert found[a:b].tolist() == expected
        fresh = ids[a:b].tolist()
        recency = fresh + [x for x in recency if x not in set(fresh)]


@settings(max_examples=200)
@given(random_traces(outputs=False), st.integers(1, 30))
def test_vllm_is_this_curve_one_block_later_where_nothing_else_differs(trace, capacity):
    tokens = trace.full_blocks * trace.block_tokens + 1
    blocks = [trace.block_ids[a:b].tolist() for a, b in pairwise(trace.offsets)]
    size = trace.block_tokens
    assume(size > 1)  # else every prompt is a whole number of blocks
    tails = hand_trace(blocks, tokens, size)
    capacity += int(tails.occupied_blocks.max())
    assert simulate(tails, "vllm", capacity).hit_blocks == lru_curve(tails).hit_blocks(capacity - 1)


def test_vllm_is_no_stack_algorithm():
    """A larger cache can hit less: it runs a prompt that a smaller one refuses, and that prompt pushes others out."""
    trace = hand_trace([[0, 1], [2, 3, 4, 5, 6, 7], [0, 1]], [21, 61, 21])
    assert [simulate(trace, "vllm", capacity).hit_blocks for capacity in (6, 7)] == [2, 0]
    hits = lru_curve(trace).hits
    assert (np.diff(hits) >= 0).all()
