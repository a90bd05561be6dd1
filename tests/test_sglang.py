"""SGLang's radix cache: recorded hits, hand-traced rules, and the kernels against their slow twin."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from conftest import golden_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim.core import sglang as core
from sim.engines.sglang import Parameters, run_native, run_user
from sim.integrity_radix import check_tree, segments
from sim.options import Options
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy, policies
from sim.simulation import PolicyError, simulate
from sim.twin_sglang_policy import twin_sglang

KEYS = (
    *(f"{policy}_serial_none_{cap}" for policy in ("lru", "lfu", "slru", "fifo") for cap in (2000, 10000)),
    *("tlru_serial_none_5000", "lru_serial_infer_5000", "lru_overlap_none_5000", "lru_overlap_infer_5000"),
)


@pytest.fixture(scope="session")
def golden():
    return {key.removeprefix("sglang0523_"): hits for key, hits in golden_arrays("sglang0523.npz").items()}


@pytest.fixture(scope="session")
def conversation(real_trace):
    return real_trace("mooncake_conversation")


def conditions(key: str) -> tuple[str, int, dict[str, str]]:
    policy, mode, decode, capacity = key.split("_")
    return policy, int(capacity), {"engine": "sglang", "mode": mode, "decode": decode}


def user(source: str):
    return compile_policy(Policy.from_source(source))


# ---- recorded hits ---------------------------------------------------------------------------------------------------


def test_every_recorded_array_is_listed(golden):
    assert sorted(golden) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_native_policies_equal_the_engine(key, golden, conversation):
    policy, capacity, options = conditions(key)
    prepared, chosen = prepare(conversation, options["decode"]), Options(**options)
    outcome = run_native(prepared, capacity, chosen, policy, Parameters())
    np.testing.assert_array_equal(outcome.hits, golden[key])
    check_tree(prepared, outcome, capacity)


def test_published_tables(conversation):
    """Engine notes, section 8, row SGLang; section 14, T-LRU."""
    capacities = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
    hits = tuple(simulate(conversation, capacity=cap, engine="sglang").hit_blocks for cap in capacities)
    assert hits == (12_933, 15_924, 33_660, 61_568, 84_192, 102_468)
    assert simulate(conversation, "tlru", 10_000, engine="sglang").hit_blocks == 54_789


EQUAL = {
    "lru": "def priority(block, cache):\n    return block.released\n",
    "lru at eviction": "def priority(block, cache):\n    return block.released + 0.0 * cache.now\n",
    "lfu": "def priority(block, cache):\n    return block.released + 1e9 * block.hits\n",
    "slru": "def priority(block, cache):\n    return block.released + 1e9 * min(block.hits, 1.0)\n",
    "mru": "def priority(block, cache):\n    return 0.0 - block.released\n",
}
"""Contract policies that are the engine's own: `released` is its access clock, `hits` + 1 its hit count."""


@pytest.mark.parametrize("key", [key for key in KEYS if key.split("_")[0] in EQUAL and not key.endswith("10000")])
def test_contract_policies_equal_the_engine(key, golden, conversation):
    policy, capacity, options = conditions(key)
    hits = simulate(conversation, user(EQUAL[policy]), capacity, **options).hit_blocks_per_request
    np.testing.assert_array_equal(hits, golden[key])


# ---- hand-traced rules: block = 10 tokens, serial, one request per second --------------------------------------------


def replayed(trace, capacity: int, policy: str = "lru", parameters: Parameters | None = None, **options):
    """Replay natively and by the twin; return (hits, segments left as {ids: (hit count, last access)}, counters)."""
    chosen = Options(engine="sglang", **options)
    prepared = prepare(trace, chosen.decode)
    outcome = run_native(prepared, capacity, chosen, policy, parameters or Parameters())
    assert outcome.hits.tolist() == twin_sglang(trace, policy, capacity, chosen, parameters).hits
    check_tree(prepared, outcome, capacity)
    left = {row[3:]: row[1:3] for row in segments(prepared, outcome.tree)}
    return outcome.hits.tolist(), left, outcome.counts


