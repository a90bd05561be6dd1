"""Dynamo KVBM: hand traces of levels, frequencies and leaves, the kernel against its twin, anchors on a real trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces
from test_lmcache import examples
from twin_kvbm import twin_kvbm

from sim.simulation import simulate

ENGINE = "kvbm"
POLICIES = ("lineage", "lru", "multilru")


def run(prompts, capacity, policy="multilru", tokens=None, **options):
    """Prompts end in 5 tokens of a partial block unless `tokens` says otherwise: it takes a place while they run."""
    tokens = [10 * len(prompt) + 5 for prompt in prompts] if tokens is None else tokens
    return simulate(hand_trace(prompts, tokens), policy, capacity, engine=ENGINE, **options)


def hits(*arguments, **options):
    return run(*arguments, **options).hit_blocks_per_request.tolist()


# ---- by hand -----------------------------------------------------------------------------------------------------


def test_three_uses_make_a_block_warm():
    # 3 places. 0 is registered and matched twice: frequency 3, warm. [1] fits beside it, [2] needs one place more:
    # MultiLRU takes the cold 1, LRU the older 0. With two uses 0 is cold too, and the older one.
    assert hits([[0], [0], [0], [1], [2], [0]], 3) == [0, 1, 1, 0, 0, 1]
    assert hits([[0], [0], [0], [1], [2], [0]], 3, "lru") == [0, 1, 1, 0, 0, 0]
    assert hits([[0], [0], [1], [2], [0]], 3) == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("bound", [3, 8, 15])
def test_levels_begin_at_3_8_and_15(bound):
    # 0 is used `bound` times, then 1 once less: 1 is a level below and leaves for 2 although 0 is older. Used equally
    # often they are in one level, and 0, the older, leaves.
    ones = [[1]] * (bound - 1)
    assert hits([[0]] * bound + [*ones, [2], [0]], 3)[-1] == 1
    assert hits([[0]] * (bound - 1) + [*ones, [2], [0]], 3)[-1] == 0


def test_counts_stop_at_15():
    # 40 uses of 0 and 15 of 1 are both 15: the same level, so 0, the older, leaves.
    assert hits([[0]] * 40 + [[1]] * 15 + [[2], [0]], 3)[-1] == 0


def test_the_coldest_level_gives_first_and_its_oldest_block():
    # 5 places: 0 (8 uses, hot), 1 (3, warm), 2 and 3 (1, cold). [4] evicts 2, the older cold block; then [5] evicts 3,
    # [6] evicts 4, and so on: 0 and 1 stay.
    start = [[0]] * 8 + [[1]] * 3 + [[2], [3]]
    assert hits([*start, [4], [3]], 5)[-1] == 1
    assert hits([*start, [4], [2]], 5)[-1] == 0
    assert hits([*start, [4], [5], [6], [7], [1], [0]], 5)[-2:] == [1, 1]


def test_frequencies_outlive_the_block():
    # 3 places. 0 has 2 when [2] evicts it. Registered again it has 3 and is warm: [3] evicts 2, [4] evicts 3, not 0.
    prompts = [[0], [0], [1], [2], [0], [3], [4], [0]]
    assert hits(prompts, 3) == [0, 1, 0, 0, 0, 0, 0, 1]
    assert hits(prompts, 3, "lru") == [0, 1, 0, 0, 0, 0, 0, 0]


def test_frequencies_are_halved_together():
    # The 10th increment halves 10 to 5 when tracker_capacity is 1: 0 is warm like 1 (4 uses) and older, so [2] evicts
    # it. Not halved, 0 has 10 and is hot.
    prompts = [[0]] * 10 + [[1]] * 4 + [[2], [0]]
    assert hits(prompts, 3, tracker_capacity=1)[-1] == 0
    assert hits(prompts, 3)[-1] == 1


def test_half_of_the_increments_count_on():
    # After the first halving 5 increments are left, so the 5th use of 1 is the 10th again: 1 has 2 then and is cold,
    # while 0 was given back warm and stays there. [2] evicts 1. Counted from 0 again, both were warm and 0 the older.
    assert hits([[0]] * 10 + [[1]] * 5 + [[2], [0]], 3, tracker_capacity=1)[-1] == 1


def test_computing_a_block_again_is_no_use_of_it():
    # 10 tokens are one block whose last token is recomputed: nothing is matched, and registering again adds nothing.
    # So 0 has frequency 1, is cold, and older than 1: [2] evicts it. Nothing is stored twice.
    result = run([[0], [0], [0], [1], [2], [0]], 3, tokens=[10, 10, 10, 15, 15, 15])
    assert result.hit_blocks_per_request.tolist() == [0] * 6
    assert (result.admitted_blocks, result.bypassed_blocks, result.evicted_blocks) == (4, 2, 2)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_order_of_release(policy):
    # 4 places hold [0, 1, 2] and its tail; [3] needs one of them. Last to first: 2 is the oldest. First to last: 0 is,
    # but for Lineage 2 is the only leaf.
    prompts = [[0, 1, 2], [3], [0, 1, 2]]
    assert hits(prompts, 4, policy) == [0, 0, 2]
    assert hits(prompts, 4, policy, tail_first=False) == [0, 0, 2 if policy == "lineage" else 0]


def test_a_parent_that_becomes_a_leaf_keeps_its_place_in_time():
    # First to last, 4 places: times 0, 1, 2 for the blocks 0, 1, 2. [3] evicts 1 (a leaf, older than 2). Then 0 is a
    # leaf of time 0: [4] evicts it, and 2 is still there.
    start = [[0, 1], [2], [3]]
    assert hits([*start, [0, 1]], 4, "lineage", tail_first=False) == [0, 0, 0, 1]
    assert hits([*start, [4], [2]], 4, "lineage", tail_first=False) == [0, 0, 0, 0, 1]
    assert hits([*start, [4], [0]], 4, "lineage", tail_first=False) == [0, 0, 0, 0, 0]


def test_the_engines_default_is_lineage():
    assert hits([[0, 1, 2], [3], [0, 1, 2]], 4, "native", tail_first=False) == [0, 0, 2]


@pytest.mark.parametrize("policy", POLICIES)
def test_one_place(policy):
    # [0] and its tail need 2 places: not served. 10 tokens are one block, always recomputed.
    result = run([[0], [0], [1], [0]], 1, policy, tokens=[15, 10, 10, 10])
    assert result.hit_blocks_per_request.tolist() == [-1, 0, 0, 0]
    assert (result.unserved_requests, result.evicted_blocks, result.resident_blocks) == (1, 2, 1)


def test_what_is_refused():
    for bad in ({"warm": 0}, {"warm": 8}, {"very_hot": 16}, {"tracker_capacity": 0}):
        with pytest.raises(ValueError, match="warm < hot < very_hot"):
            run([[0]], 2, **bad)
    with pytest.raises(ValueError, match="mode='serial' only"):
        run([[0]], 2, mode="overlap")
    with pytest.raises(ValueError, match="decode='none' only"):
        run([[0]], 2, decode="infer")
    with pytest.raises(ValueError, match="own policies only: lineage, lru, multilru"):
        run([[0]], 2, "arc")


# ---- the twin, and other implementations -------------------------------------------------------------------------


@examples(300)
@given(
    random_traces(most_requests=60, outputs=False),
    st.integers(1, 25) | st.just(10_000),
    st.sampled_from(POLICIES),
    st.sampled_from([(3, 8, 15), (1, 2, 3), (2, 3, 5)]),
    st.sampled_from([1, 2, 5, 1 << 21]),
    st.booleans(),
)
def test_native_equals_its_twin(trace, capacity, policy, thresholds, decay, tail_first):
    warm, hot, very_hot = thresholds
    options = {"warm": warm, "hot": hot, "very_hot": very_hot, "tracker_capacity": decay, "tail_first": tail_first}
    result = simulate(trace, policy, capacity, engine=ENGINE, **options)
    expected, evictions, stored = twin_kvbm(trace, policy, capacity, thresholds, decay, tail_first)
    assert result.hit_blocks_per_request.tolist() == expected
    assert result.evicted_blocks == len(evictions)
    assert result.resident_blocks == len(stored) == result.admitted_blocks - result.evicted_blocks
    assert result.peak_used_blocks <= capacity
    assert result.looked_up_blocks == result.hit_blocks + result.admitted_blocks + result.bypassed_blocks
    if capacity == 10_000:
        assert result.evicted_blocks == result.unserved_requests == 0


MULTILRU_HITS = {500: 16_527, 1_000: 21_887, 2_000: 29_611, 5_000: 44_119, 10_000: 53_774, 20_000: 76_064}
"""Of a prototype written independently of this kernel: scores over vLLM's accounting, counts that survive eviction."""


@pytest.mark.parametrize("capacity", MULTILRU_HITS)
def test_multilru_equals_an_independent_prototype(capacity, real_trace):
    result = simulate(real_trace("mooncake_conversation"), "multilru", capacity, engine=ENGINE)
    assert result.hit_blocks == MULTILRU_HITS[capacity]


@pytest.mark.parametrize("policy", ["lru", "lineage"])
def test_lru_over_released_blocks_equals_vllm(policy, real_trace):
    """Last to first, both are the order of vLLM >= 0.23, which is equal to the engine; no copies matter here."""
    trace = real_trace("mooncake_conversation")
    result = simulate(trace, policy, 2000, engine=ENGINE)
    expected = simulate(trace, "vllm", 2000)
    np.testing.assert_array_equal(result.hit_blocks_per_request, expected.hit_blocks_per_request)
