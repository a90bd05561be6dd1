"""Spatial samples: whole groups, nested, the trunk kept, caches shrunk; and how far estimates lie from the truth."""

from __future__ import annotations

import numpy as np
import pytest
from small_traces import hand_trace

import sim
from workloads import TraceError, load
from workloads.sampling import groups, spatial_sample, trunk

ERRORS = {
    "mooncake_conversation": {1 / 2: 1.0, 1 / 4: 2.5, 1 / 10: 4.0},
    "cc_weka_v8": {1 / 2: 2.5, 1 / 4: 4.0, 1 / 10: 7.0},
}
"""Upper limits of the mean absolute error in points of hit rate; about twice what was measured."""


@pytest.fixture(scope="module")
def families():
    """Return 300 families of two requests behind one system prompt (block 0) without sessions."""
    prompts = [[0, 1 + 2 * i][: 1 + (i % 7 > 0)] + [2 + 2 * i] * (i % 7 > 0) for i in range(300) for _ in range(2)]
    return hand_trace(prompts, [10 * len(prompt) + 1 for prompt in prompts])


def test_a_dominating_prefix_is_trunk_not_a_group(families):
    assert np.flatnonzero(trunk(families)).tolist() == [0]
    labels = groups(families)
    per_family = labels.reshape(300, 2)
    own = np.arange(300) % 7 > 0
    assert (per_family[own, 0] == per_family[own, 1]).all()
    assert len(np.unique(labels)) == own.sum() + 2 * (~own).sum()  # nothing but trunk: each request by itself


def test_groups_are_kept_whole_and_nested(families):
    labels = groups(families)
    before = np.zeros(0, np.int64)
    for rate in (0.1, 0.25, 0.5, 1.0):
        sample = spatial_sample(families, rate, seed=3)
        kept = np.isin(np.arange(families.n_requests), sample.requests)
        assert all(kept[labels == label].all() or not kept[labels == label].any() for label in np.unique(labels))
        assert np.isin(before, sample.requests).all()
        before = sample.requests
        share = len(np.unique(labels[kept])) / len(np.unique(labels))
        assert share == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / 300))
        assert sample.trace.fingerprint == spatial_sample(families, rate, seed=3).trace.fingerprint
    assert len(before) == families.n_requests


def test_the_cache_shrinks_as_the_distinct_blocks_do(families):
    sample = spatial_sample(families, 0.25)
    assert sample.share == sample.trace.n_blocks / families.n_blocks
    assert sample.capacity(families.n_blocks) == sample.trace.n_blocks
    assert sample.capacity(1) == 1


def test_sessions_are_groups():
    trace = hand_trace([[i] for i in range(40)], [11] * 40, session=[i % 5 - 1 for i in range(40)])
    labels = groups(trace)
    known = trace.session >= 0
    assert len(np.unique(labels[known])) == 4
    assert len(np.unique(labels[~known])) == 8


def test_rates_out_of_range(families):
    for rate in (0.0, 1.5, 1e-9):
        with pytest.raises(TraceError, match="rate"):
            spatial_sample(families, rate)


def test_a_sampled_sweep_replays_the_sample_in_shrunken_caches():
    trace = load("synthetic:chat?seed=3&requests=600")
    sample = spatial_sample(trace, 0.5, seed=1)
    swept = sim.sweep(trace, ["lru", "lru-flat"], "5%,50%", sample=0.5, seed=1, warmup="50%")
    for capacity in swept.capacities:
        point = swept.points["lru", capacity]
        assert point.replayed_blocks == sample.capacity(capacity)
        assert point.peak_used_blocks == sim.simulate(sample.trace, "lru", point.replayed_blocks).peak_used_blocks
    assert swept.counted_requests == (sample.requests >= trace.n_requests // 2).sum()
    assert "an estimate" in str(swept)
    whole = sim.sweep(trace, ["lru", "lru-flat"], "5%,50%", warmup="50%")
    with pytest.raises(ValueError, match="cannot resume: sample"):
        sim.sweep(trace, ["lru"], "5%", sample=0.5, warmup="50%", done=whole)


@pytest.mark.parametrize("name", list(ERRORS))
def test_estimates_lie_near_the_truth(real_trace, name):
    limits = ERRORS[name]
    error = sim.sampling_error(real_trace(name), tuple(limits), range(2), ["lru-flat"], "1%,5%,20%")
    for policy in ("vllm", "lru-flat"):
        assert all(found < limit for found, limit in zip(error.mean_absolute(policy), limits.values(), strict=True))
    assert "points of hit rate, 2 seeds" in str(error)


def test_the_whole_trace_is_its_own_sample():
    trace = load("synthetic:chat?seed=3&requests=600")
    error = sim.sampling_error(trace, (1.0,), (0,), ["lru"], "5%,50%")
    assert (error.points == 0).all()


def test_the_warm_up_of_a_sampled_sweep_is_of_the_whole_trace():
    trace = load("synthetic:chat?seed=3&requests=300")
    kept = spatial_sample(trace, 0.5, seed=1).requests
    swept = sim.sweep(trace, capacities="5%", sample=0.5, seed=1, warmup=200)
    assert swept.counted_requests == (kept >= 200).sum() < len(kept)
    alone = hand_trace([[i] for i in range(40)], [11] * 40)
    seed = next(seed for seed in range(99) if spatial_sample(alone, 0.5, seed).requests[-1] < 39)
    with pytest.raises(ValueError, match="leaves nothing of the sample"):
        sim.sweep(alone, capacities=3, sample=0.5, seed=seed, warmup=39)
