"""The offline optimum against exhaustive search, and as a bound on every policy."""

from __future__ import annotations

import numpy as np
from brute_force import exhaustive
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces
from test_twin import NAMES, compiled, examples

from sim.bounds import ceiling, optimum
from sim.core import belady
from sim.prepared import prepare
from sim.simulation import Options, run_engine, run_policy
from sim.twin_server import asks_of


@examples(500)
@given(random_traces(most_requests=9, outputs=False), st.integers(1, 8))
def test_optimum_equals_exhaustive_search(trace, capacity):
    assert optimum(trace, capacity).hit_blocks == exhaustive(trace, capacity)


@examples(300)
@given(random_traces(outputs=False), st.sampled_from(NAMES), st.integers(1, 25), st.booleans())
def test_no_policy_exceeds_the_optimum(trace, name, capacity, orphans):
    bound, prepared = optimum(trace, capacity), prepare(trace)
    policy = run_policy(prepared, compiled(name), capacity, Options(orphans=orphans))
    engine = run_engine(prepared, capacity, Options())
    assert policy.counts["hit_blocks"] <= bound.hit_blocks
    assert engine.counts["hit_blocks"] <= bound.hit_blocks
    np.testing.assert_array_equal(bound.hit_blocks_per_request < 0, policy.hits < 0)


@examples(150)
@given(random_traces(outputs=False))
def test_optimum_grows_with_the_cache_up_to_the_ceiling(trace):
    largest = max(ask.prompt_blocks for ask in asks_of(trace, "none")) or 1
    hits = [optimum(trace, capacity).hit_blocks for capacity in range(largest, largest + 25)]
    assert hits == sorted(hits)
    assert hits[-1] <= ceiling(trace).hit_blocks == optimum(trace, 10_000).hit_blocks


@examples(150)
@given(random_traces(outputs=False), st.integers(1, 20))
def test_every_kept_block_is_used_or_dropped(trace, capacity):
    prepared = prepare(trace)
    keep = belady.new_kept(trace.n_refs, prepared.parents, capacity)
    hits = np.zeros(trace.n_requests, np.int32)
    next_of = np.zeros(trace.n_blocks, np.int64)
    total = belady.replay_optimum(prepared.requests, keep, next_of, trace.block_tokens, capacity, hits)
    assert not keep.kept.any()
    assert not keep.children.any()
    assert keep.leaves.size[0] == 0
    assert total == hits[hits >= 0].sum()


def test_optimum_by_hand():
    # 3 blocks, prompts of one block and a tail token (2 places). After 0, 1 there is room to keep one while 2 runs:
    # 1 comes back first, so 0 goes. Then 1 hits, 0 does not, 2 was no longer kept when 1 ran (0 + 2 places).
    trace = hand_trace([[0], [1], [2], [1], [0]], [11] * 5)
    bound = optimum(trace, 3)
    assert bound.hit_blocks_per_request.tolist() == [0, 0, 0, 1, 0]
    assert (bound.hit_blocks, bound.hit_tokens, bound.prompt_tokens) == (1, 10, 55)
    assert bound.hit_rate == 10 / 55
    assert ceiling(trace).hit_blocks_per_request.tolist() == [0, 0, 0, 1, 1]
