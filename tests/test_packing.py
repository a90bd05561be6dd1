"""The offline optimum of block-level studies: against brute force, LRU and the infinite cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim.reuse import Reuse, optimum_hits
from workloads import statistics


def most_hits(trace, capacity: int) -> list[int]:
    """Return the hits per request of the optimum, the slow way: keep names of blocks, look uses up in lists."""
    prompts = [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    kept: set[int] = set()
    hits = []
    for i, prompt in enumerate(prompts):
        hits.append(sum(block in kept for block in prompt))
        uses = {}
        for block in kept | set(prompt):
            later = next(
                ((j, prompts[j].index(block)) for j in range(i + 1, len(prompts)) if block in prompts[j]), None
            )
            if later:
                uses[block] = later
        kept = set(sorted(uses, key=uses.__getitem__)[:capacity])
    return hits


@given(random_traces(), st.integers(1, 12))
def test_the_optimum_equals_brute_force(trace, capacity):
    assert optimum_hits(trace, capacity).tolist() == most_hits(trace, capacity)


@given(random_traces())
def test_the_optimum_bounds_lru_and_fills_the_infinite_cache(trace):
    reuse = Reuse(trace)
    found = statistics.measure(trace)
    assert reuse.optimum(max(trace.n_blocks, 1)) == pytest.approx(found.infinite_hit)
    for capacity in range(1, trace.n_blocks + 1):
        assert reuse.lru(capacity) <= reuse.optimum(capacity) + 1e-12


def test_the_optimum_is_right_across_words_pages_and_books():
    # 600 requests of 500 blocks of which the first 250 are common: positions beyond 2**18.
    common = list(range(250))
    prompts = [[*common, *range(250 + 250 * i, 500 + 250 * i)] for i in range(600)]
    trace = hand_trace(prompts, [10 * len(prompt) for prompt in prompts])
    for capacity in (1, 100, 250, 1_000):
        assert optimum_hits(trace, capacity).tolist() == [0] + [min(capacity, 250)] * 599


def test_a_cache_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 block"):
        optimum_hits(hand_trace([[0]], [10]), 0)
