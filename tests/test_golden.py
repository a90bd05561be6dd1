"""Hits recorded from released engines, request by request, and the published tables of the same trace."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import golden_arrays

from sim.bounds import ceiling, optimum
from sim.core import residency
from sim.engines import VLLM
from sim.integrity import check_integrity
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.simulation import Options, run_engine, run_policy, simulate

PATTERN = re.compile(
    r"vllm0(?P<version>33|22)_(?P<mode>serial|overlap\S*?)_(?P<decode>none|private|infer)_(?P<cap>\d+)"
)
KEYS = (
    *(f"vllm033_serial_none_{cap}" for cap in (1000, 5000, 10000)),
    "vllm033_serial_private_5000",
    "vllm033_serial_infer_5000",
    "vllm033_overlap_tpot0.02_ptps8000_none_5000",
    "vllm033_overlap_tpot0.02_ptps8000_infer_5000",
    *(f"vllm022_serial_none_{cap}" for cap in (1000, 5000, 10000)),
)
CAPACITIES = (500, 1_000, 2_000, 5_000, 10_000, 20_000)


@pytest.fixture(scope="session")
def golden():
    """Return the recorded hits by key; skips (in CI: fails) if they are not at hand."""
    return golden_arrays("vllm033.npz") | golden_arrays("vllm022.npz")


@pytest.fixture(scope="session")
def conversation(real_trace):
    return real_trace("mooncake_conversation")


def conditions(key: str) -> tuple[int, dict[str, str]]:
    match = PATTERN.fullmatch(key)
    assert match, key
    engine = VLLM[0] if match["version"] == "33" else VLLM[1]
    return int(match["cap"]), {"engine": engine, "mode": match["mode"].split("_")[0], "decode": match["decode"]}


def test_every_recorded_array_is_listed(golden):
    assert sorted(golden) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_native_lru_equals_the_engine(key, golden, conversation):
    capacity, options = conditions(key)
    result = simulate(conversation, "vllm", capacity, **options)
    np.testing.assert_array_equal(result.hit_blocks_per_request, golden[key])
    prepared, chosen = prepare(conversation, options["decode"]), Options(**options)
    check_integrity(prepared, run_engine(prepared, capacity, chosen), capacity)


SCORED = {
    "when candidate": (residency.WHEN_CANDIDATE, "def priority(block, cache):\n    return block.released\n"),
    "eviction": (residency.AT_EVICTION, "def priority(block, cache):\n    return block.released + 0.0 * cache.now\n"),
    "release": (
        residency.AT_RELEASE,
        'SCORING = "touch"\ndef priority(block, cache):\n    return block.released + 0.0 * cache.now\n',
    ),
}
"""LRU at each moment a score can be taken; without the reading of time it would be scored once in any case."""


@pytest.mark.parametrize("moment", SCORED)
@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith("vllm033") and "_none_" in key])
def test_contract_lru_equals_the_engine(key, moment, golden, conversation):
    capacity, options = conditions(key)
    scoring, source = SCORED[moment]
    prepared = prepare(conversation, options["decode"])
    outcome = run_policy(prepared, compile_policy(Policy.from_source(source)), capacity, Options(**options))
    assert outcome.rules.scoring == scoring
    np.testing.assert_array_equal(outcome.hits, golden[key])
    check_integrity(prepared, outcome, capacity)


def test_shipped_lru_equals_the_engine(golden, conversation):
    hits = simulate(conversation, "lru", 5_000).hit_blocks_per_request
    np.testing.assert_array_equal(hits, golden["vllm033_serial_none_5000"])


@pytest.mark.parametrize(
    ("key", "requests_that_differ", "hits_more"),
    [
        ("vllm033_serial_private_5000", 0, 0),
        ("vllm033_serial_infer_5000", 16, 21),
        ("vllm033_overlap_tpot0.02_ptps8000_infer_5000", 32, 210),
    ],
)
def test_contract_lru_with_decode_differs_from_the_engine_by(
    key, requests_that_differ, hits_more, golden, conversation
):
    """Measured. With inferred ids the contract keeps one copy of a block that is resident already, the engine both."""
    capacity, options = conditions(key)
    hits = simulate(conversation, "lru", capacity, **options).hit_blocks_per_request
    assert int((hits != golden[key]).sum()) == requests_that_differ
    assert int(hits.sum()) - int(golden[key].sum()) == hits_more


TABLE = {
    "block.released": (12_165, 12_988, 15_942, 34_185, 62_001, 84_689),
    "block.seen": (16_699, 22_318, 29_174, 40_789, 54_110, 72_117),
}


@pytest.mark.parametrize("score", TABLE)
def test_published_policy_tables(score, conversation):
    """Section 9 of the engine notes: hits of LRU, and of LFU with counts that survive eviction."""
    policy = compile_policy(Policy.from_source(f"def priority(block, cache):\n    return {score}\n"))
    hits = [simulate(conversation, policy, cap, ghost_blocks=1_000_000).hit_blocks for cap in CAPACITIES]
    assert tuple(hits) == TABLE[score]


def test_published_native_lru_table(conversation):
    """Section 8, first two rows."""
    for engine, cap, hits in (
        (VLLM[0], 2_000, 15_942),
        (VLLM[0], 20_000, 84_689),
        (VLLM[0], 50_000, 102_723),
        (VLLM[1], 2_000, 15_645),
        (VLLM[1], 20_000, 82_935),
        (VLLM[1], 50_000, 102_165),
    ):
        assert simulate(conversation, "vllm", cap, engine=engine).hit_blocks == hits


def test_published_decode_and_overlap_tables(conversation):
    """Section 8, decode and overlap rows, at capacities without recorded arrays."""
    for cap, private, infer, overlap, both in (
        (1_000, 12_878, 13_876, 12_890, 12_904),
        (2_000, 15_756, 16_792, 14_719, 14_681),
        (10_000, 61_238, 63_354, 62_017, 62_372),
        (20_000, 83_406, 86_384, 84_633, 85_676),
        (50_000, 102_226, 105_447, 102_735, 104_872),
    ):
        assert simulate(conversation, "vllm", cap, decode="private").hit_blocks == private
        assert simulate(conversation, "vllm", cap, decode="infer").hit_blocks == infer
        assert simulate(conversation, "vllm", cap, mode="overlap").hit_blocks == overlap
        assert simulate(conversation, "vllm", cap, mode="overlap", decode="infer").hit_blocks == both


def test_published_optimum_table(conversation):
    """Section 9, row Belady, and the infinite cache."""
    expected = (33_203, 51_666, 71_894, 97_903, 105_592, 105_592)
    assert tuple(optimum(conversation, cap).hit_blocks for cap in CAPACITIES) == expected
    assert ceiling(conversation).hit_blocks == 105_592
