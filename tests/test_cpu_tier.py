"""The CPU tier of vLLM: recorded hits, hand traces, the kernels against their twins, all-or-nothing, conservation."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import golden_arrays
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces
from test_lmcache import HOOKS, USER, examples, priority
from twin_chunks import twin_chunks
from twin_cpu_tier import twin_cpu_tier

from sim.engines.chunks import run_chunks
from sim.integrity import check_integrity
from sim.options import Options
from sim.prepared import prepare
from sim.simulation import simulate

ENGINE = "vllm-cpu-tier"
KEYS = [f"vllm033_cpu_{policy}_thr{n}_{cap}" for policy in ("lru", "arc") for n in (1, 2) for cap in (2000, 10000)]


# ---- recorded hits -----------------------------------------------------------------------------------------------


def test_every_recorded_array_is_listed():
    assert sorted(golden_arrays("vllm033_cpu_tier.npz")) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_hits_equal_the_engine(key, real_trace):
    _, _, policy, threshold, capacity = key.split("_")
    spec = f"{ENGINE}?store_threshold={threshold.removeprefix('thr')}"
    result = simulate(real_trace("mooncake_conversation"), policy, int(capacity), engine=spec)
    np.testing.assert_array_equal(result.hit_blocks_per_request, golden_arrays("vllm033_cpu_tier.npz")[key])


def test_lru_as_a_user_policy_predicts_the_engine(real_trace):
    result = simulate(real_trace("mooncake_conversation"), priority("block.released"), 2000, engine=ENGINE)
    expected = golden_arrays("vllm033_cpu_tier.npz")["vllm033_cpu_lru_thr1_2000"]
    np.testing.assert_array_equal(result.hit_blocks_per_request, expected)


def test_admission_as_a_user_policy_predicts_the_engine(real_trace):
    """`store_threshold=2` in the contract; neither the tracker nor the ghost list may forget for this."""
    trace = real_trace("mooncake_conversation")
    second = priority("block.released", "def admit(block, request, cache):\n    return block.seen >= 2.0\n")
    native = simulate(trace, "lru", 2000, engine=ENGINE, store_threshold=2, max_tracker_size=1_000_000)
    user = simulate(trace, second, 2000, engine=ENGINE, ghost_blocks=1_000_000)
    np.testing.assert_array_equal(user.hit_blocks_per_request, native.hit_blocks_per_request)
    assert user.admitted_blocks == native.admitted_blocks
    assert 0 < user.admitted_blocks < user.looked_up_blocks / 3


# ---- by hand -----------------------------------------------------------------------------------------------------


def run(prompts, capacity, policy="lru", tokens=None, **options):
    tokens = [10 * len(prompt) + 5 for prompt in prompts] if tokens is None else tokens
    return simulate(hand_trace(prompts, tokens), policy, capacity, engine=ENGINE, **options)


def hits(*arguments, **options):
    return run(*arguments, **options).hit_blocks_per_request.tolist()


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_deeper_blocks_leave_first(policy):
    # Unlike LMCache, even without a hit: [3] evicts 2, the deepest, so 0 and 1 are found.
    assert hits([[0, 1, 2], [3], [0, 1, 2]], 3, policy) == [0, 0, 2]


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_a_store_is_all_or_nothing(policy):
    # 4 blocks do not fit in 3 places: nothing is stored and nothing evicted; [0, 1] is still there afterwards.
    result = run([[0, 1], [2, 3, 4, 5], [0, 1]], 3, policy)
    assert result.hit_blocks_per_request.tolist() == [0, 0, 2]
    assert (result.admitted_blocks, result.bypassed_blocks, result.evicted_blocks) == (2, 4, 0)


def test_offered_blocks_are_protected():
    # Capacity 3. Request 1 stores 3: evicts 2, the oldest. Then [4] evicts 1 and [5] evicts 0: left 3, 4, 5.
    # Request 4 offers 3, 6, 7 behind nothing: 3 is there and protected, so room for 6 and 7 comes from 4 and 5.
    result = run([[0, 1, 2], [3], [4], [5], [3, 6, 7]], 3)
    assert result.hit_blocks_per_request.tolist() == [0, 0, 0, 0, 1]
    # By then 3 was a hit (loaded, not offered), so it is the most recent: 4 and 5 leave all the same.
    assert result.evicted_blocks == 5
    # With the last token in block 3 it cannot be loaded: it is offered, protected, and nothing else is missing.
    assert run([[3], [4], [3]], 1, tokens=[15, 15, 10]).evicted_blocks == 2


def test_what_was_loaded_can_be_evicted_for_the_same_request():
    # 0, 1 loaded; 2, 3 need 2 places of 3, one is free: the deepest loaded block, 1, leaves; 2 and 3 cannot be reached.
    assert hits([[0, 1], [0, 1, 2, 3], [0, 1, 2, 3]], 3) == [0, 2, 1]


def test_the_threshold_counts_offers():
    # Stored at the second offer, so found at the third request; 0 and 1 mean no admission control.
    assert hits([[0, 1]] * 4, 4, store_threshold=2) == [0, 0, 2, 2]
    assert hits([[0, 1]] * 4, 4, store_threshold=3) == [0, 0, 0, 2]
    assert hits([[0, 1]] * 4, 4, store_threshold=1) == hits([[0, 1]] * 4, 4) == [0, 2, 2, 2]


def test_the_tracker_forgets_the_least_recently_offered():
    # One entry: 1 replaces 0, so the second offer of 0 counts as its first.
    assert hits([[0], [1], [0], [0]], 4, store_threshold=2, max_tracker_size=1) == [0, 0, 0, 0]
    assert hits([[0], [1], [0], [0]], 4, store_threshold=2, max_tracker_size=2) == [0, 0, 0, 1]
    # An offer of two into one entry: the first is counted, the second finds only entries of its own offer.
    assert hits([[0, 1], [0, 1], [0, 1]], 4, store_threshold=2, max_tracker_size=1) == [0, 0, 1]


def test_arc_keeps_what_was_used_twice():
    # 0 is loaded once: T2. 1, 2 pass through T1 (target 0: T1 leaves first), so 0 is found at the end; LRU loses it.
    prompts = [[0], [0], [1], [2], [3], [0]]
    assert hits(prompts, 2, "arc")[-1] == 1
    assert hits(prompts, 2, "lru")[-1] == 0


def test_behind_a_gpu_pool():
    # GPU 2 blocks, tier 4. [0], [1], [2] each take a GPU block and its partial tail: the GPU keeps none but the last
    # full block; the tier keeps all. Request 3 finds 0 in the tier only; request 4 finds it on the GPU.
    result = run([[0], [1], [2], [0], [0]], 4, gpu_blocks=2)
    assert result.hit_blocks_per_request.tolist() == [0, 0, 0, 1, 1]
    assert result.tier_hit_blocks == {"gpu_hit_blocks": 1, "cpu_hit_blocks": 1}
    assert result.tier_hits_per_request["cpu"].tolist() == [0, 0, 0, 1, 0]
    assert result.to_dict()["tier_hit_blocks"] == result.tier_hit_blocks
    assert result.to_dict(per_request=True)["tier_hits_per_request"]["gpu"] == [0, 0, 0, 0, 1]


def test_a_request_too_large_for_the_gpu_is_not_served():
    result = run([[0, 1, 2], [0]], 4, gpu_blocks=2)
    assert result.hit_blocks_per_request.tolist() == [-1, 0]
    assert result.unserved_requests == 1
    assert run([[0, 1, 2], [0]], 4).unserved_requests == 0


def test_a_gpu_hit_touches_the_tier_when_nothing_is_loaded():
    # Tier 2, GPU 4 blocks. Request 2 hits 0 on the GPU and so offers its whole prompt: 0 is then the most recent,
    # [2] evicts 1. [5, 6, 7] empties the GPU and does not fit in the tier. Then 0 comes from the tier.
    tiers = run([[0], [1], [0], [2], [5, 6, 7], [0]], 2, gpu_blocks=4).tier_hits_per_request
    assert tiers["gpu"].tolist() == [0, 0, 1, 0, 0, 0]
    assert tiers["cpu"].tolist() == [0, 0, 0, 0, 0, 1]


def test_what_is_refused():
    with pytest.raises(ValueError, match="mode='serial' only"):
        run([[0]], 2, mode="overlap")
    with pytest.raises(ValueError, match="decode='none' only"):
        run([[0]], 2, decode="infer")
    for bad in ({"store_threshold": -1}, {"max_tracker_size": 0}, {"gpu_blocks": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            run([[0]], 2, **bad)
    with pytest.raises(ValueError, match=r"block\.seen"):
        run([[0]], 2, priority("block.released"), store_threshold=2)


# ---- twins and laws ----------------------------------------------------------------------------------------------

gpu_pools = st.sampled_from([0, 0, 3, 8, 20])


@examples(400)
@given(
    random_traces(most_requests=60, outputs=False),
    st.integers(1, 25),
    st.sampled_from(["lru", "arc"]),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([1, 2, 5, 64_000]),
    gpu_pools,
)
def test_native_equals_its_twin(trace, capacity, policy, threshold, most, gpu_blocks):
    options = {"store_threshold": threshold, "max_tracker_size": most, "gpu_blocks": gpu_blocks}
    result = simulate(trace, policy, capacity, engine=ENGINE, **options)
    on_gpu = simulate(trace, "vllm", gpu_blocks).hit_blocks_per_request.tolist() if gpu_blocks else None
    expected, stored = twin_cpu_tier(trace, policy, capacity, threshold, most, on_gpu)
    assert result.hit_blocks_per_request.tolist() == expected
    assert result.resident_blocks == len(stored) == result.admitted_blocks - result.evicted_blocks
    assert result.peak_resident_blocks <= capacity
    assert result.looked_up_blocks == result.hit_blocks + result.admitted_blocks + result.bypassed_blocks
    if gpu_blocks:
        tiers = result.tier_hits_per_request
        assert tiers["gpu"].tolist() == on_gpu
        served = result.hit_blocks_per_request >= 0
        np.testing.assert_array_equal((tiers["gpu"] + tiers["cpu"])[served], result.hit_blocks_per_request[served])


ADMIT = "def admit(block, request, cache):\n    return block.seen >= 2.0 or request.new_blocks < 3.0\n"
POLICIES = (*USER, ("block.released", ADMIT), ("block.s0 - block.depth", *HOOKS, ADMIT), ("block.age", *HOOKS))


@examples(250)
@given(
    random_traces(most_requests=40, outputs=False),
    st.integers(1, 20),
    st.sampled_from(POLICIES),
    st.sampled_from([0, 2, 1000]),
    gpu_pools,
)
def test_user_policy_equals_its_twin(trace, capacity, parts, ghosts, gpu_blocks):
    policy, options = priority(*parts), Options(engine=ENGINE, ghost_blocks=ghosts)
    prepared = prepare(trace)
    on_gpu = simulate(trace, "vllm", gpu_blocks).hit_blocks_per_request if gpu_blocks else None
    outcome = run_chunks(prepared, policy, capacity, options, True, on_gpu, log_evictions=10_000)
    twin = twin_chunks(trace, policy.policy, capacity, options, True, None if on_gpu is None else on_gpu.tolist())
    assert outcome.hits.tolist() == twin.hits
    state, n = outcome.state, outcome.logged
    assert list(zip(state.log_request[:n].tolist(), state.log_block[:n].tolist(), strict=True)) == twin.evictions
    assert outcome.counts["admitted_blocks"] == twin.admitted
    if on_gpu is None:
        check_integrity(prepared, outcome, capacity, serves_all=True)


@examples(100)
@given(random_traces(most_requests=60, outputs=False), st.integers(1, 25), gpu_pools)
def test_lru_natively_and_as_a_user_policy_are_equal(trace, capacity, gpu_blocks):
    native = simulate(trace, "lru", capacity, engine=ENGINE, gpu_blocks=gpu_blocks)
    user = simulate(trace, priority("block.released"), capacity, engine=ENGINE, gpu_blocks=gpu_blocks)
    assert native.hit_blocks_per_request.tolist() == user.hit_blocks_per_request.tolist()
    assert native.evicted_blocks == user.evicted_blocks
