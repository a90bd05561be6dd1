"""Synthetic families against caches: each hurts or spares the policies it says it does."""

from __future__ import annotations

import numpy as np
import pytest

from sim.bounds import optimum
from sim.simulation import simulate
from workloads import Trace, load
from workloads.synthetic import (
    id_churn,
    loop,
    noisy_neighbour,
    priority_noise,
    recovery,
    returning_chat,
    stale_popularity,
    zero_reuse,
)


def hits(trace: Trace, policy: str, capacity: float) -> float:
    return simulate(trace, policy, capacity).hit_rate


@pytest.mark.parametrize("name", ["loop", "cyclic_working_set_pressure", "cyclic_working_set_pressure_shifted"])
def test_a_loop_over_capacity_gives_lru_nothing_but_the_root(name: str) -> None:
    trace = load(f"synthetic:{name}?seed=1&requests=600&loop_blocks=6000&prompt_tokens=2000&root_tokens=32")
    assert hits(trace, "vllm", 5_400) < 0.05
    assert optimum(trace, 5_400).hit_rate > 0.55
    assert hits(loop(1, requests=600, loop_blocks=6_000, prompt_tokens=2_000.0), "vllm", 7_000) > 0.8


def test_counts_of_stale_documents_make_lfu_lose_to_lru() -> None:
    trace = stale_popularity(1, requests=1_500, documents=30, document_tokens=2_000.0)
    assert hits(trace, "zoo:lfu", 4_000) < hits(trace, "vllm", 4_000) - 0.25


def test_ids_that_change_make_lfu_lose_to_lru() -> None:
    trace = id_churn(1, requests=2_000, lifetime_s=80.0)
    assert hits(trace, "zoo:lfu", 0.1) < hits(trace, "vllm", 0.1) - 0.05


def test_what_is_never_reused_is_never_hit() -> None:
    trace = zero_reuse(1, requests=100)
    assert optimum(trace, 1.0).hit_rate == 0.0
    assert {hits(trace, policy, 0.5) for policy in ("vllm", "zoo:lfu", "zoo:arc", "zoo:s3-fifo")} == {0.0}


@pytest.mark.parametrize("policy", ["zoo:arc", "zoo:s3-fifo"])
def test_scan_resistant_policies_keep_the_hot_set(policy: str) -> None:
    hot = recovery(1, requests=1_200, hot_prompts=30, hot_tokens=2_000.0)
    for trace, capacity in ((hot, 4_500), (priority_noise(1, requests=1_000), 0.1)):
        assert hits(trace, policy, capacity) > hits(trace, "vllm", capacity) + 0.05


def test_the_noisy_neighbour_takes_hits_from_the_others() -> None:
    quiet, loud = (noisy_neighbour(1, requests=n, noisy_share=share) for n, share in ((500, 0.0), (1_000, 0.4)))
    kept = np.flatnonzero(loud.tenant > 0)[:400]
    alone, beside = (simulate(trace, "vllm", 6_000).hit_blocks_per_request for trace in (quiet, loud))
    assert beside[kept].sum() < 0.8 * alone[:400].sum()


def test_a_cache_that_outlasts_a_visit_does_not_outlast_a_day() -> None:
    trace = returning_chat(1, requests=3_000, sessions_per_s=0.004)
    small, large = hits(trace, "vllm", 0.02), hits(trace, "vllm", 0.5)
    assert 0.2 < small < large - 0.05