def test_a_match_cuts_a_segment_for_good():
    # r0 leaves the segment [0 1 2 3]. r1 = 0 1 4 (35 tokens) may hit (35 - 1) // 10 = 3 blocks, finds 2: the segment
    # is cut after 2, [4] is a new leaf. Inserts that passed: [0 1] two, [2 3] one (copied at the cut), [4] one.
    trace = hand_trace([[0, 1, 2, 3], [0, 1, 4]], [45, 35])
    hits, left, counts = replayed(trace, 10)
    assert hits == [0, 2]
    assert {ids: count for ids, (count, _) in left.items()} == {(0, 1): 2, (2, 3): 1, (4,): 1}
    assert (counts["admitted_blocks"], counts["bypassed_blocks"], counts["evicted_blocks"]) == (5, 0, 0)


def test_the_lower_half_of_a_cut_counts_as_accessed():
    # [0 1 2] (r0), [3 4] (r1), r2 = 0 5 cuts r0's segment: [1 2] was last asked for by r0, yet is stamped now, after
    # [3 4]. Resident 3 + 2 + 1 = 6 of 8. r3 needs 3 blocks (2 + tail), 2 are free: [3 4] goes, not [1 2].
    trace = hand_trace([[0, 1, 2], [3, 4], [0, 5], [6, 7]], [35, 25, 25, 25])
    _, left, _ = replayed(trace, 8)
    assert set(left) == {(0,), (1, 2), (5,), (6, 7)}


def test_whole_segments_leave_so_more_than_needed_is_freed():
    # Capacity 6: r0 holds 5 + tail while it runs, then [0..4] stays and 1 is free. r1 needs 2 (1 + tail): short by 1,
    # the whole segment of 5 leaves. r2 asks for r0's prompt and finds nothing, though 4 blocks could have stayed.
    trace = hand_trace([[0, 1, 2, 3, 4], [5], [0, 1, 2, 3, 4]], [55, 15, 55])
    hits, left, counts = replayed(trace, 6)
    assert hits == [0, 0, 0]
    assert counts["evicted_blocks"] == 6  # 5 for r1, then [5] for r2
    assert set(left) == {(0, 1, 2, 3, 4)}


def test_the_recomputed_last_block_is_freed_at_insert():
    # r1 is r0's prompt again, exactly 2 blocks: at most (20 - 1) // 10 = 1 may hit, so [0 1] is cut after 1; block 1 is
    # recomputed into a second slot, found by the insert and freed: neither a hit nor admitted. Counts: 2 inserts each.
    hits, left, counts = replayed(hand_trace([[0, 1], [0, 1]], [20, 20]), 4)
    assert hits == [0, 1]
    assert {ids: count for ids, (count, _) in left.items()} == {(0,): 2, (1,): 2}
    assert (counts["looked_up_blocks"], counts["admitted_blocks"], counts["bypassed_blocks"]) == (4, 2, 1)


def test_the_matched_path_is_locked_before_room_is_made():
    # Capacity 4: [0 1] (r0) is the only leaf when r1 = 0 1 2 needs 2 more blocks (2 + tail): 4 - 2 = 2 are free, fits.
    # With capacity 3 r1 (4 blocks) can never run; r2 = 0 1 (25 tokens, 3 blocks) needs 1 beside its locked hits.
    assert replayed(hand_trace([[0, 1], [0, 1, 2]], [25, 35]), 4)[0] == [0, 2]
    assert replayed(hand_trace([[0, 1], [0, 1, 2], [0, 1]], [25, 35, 25]), 3)[0] == [0, -1, 2]


def test_lfu_counts_inserts_and_slru_protects_from_two():
    # r0, r1: [0] passed twice, count 2. r2: [1], count 1, newer. r3 needs 2 of 3, 1 is free: lru drops [0], older;
    # lfu and slru drop [1], count 1. r4 asks for 0 again. With slru_protected = 3 both are unprotected: like lru.
    trace = hand_trace([[0], [0], [1], [2], [0]], [15, 15, 15, 15, 15])
    assert replayed(trace, 3, "lru")[0] == [0, 1, 0, 0, 0]
    assert replayed(trace, 3, "lfu")[0] == [0, 1, 0, 0, 1]
    assert replayed(trace, 3, "slru")[0] == [0, 1, 0, 0, 1]
    assert replayed(trace, 3, "slru", Parameters(slru_protected=3))[0] == [0, 1, 0, 0, 0]


