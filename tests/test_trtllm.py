"""TensorRT-LLM: hand traces of priorities, durations and descendants, the kernel against its twin, laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, prioritised_traces
from test_lmcache import examples
from twin_trtllm import twin_trtllm

from sim.simulation import simulate

ENGINE = "tensorrt-llm"


def run(prompts, capacity, priorities=None, tokens=None, arrival_s=None, **options):
    """Prompts end in 5 tokens of a partial block unless `tokens` says otherwise: it takes a slot like a block."""
    tokens = [10 * len(prompt) + 5 for prompt in prompts] if tokens is None else tokens
    columns = {} if priorities is None else {"priority": priorities}
    trace = hand_trace(prompts, tokens, arrival_s=arrival_s, **columns)
    return simulate(trace, "native", capacity, engine=ENGINE, **options)


def hits(*arguments, **options):
    return run(*arguments, **options).hit_blocks_per_request.tolist()


# ---- by hand -----------------------------------------------------------------------------------------------------


def test_lower_priorities_leave_first():
    # 4 slots: [0] at 80 and [1] at 50 take two each (block and tail). [2] takes both of 50, so 1 is evicted and 0,
    # the older, is not; with the priorities exchanged, or equal, it is the other way round.
    assert hits([[0], [1], [2], [0]], 4, [80, 50, 40, 40]) == [0, 0, 0, 1]
    assert hits([[0], [1], [2], [1]], 4, [80, 50, 40, 40]) == [0, 0, 0, 0]
    assert hits([[0], [1], [2], [0]], 4, [50, 80, 40, 40]) == [0, 0, 0, 0]
    assert hits([[0], [1], [2], [0]], 4, [50, 50, 40, 40]) == [0, 0, 0, 0]


def test_below_the_default_blocks_leave_before_empty_slots_are_used():
    # Empty slots wait at 35. Released at 10, the two slots of [0] are taken by [1] although two others are empty.
    assert hits([[0], [1], [0]], 4, [10, 35, 35]) == [0, 0, 0]
    assert hits([[0], [1], [0]], 4, [35, 35, 35]) == [0, 0, 1]
    assert run([[0], [1], [2], [3]], 8, [10, 10, 10, 10]).resident_blocks == 1


def test_a_new_priority_replaces_the_old_one():
    # 6 slots. 0 is at 80; its second use puts it at 10 (its tail takes an empty slot): [1] takes that tail and 0.
    assert hits([[0], [0], [1], [0]], 6, [80, 10, 35, 35]) == [0, 1, 0, 0]
    assert hits([[0], [0], [1], [0]], 6, [10, 80, 35, 35]) == [0, 1, 0, 1]


def test_a_priority_ends_after_its_duration():
    # 4 slots. [0] at 80 and [1] at 35 fill them. [2] at 10 s takes the slots of [1], the front of 35. Has 80 ended by
    # then (released at 0 s), the slots of [0] are behind them at 35, and [3] takes those: 0 is gone. Else [3] takes
    # the slots of [2]. A duration of 10 s ends at 10 s sharp; one of 12 s when [0] itself comes back.
    arguments = ([[0], [1], [2], [3], [0]], 4, [80, 35, 35, 35, 35])
    arrival_s = [0.0, 1.0, 10.0, 11.0, 12.0]
    for duration_s, found in ((0.0, 0), (5.0, 0), (10.0, 0), (12.0, 1), (20.0, 1), (math.inf, 1)):
        assert hits(*arguments, arrival_s=arrival_s, duration_s=duration_s) == [0, 0, 0, 0, found]


def test_a_use_renews_the_duration():
    # As above with 5 s, but [0] is used again at 7 s: its priority ends at 12 s now. Its new tail takes the tail of
    # [1], so 35 holds 1 and the old tail of [0]: both go to [2], whose slots go to [3]. Had 0 gone back to 35 at 7 s,
    # [3] would have taken it.
    prompts, arrival_s = [[0], [1], [0], [2], [3], [0]], [0.0, 1.0, 7.0, 10.0, 10.5, 11.0]
    assert hits(prompts, 4, [80, 35, 80, 35, 35, 35], arrival_s=arrival_s, duration_s=5.0) == [0, 0, 1, 0, 0, 1]
    assert hits(prompts, 4, [80, 35, 35, 35, 35, 35], arrival_s=arrival_s, duration_s=5.0) == [0, 0, 1, 0, 0, 0]


def test_what_ends_goes_to_the_tail():
    # [0] at 5 ends at 5 s and goes behind the empty slots, where a priority below 35 would have gone first.
    arrival_s = [0.0, 10.0, 11.0]
    assert hits([[0], [1], [0]], 4, [5, 35, 35], arrival_s=arrival_s, duration_s=5.0) == [0, 0, 1]
    assert hits([[0], [1], [0]], 4, [5, 35, 35], arrival_s=arrival_s) == [0, 0, 0]


def test_leaves_leave_first_at_equal_priority():
    # Released last to first: [3] takes the tail and 2, then [4] the tail of [3], and 1, not 3.
    assert hits([[0, 1, 2], [3], [0, 1, 2]], 4) == [0, 0, 2]
    assert hits([[0, 1, 2], [3], [4], [0, 1, 2]], 5) == [0, 0, 0, 1]


def test_a_parent_takes_its_descendants_along():
    # 8 slots. [0, 1, 2] is released at 80; [0] puts 0 at 10 (and its tail, of an empty slot). [3] takes that tail and
    # 0: 1 and 2 cannot be reached any more, 3 evictions, though their slots stay at 80. The last request finds nothing
    # and takes the 3 empty slots and the tail of [3].
    result = run([[0, 1, 2], [0], [3], [0, 1, 2]], 8, [80, 10, 35, 35])
    assert result.hit_blocks_per_request.tolist() == [0, 1, 0, 0]
    assert (result.evicted_blocks, result.admitted_blocks, result.resident_blocks) == (3, 7, 4)


def test_slots_of_descendants_keep_their_place():
    # As above, then [4] takes 3 (the front of 35) and the tail of the fourth request. Were the two slots of 1 and 2
    # first in line, nothing would be evicted.
    assert run([[0, 1, 2], [0], [3], [0, 1, 2], [4]], 8, [80, 10, 35, 35, 35]).evicted_blocks == 4


def test_a_second_copy_is_not_stored():
    # 20 tokens: block 1 holds the recomputed last token, its second copy takes a slot that holds nothing afterwards.
    result = run([[0, 1], [0, 1]], 4, tokens=[20, 20])
    assert result.hit_blocks_per_request.tolist() == [0, 1]
    assert (result.admitted_blocks, result.bypassed_blocks, result.resident_blocks) == (2, 1, 2)
    assert result.peak_used_blocks == 3


def test_default_priority_is_for_traces_without_priorities():
    # At 10 the block of [0] leaves before empty slots are used; a trace's own 35 wins over it.
    assert hits([[0], [1], [0]], 4, default_priority=10) == [0, 0, 0]
    assert hits([[0], [1], [0]], 4, [35, 35, 35], default_priority=10) == [0, 0, 1]


def test_one_slot():
    result = run([[0], [0], [1], [0]], 1, tokens=[15, 10, 10, 10])
    assert result.hit_blocks_per_request.tolist() == [-1, 0, 0, 0]
    assert (result.unserved_requests, result.evicted_blocks, result.resident_blocks) == (1, 2, 1)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.100 only, the trace has 101"):
        run([[0]], 2, [101])
    for bad in ({"default_priority": -1}, {"default_priority": 101}, {"duration_s": -1.0}, {"duration_s": math.nan}):
        with pytest.raises(ValueError, match=r"default_priority must be within 0\.\.100"):
            run([[0]], 2, **bad)
    with pytest.raises(ValueError, match="mode='serial' only"):
        run([[0]], 2, mode="overlap")
    with pytest.raises(ValueError, match="decode='none' only"):
        run([[0]], 2, decode="private")


# ---- the twin, and laws ------------------------------------------------------------------------------------------


@examples(200)
@given(
    prioritised_traces([0, 10, 34, 35, 36, 80, 100]),
    st.integers(1, 25) | st.just(10_000),
    st.sampled_from([35, 35, 0, 90]),
    st.sampled_from([math.inf, 0.0, 0.03, 0.2]),
)
def test_native_equals_its_twin(trace, capacity, default_priority, duration_s):
    options = {"default_priority": default_priority, "duration_s": duration_s}
    result = simulate(trace, "priority", capacity, engine=ENGINE, **options)
    expected, evictions, stored = twin_trtllm(trace, capacity, default_priority, duration_s)
    assert result.hit_blocks_per_request.tolist() == expected
    assert result.evicted_blocks == len(evictions)
    assert result.resident_blocks == len(stored) == result.admitted_blocks - result.evicted_blocks
    assert result.peak_used_blocks <= capacity
    assert result.looked_up_blocks == result.hit_blocks + result.admitted_blocks + result.bypassed_blocks


@examples(100)
@given(prioritised_traces([35, 80]), st.just(10_000))
def test_with_room_for_all_nothing_leaves(trace, capacity):
    """From the default priority up empty slots go first, so every block seen before is found."""
    result = simulate(trace, "priority", capacity, engine=ENGINE)
    assert result.evicted_blocks == result.unserved_requests == 0
    assert result.resident_blocks == trace.n_blocks


@pytest.mark.parametrize("capacity", [1000, 10_000])
@pytest.mark.parametrize("options", [{}, {"default_priority": 80}, {"default_priority": 80, "duration_s": 60.0}])
def test_one_priority_for_all_is_the_order_of_old_vllm(capacity, options, real_trace):
    """Tails hold a slot and slots are reused in order of release: vLLM <= 0.22, which is equal to the engine."""
    trace = real_trace("mooncake_conversation")
    result = simulate(trace, "priority", capacity, engine=ENGINE, **options)
    expected = simulate(trace, "vllm", capacity, engine="vllm<=0.22")
    np.testing.assert_array_equal(result.hit_blocks_per_request, expected.hit_blocks_per_request)
