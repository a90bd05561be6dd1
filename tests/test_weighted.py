"""Weighted bounds: the exact best lies between them, unit values give the unit optimum, prices certify."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from brute_force import exhaustive
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces
from test_twin import examples

from sim import cli, weighted
from sim.bounds import optimum
from sim.simulation import simulate
from sim.value import depth_values
from sim.weighted import intervals, weighted_bound
from workloads.models import MODELS, KvShape, Model

STEEP = Model(1.0, 1_000, KvShape(1, 1, 1))
"""Attention outweighs everything: what to keep depends on the depth."""


@examples(120)
@given(random_traces(most_requests=8, outputs=False), st.integers(1, 8), st.sampled_from(["flops", "seconds"]))
def test_the_exact_best_lies_between_the_bounds(trace, capacity, objective):
    deepest = max(1, int(trace.full_blocks.max(initial=0)))
    with patch.dict(MODELS, steep=STEEP):
        values = depth_values(objective, deepest, trace.block_tokens, "steep")
        bound = weighted_bound(trace, capacity, objective, "steep")
    exact = exhaustive(trace, capacity, values)
    slack = 1e-9 * max(bound.upper, 1.0)
    assert bound.greedy <= bound.lower + slack
    assert bound.lower <= exact + slack
    assert exact <= bound.upper + slack
    assert bound.upper <= bound.ceiling + slack


@examples(120)
@given(random_traces(outputs=False), st.integers(1, 25))
def test_tokens_give_the_unit_optimum(trace, capacity):
    bound, unit = weighted_bound(trace, capacity, "tokens"), optimum(trace, capacity)
    assert bound.upper == pytest.approx(unit.hit_tokens)
    assert bound.lower == bound.greedy == unit.hit_tokens


@examples(80)
@given(random_traces(outputs=False), st.integers(1, 25), st.data())
def test_any_prices_certify(trace, capacity, data):
    found = intervals(trace, capacity)
    n = trace.n_requests
    prices = np.array(data.draw(st.lists(st.floats(0, 1e3), min_size=n, max_size=n)))
    ceiling = weighted._certified(found, np.full(found.last.size, float(trace.block_tokens)), prices)
    assert ceiling >= optimum(trace, capacity).hit_tokens - 1e-6


def test_coarse_classes_keep_the_bounds_valid(monkeypatch):
    trace = hand_trace([[0, 1, 2], [3, 4], [0, 1, 2], [5], [3, 4], [0, 1, 2]], [31, 21, 31, 11, 21, 31])
    fine = weighted_bound(trace, 6, "flops")
    monkeypatch.setattr(weighted, "MOST_ARCS", 1)
    coarse = weighted_bound(trace, 6, "flops")
    assert coarse.arcs < fine.arcs
    assert coarse.lower <= fine.upper * (1 + 1e-12)
    assert fine.lower <= coarse.upper * (1 + 1e-12)


def test_by_hand():
    # Block 0 (depth 0), then 1, then 2 between its uses; 4 places, prompts of one block and a tail: 2 places. While 1
    # and 2 run, 2 places are left: 0 and 1 are both kept. In 3 places only one is: equal values, so 1 of 2 hits.
    trace = hand_trace([[0], [1], [2], [1], [0]], [11] * 5)
    assert weighted_bound(trace, 4, "tokens").upper == pytest.approx(20.0)
    assert weighted_bound(trace, 3, "tokens").upper == pytest.approx(10.0)


def test_values_by_hand():
    model = MODELS["llama-3.1-8b"]
    flops = depth_values("flops", 3, 16)
    # Depth 2: 16 tokens with 2 * 8.03e9 FLOPs and 4 * 32 * 4096 for each of 40 tokens before them on average.
    assert flops[2] == 16 * (2 * 8.03e9 + 4 * 32 * 4096 * 40)
    assert depth_values("seconds", 3, 16, flops_per_s=2.0)[2] == flops[2] / 2
    assert depth_values("bytes", 2, 16).tolist() == [16.0 * model.kv.bytes_per_token()] * 2
    with pytest.raises(ValueError, match="unknown objective 'flop'"):
        depth_values("flop", 1, 16)
    with pytest.raises(ValueError, match=r"did you mean 'llama-3\.1-8b'"):
        depth_values("flops", 1, 16, "llama-3.1-8")
    with pytest.raises(ValueError, match="flops_per_s must be positive"):
        depth_values("seconds", 1, 16, flops_per_s=0.0)


def test_a_trace_without_reuse_saves_nothing():
    bound = weighted_bound(hand_trace([[0], [1]], [11, 11]), 5, "flops")
    assert (bound.upper, bound.lower, bound.ceiling, bound.gap) == (0.0, 0.0, 0.0, 0.0)


def test_on_recorded_traffic(real_trace):
    conversation = real_trace("mooncake_conversation")
    bound = weighted_bound(conversation, "1%", "tokens")
    assert bound.upper == pytest.approx(bound.lower) == optimum(conversation, "1%").hit_tokens
    flops = weighted_bound(conversation, "1%", "flops")
    assert 0 < flops.gap < 0.06
    values = depth_values("flops", int(conversation.full_blocks.max()), conversation.block_tokens)
    saved = np.concatenate([[0.0], np.cumsum(values)])
    for policy in ("native", "gdsf"):
        hits = simulate(conversation, policy, "1%").hit_blocks_per_request
        assert saved[hits].sum() < flops.lower


def test_the_verb(capsys):
    assert (
        cli.main(["bounds", "synthetic:chat?seed=1&requests=300", "--capacities", "5%,400", "--objective", "flops"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("flops: FLOPs of prefill saved")
    assert [line.split()[0] for line in lines[-2:]] == ["5%", "400"]