def test_fifo_keeps_the_creation_of_a_cut_segment():
    # [0 1] (r0), [2] (r1); r2 = 0 3 cuts: [0] and [1] keep r0's creation, [3] is new. Resident 4 of 6. r3 needs 3, 2
    # are free: fifo drops [1] (created by r0), lru the older access [2], filo the newest node [3].
    trace = hand_trace([[0, 1], [2], [0, 3], [4, 5]], [25, 15, 25, 25])
    assert set(replayed(trace, 6, "fifo")[1]) == {(0,), (2,), (3,), (4, 5)}
    assert set(replayed(trace, 6, "lru")[1]) == {(0,), (1,), (3,), (4, 5)}
    assert set(replayed(trace, 6, "filo")[1]) == {(0,), (1,), (2,), (4, 5)}


def test_tlru_drops_tails_the_next_prompt_can_do_without():
    # Threshold 3, estimate 1. r0: [0 1 2], history 3: budget max(3 + 1 - 3, 0) = 1; without it 0 < 1 are cached: kept.
    # r1 = 3: history 1, budget 0, 0 >= 0: safe to drop, and goes first though newer. Resident 4 of 5, r2 needs 2.
    trace = hand_trace([[0, 1, 2], [3], [4]], [35, 15, 15])
    tlru = Parameters(tlru_threshold=3, tlru_next_prompt_estimate=1)
    assert set(replayed(trace, 5, "tlru", tlru)[1]) == {(0, 1, 2), (4,)}
    assert set(replayed(trace, 5, "lru")[1]) == {(3,), (4,)}
    # r1 prolongs r0 to 0 1 2 3 4: history 5 for the path, budget 3. Leaf [3 4] has 3 >= 3 before it: dropped for r2.
    # History stays 5, so for r3 [0 1 2] still has budget 3 > 0: kept, and r2's [5], budget 0, goes.
    trace = hand_trace([[0, 1, 2], [0, 1, 2, 3, 4], [5], [6, 7]], [35, 55, 15, 25])
    assert set(replayed(trace, 6, "tlru", tlru)[1]) == {(0, 1, 2), (6, 7)}


def test_generated_blocks_are_a_segment_one_priority_lower():
    # r0 (priority 5) fills one more block by decode, 15 + 6 - 1 = 20 tokens, private id 3: a node of priority 4. r1:
    # [1], newer, priority 5 - or 4, or 3. r2 needs 2 of 4, 1 is free. The leaves are [3] and [1]: at 5 and 4 the
    # generated node leaves (lower, or as low and older), at 3 [1] does.
    for priority, loser in ((5, 3), (4, 3), (3, 1)):
        trace = hand_trace([[0], [1], [2]], [15, 15, 15], output_tokens=[6, 0, 0], priority=[5, priority, 0])
        assert prepare(trace, "private").requests.generated_ids.tolist() == [3]
        _, left, counts = replayed(trace, 4, "priority", decode="private")
        assert counts["generated_blocks"] == 1
        assert set(left) == {(0,), (1,), (2,), (3,)} - {(loser,)}


def test_the_finish_does_not_count_the_prompt_again():
    # Private id 1 is generated; the prompt's node and the generated one have been passed by one request each.
    left = replayed(hand_trace([[0]], [15], output_tokens=[6]), 4, "lfu", decode="private")[1]
    assert {ids: count for ids, (count, _) in left.items()} == {(0,): 1, (1,): 1}


def test_priority_keeps_what_matters_most():
    trace = hand_trace([[0], [1], [2], [0]], [15, 15, 15, 15], priority=[5, 0, 0, 0])
    assert replayed(trace, 3, "priority")[0] == [0, 0, 0, 1]
    assert replayed(trace, 3, "lru")[0] == [0, 0, 0, 0]


