"""Exact hits of every baseline: on the real conversation trace, and on a generated one that needs no data."""

from __future__ import annotations

import pytest
from small_traces import dialogue_trace

from sim.bounds import optimum
from sim.integrity import check_integrity
from sim.policy.compiler import compile_policy
from sim.prepared import prepare
from sim.registry import BASELINES, load_policy
from sim.simulation import Options, run_policy, simulate

CAPACITIES = (1_000, 5_000, 10_000)

CONVERSATION = {
    "vllm": (12_988, 34_185, 62_001),
    "fifo": (12_984, 33_420, 60_513),
    "gdsf": (15_421, 41_688, 63_356),
    "lfu_aging": (15_815, 41_347, 67_844),
    "lru": (12_988, 34_185, 62_001),
    "lru_depth": (16_286, 38_975, 57_568),
    "lru_frequency": (19_441, 48_717, 63_678),
    "second_touch": (16_092, 47_947, 59_446),
    "slru": (13_886, 26_736, 38_035),
}
"""Hit blocks at 1,000, 5,000 and 10,000 blocks of 512 tokens, serial, decode not modelled, ghost list 64,000."""

GENERATED = {
    "vllm": (6_662, 9_203, 9_267),
    "fifo": (6_645, 9_184, 9_269),
    "gdsf": (7_667, 9_512, 9_559),
    "lfu_aging": (7_634, 9_460, 9_491),
    "lru": (6_662, 9_203, 9_269),
    "lru_depth": (5_312, 6_887, 8_086),
    "lru_frequency": (7_348, 9_500, 9_582),
    "second_touch": (7_222, 9_418, 9_305),
    "slru": (7_534, 8_580, 9_525),
}
"""Hit blocks at 60 and 200 blocks, serial; then 200 blocks, overlap, inferred decode."""


@pytest.fixture(scope="module")
def generated():
    return dialogue_trace()


def test_every_baseline_has_expected_hits():
    assert set(CONVERSATION) == set(GENERATED) == {"vllm", *BASELINES}


@pytest.mark.parametrize("name", CONVERSATION)
def test_hits_on_the_conversation_trace(name, real_trace):
    trace = real_trace("mooncake_conversation")
    policy = name if name == "vllm" else compile_policy(load_policy(name))
    hits = tuple(simulate(trace, policy, capacity).hit_blocks for capacity in CAPACITIES)
    assert hits == CONVERSATION[name]


@pytest.mark.parametrize("name", GENERATED)
def test_hits_on_a_generated_trace(name, generated):
    policy = name if name == "vllm" else compile_policy(load_policy(name))
    serial = [simulate(generated, policy, capacity).hit_blocks for capacity in (60, 200)]
    overlap = simulate(generated, policy, 200, mode="overlap", decode="infer", prefill_tokens_per_s=2_000.0)
    assert (*serial, overlap.hit_blocks) == GENERATED[name]


def test_optimum_on_a_generated_trace(generated):
    assert [optimum(generated, capacity).hit_blocks for capacity in (60, 200, 10_000)] == [8_668, 11_043, 11_392]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_the_laws(name, generated):
    for options in (Options(), Options(orphans=True), Options(mode="overlap", decode="infer", ghost_blocks=50)):
        prepared = prepare(generated, options.decode)
        outcome = run_policy(prepared, compile_policy(load_policy(name)), 100, options)
        check_integrity(prepared, outcome, 100)
        assert outcome.counts["evicted_blocks"] > 0
