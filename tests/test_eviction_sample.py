"""Evictions from a few random candidates: deterministic, legal, exact in the limit, near the exact hit rate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_traces import random_traces

from sim.engines import VLLM
from sim.integrity import check_integrity
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy
from sim.simulation import Options, run_policy, simulate
from workloads import load

MANY = 2_000
"""Draws that leave out none of 30 candidates, but for a chance below 1e-28."""

SOURCES = {
    "when candidate": "def priority(block, cache):\n    return block.released * 0.5 + block.hits\n",
    "at eviction": "def priority(block, cache):\n    return -block.age * (1.0 + block.depth)\n",
    "at release": 'SCORING = "touch"\n\n\ndef priority(block, cache):\n    return block.last_access + block.depth\n',
}
COMPILED = {name: compile_policy(Policy.from_source(source, name)) for name, source in SOURCES.items()}


@settings(max_examples=150)
@given(random_traces(), st.sampled_from(sorted(SOURCES)), st.integers(1, 25), st.booleans(), st.booleans())
def test_many_draws_are_exact(trace, name, capacity, orphans, overlap):
    chosen = {"orphans": orphans, "mode": "overlap" if overlap else "serial", "decode": "infer"}
    prepared = prepare(trace, "infer")
    exact = run_policy(prepared, COMPILED[name], capacity, Options(**chosen), log_evictions=500)
    drawn = run_policy(prepared, COMPILED[name], capacity, Options(**chosen, eviction_sample=MANY), log_evictions=500)
    assert drawn.hits.tolist() == exact.hits.tolist()
    evictions = [run.state.log_block[: run.logged].tolist() for run in (exact, drawn)]
    assert evictions[0] == evictions[1]


@settings(max_examples=150)
@given(random_traces(), st.sampled_from(sorted(SOURCES)), st.integers(1, 25), st.integers(1, 3), st.booleans())
def test_few_draws_leave_a_sound_cache(trace, name, capacity, sample, orphans):
    options = Options(orphans=orphans, decode="infer", eviction_sample=sample, eviction_seed=7)
    prepared = prepare(trace, "infer")
    check_integrity(prepared, run_policy(prepared, COMPILED[name], capacity, options), capacity)


def test_equal_seeds_are_equal_and_others_are_not():
    trace = load("synthetic:chat?seed=3&requests=600")
    runs = [simulate(trace, "lru", "5%", eviction_sample=2, eviction_seed=seed) for seed in (0, 0, 1)]
    hits = [run.hit_blocks_per_request.tolist() for run in runs]
    assert hits[0] == hits[1] != hits[2]
    assert runs[0].evicted_blocks > 0


@pytest.mark.parametrize("name", ["lru", "gdsf", "lru_frequency"])
def test_sixty_four_draws_are_near_the_exact_hit_rate(real_trace, name):
    """Measured on conversation at 2, 5 and 10 %: 64 draws within 0.15 points, 5 draws within 1.8."""
    trace, policy = real_trace("mooncake_conversation"), compile_policy(load_policy(name))
    exact = simulate(trace, policy, "5%").hit_rate
    assert simulate(trace, policy, "5%", eviction_sample=64).hit_rate == pytest.approx(exact, abs=0.003)
    assert simulate(trace, policy, "5%", eviction_sample=5).hit_rate == pytest.approx(exact, abs=0.03)


def test_what_cannot_sample_says_so():
    trace = load("synthetic:chat?seed=3&requests=50")
    with pytest.raises(ValueError, match="eviction_sample must be"):
        simulate(trace, "lru", "5%", eviction_sample=-1)
    for policy, engine in (("vllm", VLLM[0]), ("zoo:arc", VLLM[0]), ("lru", "sglang"), ("slru", "sglang")):
        with pytest.raises(ValueError, match="eviction_sample is for user policies"):
            simulate(trace, policy, 200, engine=engine, eviction_sample=5)