def test_a_segment_in_use_is_not_evicted():
    # 10 tokens/s: r0 (15 tokens) runs from 0 to 1.5 s, r1 arrives at 1 s. Capacity 3: r0 holds 2, r1 needs 2: it waits.
    trace = hand_trace([[0], [1]], [15, 15], arrival_s=[0.0, 1.0])
    options = Options(engine="sglang", mode="overlap", prefill_tokens_per_s=10.0)
    outcome = run_native(prepare(trace), 3, options, "lru", Parameters())
    assert outcome.start_s.tolist() == [0.0, 1.5]
    assert outcome.counts["waited_requests"] == 1


@pytest.mark.parametrize("policy", core.POLICIES)
def test_a_cache_of_one_block(policy):
    trace = hand_trace([[0], [0], [1, 2], []], [10, 10, 25, 5], arrival_s=[0, 0, 0, 0])
    hits, left, _ = replayed(trace, 1, policy)
    assert hits == [0, 0, -1, 0]  # an exact multiple of one block has nothing it may hit; the last one needs the slot
    assert left == {}


# ---- the kernels against the twin ------------------------------------------------------------------------------------


def examples(count: int):
    return settings(max_examples=count)


serving = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["serial", "overlap"]),
        "decode": st.sampled_from(["none", "private", "infer"]),
        "max_running": st.sampled_from([1, 2, 3, 256]),
        "prefill_tokens_per_s": st.sampled_from([50.0, 1000.0]),
    }
)
tuned = st.builds(Parameters, st.integers(1, 4), st.integers(0, 6), st.integers(0, 4))


def agree(trace, policy, capacity, options, outcome, parameters=None) -> None:
    """Compare a replay with the twin's: hits, times, counters, and every node of the final tree."""
    twin = twin_sglang(trace, policy, capacity, options, parameters)
    assert outcome.hits.tolist() == twin.hits
    np.testing.assert_array_equal(outcome.start_s, twin.start_s)
    assert {name: outcome.counts[name] for name in twin.counts} == twin.counts
    prepared = prepare(trace, options.decode)
    assert segments(prepared, outcome.tree) == twin.segments
    check_tree(prepared, outcome, capacity)


