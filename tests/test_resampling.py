"""The cluster bootstrap: sums, pairing, intervals against what theory says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from small_traces import random_traces

from sim.resampling import CLUSTERINGS, SAMPLES, SEED, Draws, draw, interval, windows
from workloads import Trace


def drawn(labels: object, samples: int = SAMPLES, seed: int = SEED) -> Draws:
    """Draw with a generator of its own."""
    return draw(labels, np.random.default_rng(seed), samples)  # type: ignore[arg-type]


def test_as_many_clusters_as_there_are_are_drawn_whole() -> None:
    draws = drawn([5, 5, 9, 9, 9, -1], samples=200)
    assert np.array_equal(draws.counts.sum(axis=1), np.full(200, 3.0))
    sizes = draws.sums(np.ones(6))
    assert np.array_equal(sizes, draws.counts @ [1, 2, 3])  # labels -1, 5, 9
    assert np.array_equal(draws.sums([2.0] * 6), 2 * sizes)  # paired


def test_draws_repeat_with_the_seed() -> None:
    assert np.array_equal(drawn(range(50), 20, seed=3).counts, drawn(range(50), 20, seed=3).counts)
    assert not np.array_equal(drawn(range(50), 20, seed=3).counts, drawn(range(50), 20, seed=4).counts)


def test_one_trace_after_another_is_drawn_independently() -> None:
    generator = np.random.default_rng(SEED)
    one, other = draw(range(32), generator), draw(range(32), generator)
    assert abs(np.corrcoef(one.counts[:, 0], other.counts[:, 0])[0, 1]) < 0.1


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    draws = drawn(np.arange(400), 4000)
    low, high = interval(draws.sums(values) / 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_requests_of_one_cluster_do_not_count_as_many() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=20), 50)
    clustered, each = drawn(np.repeat(np.arange(20), 50), 2000), drawn(np.arange(1000), 2000)
    wide, narrow = (interval(draws.sums(values) / draws.sums(np.ones(1000))) for draws in (clustered, each))
    assert wide[1] - wide[0] > 4 * (narrow[1] - narrow[0])


def test_what_is_no_number_is_left_out() -> None:
    assert interval([np.nan, 1.0, np.inf, 1.0]) == (1.0, 1.0)


@pytest.mark.parametrize(("labels", "samples"), [([], 5), ([1], 0)])
def test_nothing_to_draw_is_refused(labels: list[int], samples: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        drawn(labels, samples)


@pytest.mark.parametrize(("values", "confidence"), [([], 0.9), ([np.nan], 0.9), ([1.0], 1.0)])
def test_no_interval_of_nothing(values: list[float], confidence: float) -> None:
    with pytest.raises(ValueError, match="expected some"):
        interval(values, confidence)


@given(random_traces())
def test_every_request_is_in_one_cluster(trace: Trace) -> None:
    for cluster in CLUSTERINGS.values():
        labels = cluster(trace)
        assert labels.shape == (trace.n_requests,)
        assert set(labels.tolist()) == set(range(labels.max() + 1))
    assert (np.diff(windows(trace)) >= 0).all()
