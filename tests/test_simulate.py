"""`simulate`: what it takes, what it refuses, and what it reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_traces import hand_trace

from sim.policy.compiler import compile_policy
from sim.registry import load_policy
from sim.simulation import Options, parse_capacity, simulate
from workloads.kv_bytes import kv_bytes_per_token
from workloads.models import MODELS

# 3 blocks of 10 tokens; request 2 hits both blocks of request 0, request 1 is too large for 3 places.
TRACE = hand_trace([[0, 1], [0, 1, 2], [0, 1]], [21, 35, 25], output_tokens=[1, 1, 2])


@pytest.mark.parametrize(
    ("capacity", "blocks"),
    [
        (4096, 4096),
        ("4096", 4096),
        (0.05, 50),
        ("5%", 50),
        (" 5 % ", 50),
        ("100%", 1000),
        (1.0, 1),
        (0.0001, 1),
        (7.0, 7),
    ],
)
def test_capacity_in_blocks_or_as_a_share(capacity, blocks):
    assert parse_capacity(capacity, 1000) == blocks


@pytest.mark.parametrize("capacity", [0, -3, "0", "0%", "101%", 1.5, -0.1, "many", "", float("nan"), True, "5 %%"])
def test_capacity_that_makes_no_sense(capacity):
    with pytest.raises(ValueError, match="capacity"):
        parse_capacity(capacity, 1000)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engine": "tensorrt"}, "engine"),
        ({"mode": "parallel"}, "mode"),
        ({"decode": "guess"}, "decode"),
        ({"prefill_tokens_per_s": 0.0}, "prefill_tokens_per_s"),
        ({"decode_s_per_token": -1.0}, "decode_s_per_token"),
        ({"max_running": 0}, "max_running"),
        ({"ghost_blocks": -1}, "ghost_blocks"),
        ({"clock_origin": -1}, "clock_origin"),
    ],
)
def test_options_that_make_no_sense(options, word):
    with pytest.raises(ValueError, match=word):
        simulate(TRACE, "lru", 3, **options)


def test_policies_run_under_new_accounting_only():
    with pytest.raises(ValueError, match="runs its own policies only: vllm"):
        simulate(TRACE, "lru", 3, engine="vllm<=0.22")


def test_unknown_policies_get_a_suggestion():
    with pytest.raises(ValueError, match=r"did you mean 'slru'\?"):
        simulate(TRACE, "slr", 3)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match=r"no parameter 'ghosts'.*ghost_blocks"):
        simulate(TRACE, "lru", 3, ghosts=3)


def test_a_policy_may_be_a_name_a_file_a_policy_or_compiled(tmp_path):
    policy = load_policy("second_touch")
    path = tmp_path / "mine.py"
    path.write_text(policy.source)
    results = [simulate(TRACE, form, 3) for form in ("second_touch", path, str(path), policy, compile_policy(policy))]
    hits = [result.hit_blocks_per_request.tolist() for result in results]
    assert hits == [hits[0]] * 5
    assert [result.policy for result in results] == ["second_touch", "mine", "mine", "second_touch", "second_touch"]


def test_counters_by_hand():
    result = simulate(TRACE, "lru", 3)
    assert result.hit_blocks_per_request.tolist() == [0, -1, 2]
    assert (result.requests, result.unserved_requests, result.prompt_tokens) == (3, 1, 81)
    assert (result.hit_blocks, result.hit_tokens, result.looked_up_blocks) == (2, 20, 4)
    assert (result.admitted_blocks, result.bypassed_blocks, result.evicted_blocks) == (2, 0, 0)
    assert (result.resident_blocks, result.peak_resident_blocks, result.peak_used_blocks) == (2, 2, 3)
    assert result.mean_used_blocks == 3.0
    assert result.hit_rate == 20 / 81
    assert result.admitted_fraction == 1.0
    assert result.evictions_per_access == 0.0
    # Served prompts have 21 + 25 tokens, 20 of them were hit: 26 to prefill at 8,000 tokens/s.
    assert result.prefill_tokens == 26
    assert result.prefill_s == 26 / 8000
    assert result.prefill_s_saved == 20 / 8000
    assert result.latency is None


def test_native_and_contract_lru_report_the_same():
    native, contract = (simulate(TRACE, policy, 4, mode="overlap").to_dict() for policy in ("vllm", "lru"))
    for differs in ("policy", "priority_calls"):
        assert native.pop(differs) != contract.pop(differs)
    assert native == contract


def test_results_are_plain_data():
    result = simulate(TRACE, "gdsf", 3, mode="overlap")
    plain = json.loads(json.dumps(result.to_dict(per_request=True), allow_nan=False))
    assert plain["hit_blocks_per_request"] == [0, -1, 2]
    assert plain["start_s"] == [0.0, None, 2.0]
    assert plain["latency"]["ttft_mean_s"] == result.latency.ttft_mean_s
    assert "hit_blocks_per_request" not in result.to_dict()
    text = repr(result)
    for part in ("hand x gdsf", "capacity_blocks=3", "hit_tokens=20", "unserved_requests=1", "ttft_p95_s="):
        assert part in text


def test_a_trace_nobody_can_serve():
    result = simulate(TRACE, "lru", 1, mode="overlap")
    assert result.latency is None
    assert (result.unserved_requests, result.hit_rate, result.admitted_fraction) == (3, 0.0, 1.0)
    assert json.loads(json.dumps(result.to_dict(per_request=True), allow_nan=False))["start_s"] == [None] * 3


def test_kv_bytes_follow_the_model():
    result = simulate(TRACE, "lru", 3)
    assert result.kv_bytes(1000) == {"peak_kv_bytes": 3 * 10 * 1000, "mean_kv_bytes": 3.0 * 10 * 1000}
    name = next(iter(MODELS))
    assert result.kv_bytes(name)["peak_kv_bytes"] == 30 * kv_bytes_per_token(name)


def test_replays_repeat_byte_for_byte():
    rng = np.random.default_rng(0)
    prompts = [[*range(10 * (k := int(rng.integers(0, 30))), 10 * k + int(rng.integers(1, 10)))] for _ in range(300)]
    trace = hand_trace(prompts, [10 * len(prompt) + 3 for prompt in prompts])
    first, second = (simulate(trace, "gdsf", 40, mode="overlap").to_dict(per_request=True) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert first["evicted_blocks"] > 100


def test_options_are_read_only():
    with pytest.raises(AttributeError):
        Options().mode = "overlap"  # type: ignore[misc]
