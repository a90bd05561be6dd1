"""LRU stack distances against caches replayed with a dict, the published table, and vLLM's own LRU."""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim.core import replay, stack
from sim.lru_curve import lru_curve
from sim.simulation import simulate
from workloads.chains import densify

CONVERSATION = {0.1: 4.19, 0.5: 4.40, 1: 5.25, 2: 7.92, 5: 19.58, 10: 27.89, 20: 34.53, 50: 36.31}
"""LRU hits in % of block references by capacity in % of distinct blocks."""


def replayed_lru(trace, capacity: int, first_counted: int = 0) -> int:
    """Return the hits of an LRU dict: look a request up, then use its blocks last to first, then trim."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for i in range(trace.n_requests):
        blocks = trace.block_ids[trace.offsets[i] : trace.offsets[i + 1]].tolist()
        hits += sum(block in cache for block in blocks) * (i >= first_counted)
        for block in reversed(blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


@settings(max_examples=300)
@given(random_traces(), st.integers(0, 3))
def test_the_curve_equals_a_replay_at_every_capacity(trace, first_counted):
    first_counted = min(first_counted, trace.n_requests)
    curve = lru_curve(trace, first_counted, last_token=False)
    expected = [replayed_lru(trace, capacity, first_counted) for capacity in range(trace.n_blocks + 2)]
    assert [curve.hit_blocks(capacity) for capacity in range(trace.n_blocks + 2)] == expected


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


def test_the_last_token_is_recomputed():
    trace = hand_trace([[0, 1], [0, 1]], [20, 20])
    assert lru_curve(trace).hit_blocks(2) == 1
    assert lru_curve(trace, last_token=False).hit_blocks(2) == 2
    assert lru_curve(trace).hit_rate(2) == 10 / 40


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


def test_conversation_has_the_published_distances_and_curve(trace_path):
    """Against shared/reference/traces.md, 4.1 and 4.3, to all digits. Those count the partial tail blocks as well."""
    with gzip.open(trace_path("mooncake_conversation"), "rt") as lines:
        rows = sorted((json.loads(line) for line in lines), key=lambda row: row["timestamp"])
    lengths = [len(row["hash_ids"]) for row in rows]
    ids, n_blocks = densify(np.array([block for row in rows for block in row["hash_ids"]], np.int64))
    found = np.empty(ids.size, np.uint32)
    arrays = replay.frozen(np.cumsum([0, *lengths]), np.int64), replay.frozen(ids, np.uint32)
    stack.stack_distances(*arrays, stack.new_order(n_blocks, max(lengths)), found)
    hits = found[found != replay.NONE]
    assert np.percentile(hits, (10, 25, 50, 75, 90, 99)).round().tolist() == [1, 4_282, 8_295, 17_830, 31_435, 85_219]
    curve = {share: 100 * np.count_nonzero(hits <= int(share / 100 * n_blocks)) / ids.size for share in CONVERSATION}
    assert curve == pytest.approx(CONVERSATION, abs=0.006)


@pytest.mark.parametrize(
    ("share", "percent"),
    [(0.1, 0.85), (0.5, 5.42), (1, 15.35), (2, 40.82), (5, 84.09), (10, 95.19), (20, 96.29), (50, 96.31)],
)
def test_weka_has_the_published_curve(real_trace, share, percent):
    """Timeline W4 of shared/reference/traces.md, 4.1: block references over the whole trace, to all digits."""
    trace = real_trace("cc_weka_v8")
    curve = lru_curve(trace, last_token=False)
    blocks = int(share / 100 * trace.n_blocks)
    assert 100 * curve.hit_blocks(blocks) / trace.n_refs == pytest.approx(percent, abs=0.006)
