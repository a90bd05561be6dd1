"""LMCache's local CPU backend: recorded hits, hand traces, the kernels against their twins, conservation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from conftest import golden_arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces
from twin_chunks import twin_chunks
from twin_lmcache import twin_lmcache

from sim.core import lists
from sim.engines.chunks import run_chunks
from sim.integrity import check_integrity
from sim.options import Options, PolicyError
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.simulation import simulate

ENGINE = "lmcache"
POLICIES = ("lru", "lfu", "fifo", "mru")
KEYS = [f"lmcache056_{policy}_{cap}" for policy in ("LRU", "LFU", "FIFO", "MRU") for cap in (2000, 10000)]


def examples(count: int):
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


@cache
def compiled(source: str):
    return compile_policy(Policy.from_source(source))


def priority(expression: str, *more: str):
    return compiled("\n".join([f"def priority(block, cache):\n    return {expression}\n", *more]))


# ---- recorded hits ---------------------------------------------------------------------------------------------------


def test_every_recorded_array_is_listed():
    assert sorted(golden_arrays("lmcache056.npz")) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_hits_equal_the_engine(key, real_trace):
    _, policy, capacity = key.split("_")
    expected = golden_arrays("lmcache056.npz")[key]
    for name in (policy, policy.lower()):
        result = simulate(real_trace("mooncake_conversation"), name, int(capacity), engine=ENGINE)
        np.testing.assert_array_equal(result.hit_blocks_per_request, expected)


@pytest.mark.parametrize("policy", ["LRU", "LFU", "MRU"])
@pytest.mark.parametrize("moment", ["", " + 0.0 * cache.now"], ids=["at release", "at eviction"])
def test_user_policies_predict_the_engine(policy, moment, real_trace):
    """The engine's own policies written in the contract: what an exported policy would get is what is simulated."""
    score = {"LRU": "block.released", "LFU": "block.hits", "MRU": "-block.released"}[policy]
    result = simulate(real_trace("mooncake_conversation"), priority(score + moment), 2000, engine=ENGINE)
    expected = golden_arrays("lmcache056.npz")[f"lmcache056_{policy}_2000"]
    np.testing.assert_array_equal(result.hit_blocks_per_request, expected)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def hits(prompts, capacity, policy="lru", tokens=None):
    tokens = [10 * len(prompt) + 5 for prompt in prompts] if tokens is None else tokens
    return simulate(hand_trace(prompts, tokens), policy, capacity, engine=ENGINE).hit_blocks_per_request.tolist()


def test_a_new_prefix_loses_its_head_first():
    # Put head to tail: 0 is oldest. [3] evicts 0, so the prefix of request 2 is gone although 1 and 2 are there; it
    # puts 0 again and evicts 1 (oldest; nothing is pinned).
    assert hits([[0, 1, 2], [3], [0, 1, 2]], 3) == [0, 0, 0]


def test_a_hit_prefix_loses_its_tail_first():
    # The hit touches 2, 1, 0, so 2 is oldest: [3] evicts 2, then 0 and 1 are found.
    assert hits([[0, 1, 2], [0, 1, 2], [3], [0, 1, 2]], 3) == [0, 3, 0, 2]


def test_a_chunk_just_put_can_be_evicted():
    # MRU in 2 places: 2 evicts 1, 3 evicts 2; left are 0 and 3. Then 1 evicts 3 (0 is pinned), 2 evicts 1.
    assert hits([[0, 1, 2, 3], [0, 1, 2]], 2, "mru") == [0, 1]


def test_hits_are_pinned():
    # FIFO would evict 0 first, but the hits 0 and 1 are pinned: nothing can make room for 2.
    result = simulate(hand_trace([[0, 1], [0, 1, 2]], [25, 35]), "fifo", 2, engine=ENGINE)
    assert result.hit_blocks_per_request.tolist() == [0, 2]
    assert (result.evicted_blocks, result.admitted_blocks, result.bypassed_blocks) == (0, 2, 1)


def test_frequencies_are_dropped_with_the_chunk():
    # 0 is used 3 times, then 1 x2; capacity 2. 2 evicts 1 (2 < 3), 1 evicts 2 (1 < 3), 2 evicts 1 (both 1 now).
    assert hits([[0], [0], [0], [1], [1], [2], [1], [2], [0]], 2, "lfu") == [0, 1, 1, 0, 1, 0, 0, 0, 1]


def test_the_last_token_is_recomputed_but_its_chunk_is_touched():
    # 20 tokens are 2 whole chunks: both are found and touched (1 before 0), one counts. 2 then evicts 1.
    assert hits([[0, 1], [0, 1], [2], [0, 1]], 2, tokens=[20, 20, 10, 20]) == [0, 1, 0, 1]


