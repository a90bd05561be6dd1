"""Mooncake Store: hand traces of watermark, batches, leases and soft pins, the kernel against its twin, laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, prioritised_traces
from test_lmcache import examples
from twin_mooncake_store import twin_mooncake_store

from sim.engines.mooncake_store import StoreParameters
from sim.simulation import simulate

ENGINE = "mooncake-store"
FULL = {"eviction_high_watermark_ratio": 1.0}
"""No watermark: a batch is due only after a put has found no room."""


def run(prompts, capacity, arrival_s=None, priorities=None, tokens=None, **options):
    """Requests arrive every second unless `arrival_s` says otherwise."""
    tokens = [10 * len(prompt) + 5 for prompt in prompts] if tokens is None else tokens
    columns = {} if priorities is None else {"priority": priorities}
    trace = hand_trace(prompts, tokens, arrival_s=arrival_s, **columns)
    return simulate(trace, "native", capacity, engine=ENGINE, **options)


def hits(*arguments, **options):
    return run(*arguments, **options).hit_blocks_per_request.tolist()


def singles(n):
    return [[block] for block in range(n)]


# ---- by hand: watermark and batch --------------------------------------------------------------------------------


def test_a_batch_above_the_watermark():
    # Capacity 10. 9 of 10 is not above 0.9, 10 of 10 is: when the 11th arrives, 1.0 - 0.9 + 0.05 = 0.15 of the 10
    # objects are due, 1.5, so 2: the oldest puts 0 and 1. 10 - 2 + 1 = 9 are left.
    assert run(singles(10), 10).evicted_blocks == 0
    result = run(singles(11), 10)
    assert (result.evicted_blocks, result.resident_blocks, result.peak_resident_blocks) == (2, 9, 10)
    assert hits([*singles(11), [2]], 10)[-1] == 1
    assert hits([*singles(11), [1]], 10)[-1] == 0


def test_the_ratio_sets_the_batch():
    # 1.0 - 0.9 + 0.5 = 0.6 of 10 are 6: 10 - 6 + 1 are left.
    result = run(singles(11), 10, eviction_ratio=0.5)
    assert (result.evicted_blocks, result.resident_blocks) == (6, 5)


def test_the_batch_is_a_share_of_the_objects_not_of_the_capacity():
    # Watermark 0.5 of 10: 6 objects are above it. 0.6 - 0.5 + 0.2 = 0.3 of 6 are 1.8, so 2 (of the capacity it were 3).
    result = run(singles(7), 10, eviction_high_watermark_ratio=0.5, eviction_ratio=0.2)
    assert (result.evicted_blocks, result.resident_blocks) == (2, 5)


def test_a_prompt_can_be_larger_than_the_store():
    # Before each of the last 3 puts the store is full, 0.15 of 3 objects are due: 1, the first put.
    result = run([[0, 1, 2, 3, 4, 5]], 3)
    assert (result.unserved_requests, result.admitted_blocks, result.evicted_blocks) == (0, 6, 3)
    assert hits([[0, 1, 2, 3, 4, 5], [0]], 3) == [0, 0]


def test_without_a_watermark_a_failed_put_makes_the_next_one_possible():
    # Capacity 2. The put of 2 fails and asks for a batch: 0.05 of 2, so 1 object, 0, is gone when [3] arrives.
    result = run([[0], [1], [2], [3], [1]], 2, **FULL)
    assert result.hit_blocks_per_request.tolist() == [0, 0, 0, 0, 1]
    assert (result.admitted_blocks, result.bypassed_blocks, result.evicted_blocks) == (3, 1, 1)


# ---- by hand: leases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("last_s", "stored"), [(10.9, False), (11.0, True), (30.0, True)])
def test_nothing_under_lease_is_evicted(last_s, stored):
    # Capacity 2. Asked for at 1 s, 0 and 1 are leased until 11 s: the put of 2 at 2 s fails, and that of 3 too unless
    # the leases have ended; then 0.05 of 2, so 1 object, makes room.
    result = run([[0, 1], [0, 1], [2], [3]], 2, [0.0, 1.0, 2.0, last_s], **FULL)
    assert result.hit_blocks_per_request.tolist() == [0, 2, 0, 0]
    counts = (result.admitted_blocks, result.bypassed_blocks, result.evicted_blocks)
    assert counts == ((3, 1, 1) if stored else (2, 2, 0))


def test_leases_hold_as_long_as_they_are_granted_for():
    # As above with [3] at 3 s: without a lease, or with one of 2 s, 0 makes room; 2.5 s hold until 3.5 s.
    for ttl_s, evicted in ((0.0, 1), (2.0, 1), (2.5, 0)):
        assert run([[0, 1], [0, 1], [2], [3]], 2, lease_ttl_s=ttl_s, **FULL).evicted_blocks == evicted


def test_under_lease_the_watermark_is_passed():
    # 9 objects are leased when [9] fills the store. A batch of 2 is due for [10], but only 9 has no lease; the same
    # again for [11], which takes the place of 10.
    prompt = list(range(9))
    result = run([prompt, prompt, [9], [10], [11]], 10, lease_ttl_s=60.0)
    assert (result.peak_resident_blocks, result.hit_blocks) == (10, 9)
    assert (result.admitted_blocks, result.bypassed_blocks, result.evicted_blocks) == (12, 0, 2)


def test_the_order_is_that_of_leases_not_of_use():
    # Asked for at 1 s, 0 has a lease until 11 s; 1, put at 5 s, has none. At 21 s (after the failed put of 2) the older
    # lease is that of 1, although it was used last.
    prompts, arrival_s = [[0], [0], [1], [2], [3]], [0.0, 1.0, 5.0, 20.0, 21.0, 22.0]
    assert hits([*prompts, [0]], 2, arrival_s, **FULL) == [0, 1, 0, 0, 0, 1]
    assert hits([*prompts, [1]], 2, arrival_s, **FULL) == [0, 1, 0, 0, 0, 0]


def test_a_prefix_loses_its_head_first():
    # Leases are granted first to last: of [0, 1] (asked for at 1 s), 0 goes when [2] has failed and [3] comes.
    arrival_s = [0.0, 1.0, 20.0, 21.0, 22.0]
    assert hits([[0, 1], [0, 1], [2], [3], [0, 1]], 2, arrival_s, **FULL) == [0, 2, 0, 0, 0]


def test_what_is_behind_a_gap_is_leased_too():
    # [2] fails, [3] gets the place of 0. [0, 1] at 3 s: 0 is missing (its put fails), 1 is leased until 13 s. So [4]
    # gets the place of 3, [5] fails, [6] gets that of 4. [0, 1] at 7 s: 0 fails; at 8 s it gets the place of 6; at 9 s
    # both are there. Without the lease 1 would have left first.
    prompts = [[0, 1], [2], [3], [0, 1], [4], [5], [6], [0, 1], [0, 1], [0, 1]]
    assert hits(prompts, 2, **FULL) == [0] * 9 + [2]
    assert hits(prompts, 2, lease_ttl_s=0.0, **FULL)[-1] != 2


def test_the_last_token_is_recomputed_but_its_block_is_leased():
    # 20 tokens are 2 whole blocks: one counts as a hit, both are leased, so neither 2 nor 3 finds a place.
    result = run([[0, 1], [0, 1], [2], [3]], 2, tokens=[20, 20, 10, 10], **FULL)
    assert result.hit_blocks_per_request.tolist() == [0, 1, 0, 0]
    assert (result.admitted_blocks, result.evicted_blocks) == (2, 0)


# ---- by hand: soft pins ------------------------------------------------------------------------------------------


def test_soft_pins_leave_last():
    # 0 is put with a soft pin (priority 1), 1 without: the batch takes 1, though 0 is older; without pins it takes 0.
    arguments = ([[0], [1], [2], [3], [0]], 2, None, [1, 0, 0, 0, 0])
    assert hits(*arguments, soft_pin_priority=1, **FULL) == [0, 0, 0, 0, 1]
    assert hits(*arguments, soft_pin_priority=2, **FULL) == [0, 0, 0, 0, 0]
    assert hits(*arguments, **FULL) == [0, 0, 0, 0, 0]


def test_soft_pins_end():
    # Put at 0 s for 2 s, or for 3 s sharp: no pin any more at 3 s, and 0 is the older one. 3.5 s hold.
    arguments = ([[0], [1], [2], [3], [0]], 2, None, [1, 0, 0, 0, 0])
    for ttl_s, found in ((2.0, 0), (3.0, 0), (3.5, 1)):
        assert hits(*arguments, soft_pin_priority=1, soft_pin_ttl_s=ttl_s, **FULL)[-1] == found


def test_asking_renews_a_soft_pin():
    # Put at 0 s for 3.5 s, asked for at 1 s (no lease): pinned until 4.5 s, so at 4 s the batch takes 1. Not asked for,
    # 0 has lost its pin by then and is the older one.
    options = {"lease_ttl_s": 0.0, "soft_pin_priority": 1, "soft_pin_ttl_s": 3.5, **FULL}
    assert hits([[0], [0], [1], [2], [3], [0]], 2, None, [1, 0, 0, 0, 0, 0], **options) == [0, 1, 0, 0, 0, 1]
    arrival_s = [0.0, 2.0, 3.0, 4.0, 5.0]
    assert hits([[0], [1], [2], [3], [0]], 2, arrival_s, [1, 0, 0, 0, 0], **options) == [0, 0, 0, 0, 0]


def test_soft_pins_can_be_evicted_where_allowed():
    # All are pinned. max(0.05 / 2, 1.0 - 1.0) of 2 objects is 0.05, so 1 object, 0, leaves in the second pass.
    arguments = ([[0], [1], [2], [3]], 2, None, [1, 1, 1, 1])
    result = run(*arguments, soft_pin_priority=1, **FULL)
    assert (result.admitted_blocks, result.evicted_blocks, result.bypassed_blocks) == (3, 1, 1)
    result = run(*arguments, soft_pin_priority=1, allow_evict_soft_pinned_objects=False, **FULL)
    assert (result.admitted_blocks, result.evicted_blocks, result.bypassed_blocks) == (2, 0, 2)


def test_soft_pins_fill_up_half_a_batch_only():
    # 10 objects, the first 9 pinned; watermark 1.0 and ratio 0.8: 8 are due, but only 9 goes without a pin; half of the
    # batch, 4, has to leave: 3 pinned ones more. Then 11 is put.
    result = run(singles(12), 10, None, [1] * 9 + [0] * 3, soft_pin_priority=1, eviction_ratio=0.8, **FULL)
    assert (result.evicted_blocks, result.resident_blocks) == (4, 7)


def test_what_is_refused():
    for bad in ({"eviction_high_watermark_ratio": 1.1}, {"eviction_ratio": 0.0}, {"eviction_ratio": math.nan}):
        with pytest.raises(ValueError, match="eviction_ratio"):
            run([[0]], 2, **bad)
    for bad in ({"lease_ttl_s": -1.0}, {"soft_pin_ttl_s": math.nan}, {"soft_pin_priority": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            run([[0]], 2, **bad)
    with pytest.raises(ValueError, match="needs a trace with a priority column"):
        run([[0]], 2, soft_pin_priority=1)
    with pytest.raises(ValueError, match="mode='serial' only"):
        run([[0]], 2, mode="overlap")
    with pytest.raises(ValueError, match="decode='none' only"):
        run([[0]], 2, decode="infer")


# ---- the twin, and laws ------------------------------------------------------------------------------------------

flags = st.builds(
    StoreParameters,
    st.sampled_from([0.9, 1.0, 0.5, 0.0]),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([0.0, 0.03, 0.2, 10.0]),
    st.sampled_from([0.0, 0.05, 0.3, 1800.0]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
)


@examples(400)
@given(prioritised_traces([0, 1, 2]), st.integers(1, 25) | st.just(10_000), flags)
def test_native_equals_its_twin(trace, capacity, flags):
    given_flags = dict(vars(flags))
    if trace.priority is None:
        given_flags["soft_pin_priority"] = 0
    result = simulate(trace, "lease", capacity, engine=ENGINE, **given_flags)
    expected, evictions, stored = twin_mooncake_store(trace, capacity, StoreParameters(**given_flags))
    assert result.hit_blocks_per_request.tolist() == expected
    assert result.evicted_blocks == len(evictions)
    assert result.resident_blocks == len(stored) == result.admitted_blocks - result.evicted_blocks
    assert result.peak_resident_blocks <= capacity
    assert result.looked_up_blocks == result.hit_blocks + result.admitted_blocks + result.bypassed_blocks
    assert result.unserved_requests == 0


@examples(100)
@given(prioritised_traces([0]), st.integers(1, 25), st.sampled_from([0.5, 0.9]))
def test_without_leases_the_watermark_is_passed_by_one_object_at_most(trace, capacity, watermark):
    options = {"eviction_high_watermark_ratio": watermark, "lease_ttl_s": 0.0}
    result = simulate(trace, "lease", capacity, engine=ENGINE, **options)
    assert result.peak_resident_blocks <= math.floor(watermark * capacity) + 1
    assert result.admitted_blocks + result.hit_blocks <= result.looked_up_blocks


@examples(100)
@given(prioritised_traces([0]))
def test_with_room_for_all_nothing_leaves(trace):
    result = simulate(trace, "lease", 10_000, engine=ENGINE)
    assert (result.evicted_blocks, result.resident_blocks) == (0, trace.n_blocks)