@examples(180)
@given(random_traces(), st.sampled_from(core.POLICIES), st.integers(1, 30), serving, tuned, st.integers(0, 3))
def test_native_policies_equal_the_twin(trace, policy, capacity, serving, parameters, levels):
    columns = {"priority": [int(tokens) % (levels + 1) for tokens in trace.input_tokens]}
    prompts = [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    trace = hand_trace(prompts, trace.input_tokens, trace.block_tokens, trace.output_tokens, trace.arrival_s, **columns)
    options = Options(engine="sglang", **serving)
    outcome = run_native(prepare(trace, options.decode), capacity, options, policy, parameters)
    agree(trace, policy, capacity, options, outcome, parameters)


SCORES = (
    "block.last_access + 3.0 * block.hits - block.depth",
    "block.seen * 4.0 - block.age + block.gap * 0.5",
    "block.s0 + block.s1 * 0.5 - cache.s0",
    "block.inserted_s - block.turn + block.tenant * 2.0 + block.priority",
    "min(block.gap_s, 9.0) - block.generated * 8.0 + block.released * 0.25",
    "block.residence * cache.pressure - cache.hit_rate * block.depth + cache.recent_hit_rate",
    "block.prefix_tokens - cache.running_blocks * block.hits + cache.resident_blocks",
    "0.0 - block.depth - cache.request_blocks * block.seen",
)
HOOKS = (
    "",
    "def on_hit(block, request, cache):\n    block.s0 = block.s0 + request.hit_blocks - block.children\n",
    "def on_insert(block, request, cache):\n    block.s0 = cache.s0 + request.blocks\n    block.s1 = block.released\n"
    "def on_evict(block, cache):\n    cache.s0 = max(cache.s0 * 0.5, block.s0) + block.hits\n",
    "def on_hit(block, request, cache):\n    block.s1 = block.released - block.gap\n    cache.s0 = block.hits\n",
)
SOURCES = {
    f"{'touch ' * touch}{i}.{j}": f"{touched}def priority(block, cache):\n    return {score}\n{hooks}"
    for i, score in enumerate(SCORES)
    for j, hooks in enumerate(HOOKS)
    for touch, touched in ((False, ""), (True, 'SCORING = "touch"\n'))
    if (i + j) % 2 == touch and not (touch and ("age" in score or "residence" in score))
}
SHIPPED = tuple(name for name in policies() if "admit" not in load_policy(name).functions)


@cache
def compiled(name: str):
    return compile_policy(Policy.from_source(SOURCES[name], name) if name in SOURCES else load_policy(name))


@examples(180)
@given(random_traces(), st.sampled_from((*SOURCES, *SHIPPED)), st.integers(1, 30), serving, st.sampled_from([0, 1000]))
def test_user_policies_equal_the_twin(trace, name, capacity, serving, origin):
    options = Options(engine="sglang", clock_origin=origin, **serving)
    outcome = run_user(prepare(trace, options.decode), compiled(name), capacity, options, Parameters())
    agree(trace, compiled(name).policy, capacity, options, outcome)


@examples(25)
@given(random_traces(most_requests=120), st.sampled_from((*SOURCES, *core.POLICIES)), st.integers(4, 60), serving)
def test_longer_traces_equal_the_twin(trace, name, capacity, serving):
    options = Options(engine="sglang", **serving)
    prepared = prepare(trace, options.decode)
    if name in SOURCES:
        outcome = run_user(prepared, compiled(name), capacity, options, Parameters())
        agree(trace, compiled(name).policy, capacity, options, outcome)
    else:
        agree(trace, name, capacity, options, run_native(prepared, capacity, options, name, Parameters()))


@examples(80)
@given(random_traces(), st.sampled_from(tuple(EQUAL)), st.integers(1, 30), serving)
def test_contract_policies_equal_native_ones(trace, name, capacity, serving):
    """`released` and `hits` are the engine's own clock and count: in every mode, at every capacity."""
    options = Options(engine="sglang", **serving)
    prepared = prepare(trace, options.decode)
    mine = run_user(prepared, user_of(EQUAL[name]), capacity, options, Parameters())
    native = run_native(prepared, capacity, options, name.split()[0], Parameters())
    assert mine.hits.tolist() == native.hits.tolist()
    assert segments(prepared, mine.tree) == segments(prepared, native.tree)


@cache
def user_of(source: str):
    return user(source)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_admission_and_orphans_are_refused():
    trace = hand_trace([[0]], [15])
    with pytest.raises(ValueError, match="second_touch: SGLang has no admission; remove `admit`"):
        simulate(trace, "second_touch", 4, engine="sglang")
    with pytest.raises(ValueError, match="evicts leaves only"):
        simulate(trace, user(EQUAL["lru"]), 4, engine="sglang", orphans=True)


def test_a_score_that_is_not_finite_is_an_error():
    trace = hand_trace([[0], [1], [2]], [15, 15, 15])
    with pytest.raises(PolicyError, match="not finite at request 0"):
        simulate(trace, user("def priority(block, cache):\n    return 1.0 / block.hits\n"), 2, engine="sglang")


@pytest.mark.parametrize(
    ("name", "value"), [("slru_protected", 0), ("tlru_threshold", -1), ("tlru_next_prompt_estimate", 2.5)]
)
def test_bad_parameters_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        simulate(hand_trace([[0]], [15]), "slru", 4, engine="sglang", **{name: value})


def test_parameters_in_the_name():
    trace = hand_trace([[0], [0], [1], [2], [0]], [15, 15, 15, 15, 15])
    assert simulate(trace, "slru", 3, engine="sglang").hit_blocks == 2
    assert simulate(trace, "slru", 3, engine="sglang?slru_protected=3").hit_blocks == 1