def test_requests_larger_than_the_store_are_served():
    result = simulate(hand_trace([[0, 1, 2], [0]], [30, 15]), "lru", 1, engine=ENGINE)
    assert result.unserved_requests == 0
    assert result.resident_blocks == 1
    assert (result.admitted_blocks, result.evicted_blocks, result.hit_blocks) == (4, 3, 0)


def test_what_is_refused():
    trace = hand_trace([[0]], [15])
    with pytest.raises(ValueError, match="mode='serial' only"):
        simulate(trace, "lru", 2, engine=ENGINE, mode="overlap")
    with pytest.raises(ValueError, match="decode='none' only"):
        simulate(trace, "lru", 2, engine=ENGINE, decode="private")
    admitting = priority("block.released", "def admit(block, request, cache):\n    return True\n")
    with pytest.raises(ValueError, match="defines admit"):
        simulate(trace, admitting, 2, engine=ENGINE)
    with pytest.raises(PolicyError, match="request 0"):
        simulate(trace, priority("1.0 / block.depth"), 2, engine=ENGINE)


# ---- twins and laws --------------------------------------------------------------------------------------------------


@examples(250)
@given(random_traces(most_requests=60, outputs=False), st.integers(1, 25), st.sampled_from(POLICIES))
def test_native_equals_its_twin(trace, capacity, policy):
    result = simulate(trace, policy, capacity, engine=ENGINE)
    expected, stored = twin_lmcache(trace, policy, capacity)
    assert result.hit_blocks_per_request.tolist() == expected
    assert result.resident_blocks == len(stored) == result.admitted_blocks - result.evicted_blocks
    assert result.looked_up_blocks == result.hit_blocks + result.admitted_blocks + result.bypassed_blocks


HOOKS = (
    "def on_hit(block, request, cache):\n    block.s0 = block.s0 + request.hit_blocks\n",
    "def on_insert(block, request, cache):\n    block.s0 = cache.pressure - block.children\n",
    "def on_evict(block, cache):\n    cache.s0 = cache.s0 + block.gap * 0.5\n    block.s1 = block.children\n",
)
USER = (
    ("block.released",),
    ("block.age",),
    ("-block.children", *HOOKS),
    ("block.s0 + block.s1", *HOOKS),
    ("block.hits - 0.1 * block.depth", 'SCORING = "touch"\n', HOOKS[0]),
    ("block.seen + cache.s0", 'SCORING = "touch"\n', *HOOKS),
)


@examples(200)
@given(
    random_traces(most_requests=40, outputs=False),
    st.integers(1, 20),
    st.sampled_from(USER),
    st.sampled_from([0, 2, 1000]),
)
def test_user_policy_equals_its_twin(trace, capacity, parts, ghosts):
    policy, options = priority(*parts), Options(engine=ENGINE, ghost_blocks=ghosts)
    prepared = prepare(trace)
    outcome = run_chunks(prepared, policy, capacity, options, atomic=False, log_evictions=10_000)
    twin = twin_chunks(trace, policy.policy, capacity, options, atomic=False)
    assert outcome.hits.tolist() == twin.hits
    state, n = outcome.state, outcome.logged
    assert list(zip(state.log_request[:n].tolist(), state.log_block[:n].tolist(), strict=True)) == twin.evictions
    assert outcome.counts["admitted_blocks"] == twin.admitted
    check_integrity(prepared, outcome, capacity, serves_all=True)


# ---- the lists under it ----------------------------------------------------------------------------------------------


@examples(100)
@given(
    st.lists(st.tuples(st.sampled_from(["push", "move", "drop"]), st.integers(0, 5), st.integers(0, 2)), max_size=60)
)
def test_lists_keep_order(steps):
    """`sim.core.lists` against Python lists: pushes of unlinked ids, moves between lists, drops."""
    nodes, expected = lists.new_nodes(6, 3), [[], [], []]
    for step, i, k in steps:
        i, head = np.uint32(i), np.uint32(6 + k)
        home = next((entries for entries in expected if i in entries), None)
        assert bool(lists.linked(nodes, i)) == (home is not None)
        if (step == "push") != (home is None):
            continue
        if home is not None:
            home.remove(i)
        if step == "drop":
            lists.drop(nodes, i)
            continue
        expected[k].append(i)
        (lists.push_back if step == "push" else lists.move_back)(nodes, head, i)
    for k, entries in enumerate(expected):
        at, forward = int(nodes["next"][6 + k]), []
        while at != 6 + k:
            forward.append(at)
            assert nodes["next"][nodes["prev"][at]] == at
            at = int(nodes["next"][at])
        assert forward == entries
