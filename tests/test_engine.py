"""Traces of a few requests with the arithmetic beside them. Blocks of 10 tokens; the policy is LRU unless said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_traces import hand_trace

from sim.core import fields
from sim.integrity import IntegrityError, check_integrity
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy
from sim.simulation import Options, run_engine, run_policy, simulate

LRU = "def priority(block, cache):\n    return block.released\n"


def run(trace, capacity, source=LRU, **options):
    """Return (hits, evictions as (request, block), outcome) of a checked replay."""
    chosen, policy = Options(**options), compile_policy(Policy.from_source(source))
    prepared = prepare(trace, chosen.decode)
    outcome = run_policy(prepared, policy, capacity, chosen, log_evictions=100)
    check_integrity(prepared, outcome, capacity)
    state, n = outcome.state, outcome.logged
    evictions = list(zip(state.log_request[:n].tolist(), state.log_block[:n].tolist(), strict=True))
    return outcome.hits.tolist(), evictions, outcome


def test_the_tail_of_a_request_leaves_first():
    # 4 places. Request 0 fills 3 blocks and a tail. Request 1 needs 2: the tail's place, and block 2, released first.
    # Request 2 hits 0 and 1, needs 2 more: one is free, and 3 is the only block nothing uses.
    trace = hand_trace([[0, 1, 2], [3], [0, 1, 2]], [31, 11, 31])
    hits, evictions, _ = run(trace, 4)
    assert hits == [0, 0, 2]
    assert evictions == [(1, 2), (2, 3)]
    assert simulate(trace, "vllm", 4).hit_blocks_per_request.tolist() == hits


def test_old_engines_queue_the_partial_tail():
    # 4 places, all full after request 0 (0, 1, 2, tail). <= 0.22 queues tail, 2, 1, 0; >= 0.23 the same order here.
    # Request 1 (3 + tail) takes tail and 2; queue 1, 0, then <= 0.22: tail, 3 — >= 0.23: tail in front.
    # Request 2 (4, no tail) takes 1 under <= 0.22, but the tail's place under >= 0.23. Request 3 asks for 0 and 1.
    trace = hand_trace([[0, 1, 2], [3], [4], [0, 1, 2]], [31, 11, 10, 31])
    assert simulate(trace, "vllm", 4, engine="vllm<=0.22").hit_blocks_per_request.tolist() == [0, 0, 0, 1]
    assert simulate(trace, "vllm", 4).hit_blocks_per_request.tolist() == [0, 0, 0, 2]


def test_the_last_token_is_always_recomputed():
    # 20 tokens are 2 full blocks, but at most (20 - 1) // 10 = 1 may be hit; with 21 tokens 2.
    hits, _, _ = run(hand_trace([[0, 1], [0, 1], [0, 1]], [20, 20, 21]), 10)
    assert hits == [0, 1, 2]


def test_a_recomputed_last_block_is_a_further_copy():
    # 3 places. Request 0: 1 is released 1st, 0 2nd. Request 1 hits 0 and computes 1 again: copy released 3rd, 0 4th.
    # Request 2 hits 0 and the first 1, needs a place for its tail token: the copy goes.
    hits, evictions, outcome = run(hand_trace([[0, 1], [0, 1], [0, 1]], [20, 20, 21]), 3)
    assert hits == [0, 1, 2]
    assert evictions == [(2, 1)]
    assert outcome.counts["peak_resident_blocks"] == 3


def test_a_found_last_block_may_be_evicted_by_its_own_recomputation():
    # 2 places. Request 1 hits 0, finds 1 but must recompute it, and has no other place than that of 1 itself.
    hits, evictions, outcome = run(hand_trace([[0, 1], [0, 1], [0, 1]], [20, 20, 20]), 2)
    assert hits == [0, 1, 1]
    assert evictions == [(1, 1), (2, 1)]
    assert outcome.state.block["seen"][1] == 3


@pytest.mark.parametrize(("tokens", "evicted"), [(10, []), (11, [(2, 0)])])
def test_a_partial_tail_occupies_a_block_while_it_runs(tokens, evicted):
    # 3 places, 2 taken; a prompt of 10 tokens needs the third, one of 11 tokens another.
    _, evictions, outcome = run(hand_trace([[0], [1], [2]], [10, 10, tokens]), 3)
    assert evictions == evicted
    assert outcome.counts["peak_used_blocks"] == 3


@pytest.mark.parametrize(("prompt", "tokens", "last"), [([1], 11, 1), ([1, 2], 21, 0)])
def test_bypassed_blocks_occupy_space_while_they_run(prompt, tokens, last):
    # 3 places, second touch: 0 enters at request 1. Request 2 is bypassed; it needs 2 places (0 stays) or 3 (0 goes).
    source = LRU + "def admit(block, request, cache):\n    return block.seen >= 2.0\n"
    hits, evictions, outcome = run(hand_trace([[0], [0], prompt, [0]], [11, 11, tokens, 11]), 3, source)
    assert hits == [0, 0, 0, last]
    assert evictions == ([] if last else [(2, 0)])
    assert outcome.counts["bypassed_blocks"] == 1 + len(prompt)


def test_refusing_a_block_refuses_what_continues_it():
    # Only blocks at depth 0 and 2 are wanted; 2 cannot be reached without 1, so it is bypassed too.
    source = LRU + "def admit(block, request, cache):\n    return block.depth != 1.0\n"
    _, _, outcome = run(hand_trace([[0, 1, 2]], [31]), 10, source)
    assert (outcome.counts["admitted_blocks"], outcome.counts["bypassed_blocks"]) == (1, 2)


def test_hits_are_touched_before_room_is_made():
    # 3 places with 0, 1, 2 in LRU order. Request 3 hits the oldest, 0, and needs 2 more: 1 and 2 go, not 0.
    hits, evictions, _ = run(hand_trace([[0], [1], [2], [0, 3]], [10, 10, 10, 21]), 3)
    assert hits == [0, 0, 0, 1]
    assert evictions == [(3, 1), (3, 2)]


def test_a_request_larger_than_the_cache_is_not_served():
    trace = hand_trace([[0], [0, 1], [0]], [11, 21, 11])
    hits, evictions, outcome = run(trace, 2)
    assert hits == [0, -1, 1]
    assert evictions == []
    assert math.isnan(outcome.start_s[1])
    assert outcome.counts["unserved_requests"] == 1
    assert outcome.counts["looked_up_blocks"] == 2
    assert simulate(trace, "vllm", 2).hit_blocks_per_request.tolist() == hits


def test_an_empty_prompt_changes_nothing():
    hits, _, outcome = run(hand_trace([[0], [], [0]], [11, 0, 11]), 2)
    assert hits == [0, 0, 1]
    assert outcome.counts["looked_up_blocks"] == 2


def test_the_head_of_the_line_blocks_those_behind_it():
    # 3 places, 10 tokens/s. Request 0 (2 blocks) runs 0..2 s. Request 1 (2 blocks, 0.5 s) must wait until 2 and runs
    # to 4. Request 2 (1 block, 1 s) would fit beside request 0 but is behind 1: it starts at 2 and finishes at 3.
    # TTFT: 2; 1.5 + 2 = 3.5; 1 + 1 = 2. Mean 7.5 / 3, median 2. Makespan 4 s: 3 requests, 50 tokens.
    trace = hand_trace([[0, 1], [2, 3], [4]], [20, 20, 10], arrival_s=[0, 0.5, 1])
    for policy in ("vllm", "lru"):
        result = simulate(trace, policy, 3, mode="overlap", prefill_tokens_per_s=10, decode_s_per_token=0.0)
        assert result.start_s.tolist() == [0.0, 2.0, 2.0]
        latency = result.latency
        assert (latency.ttft_mean_s, latency.ttft_p50_s) == (2.5, 2.0)
        assert latency.ttft_p95_s == pytest.approx(2 + 0.9 * 1.5)
        assert latency.queue_mean_s == pytest.approx(2.5 / 3)
        assert latency.makespan_s == 4.0
        assert (latency.requests_per_s, latency.tokens_per_s) == (0.75, 12.5)


def test_decode_time_holds_blocks_but_not_the_first_token():
    # 2 places. Request 0: prefill 1 s, 5 output tokens at 1 s each: it holds its block until 6 s. Request 1 needs 2.
    trace = hand_trace([[0], [1, 2]], [10, 20], output_tokens=[5, 0], arrival_s=[0, 0])
    for policy in ("vllm", "lru"):
        result = simulate(trace, policy, 2, mode="overlap", prefill_tokens_per_s=10, decode_s_per_token=1.0)
        assert result.start_s.tolist() == [0.0, 6.0]
        assert result.latency.ttft_mean_s == (1 + 6 + 2) / 2
        assert result.latency.waited_requests == 1


def test_blocks_of_a_running_request_are_hit():
    # Request 1 arrives while request 0 runs, shares its 2 blocks and needs one more and a tail: 3 + 1 + 1 places.
    trace = hand_trace([[0, 1], [0, 1, 2]], [21, 31], arrival_s=[0, 0.1])
    for policy in ("vllm", "lru"):
        result = simulate(trace, policy, 5, mode="overlap", prefill_tokens_per_s=10)
        assert result.hit_blocks_per_request.tolist() == [0, 2]
        assert result.start_s.tolist() == [0.0, 0.1]
        assert result.peak_used_blocks == 5


def test_at_most_max_running_requests_run():
    trace = hand_trace([[0], [1], [2]], [10, 10, 10], arrival_s=[0, 0, 0])
    for policy in ("vllm", "lru"):
        options = {"mode": "overlap", "prefill_tokens_per_s": 10, "max_running": 2}
        assert simulate(trace, policy, 9, **options).start_s.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("ghosts", "admitted"), [(0, 0), (1, 0), (2, 1)])
def test_the_ghost_list_forgets_the_least_recently_seen(ghosts, admitted):
    # Second touch. 0 is refused and remembered, then 1; a list of one block has forgotten 0 when it comes back.
    source = LRU + "def admit(block, request, cache):\n    return block.seen >= 2.0\n"
    _, _, outcome = run(hand_trace([[0], [1], [0]], [10, 10, 10]), 5, source, ghost_blocks=ghosts)
    assert outcome.counts["admitted_blocks"] == admitted
    assert outcome.state.n[0] == min(ghosts, 2 - admitted)


SHALLOW_FIRST = "def priority(block, cache):\n    return block.depth\n"


def test_only_leaves_are_evicted_by_default():
    # 3 places: 0 <- 1, then 2. Request 2 needs a place. The lowest depth nothing continues is 2's: 0 is protected by 1.
    trace = hand_trace([[0, 1], [2], [3], [0, 1]], [20, 10, 10, 21])
    hits, evictions, _ = run(trace, 3, SHALLOW_FIRST)
    assert hits == [0, 0, 0, 2]
    assert evictions == [(2, 2), (3, 3)]


def test_orphans_can_neither_be_hit_nor_kept():
    # The same with orphans allowed: 0 (depth 0, released before 2) leaves, 1 stays and cannot be hit. Request 3
    # recomputes 0 and 1: the orphan is replaced, and its 3 places need 2 and 3 to go as well.
    trace = hand_trace([[0, 1], [2], [3], [0, 1]], [20, 10, 10, 21])
    hits, evictions, outcome = run(trace, 3, SHALLOW_FIRST, orphans=True)
    assert hits == [0, 0, 0, 0]
    assert evictions == [(2, 0), (3, 1), (3, 2), (3, 3)]
    assert outcome.counts["resident_blocks"] == 2


def test_an_orphan_goes_with_all_its_copies():
    # 4 places. Request 1 may hit 1 of its 2 blocks, so the second is recomputed: 0, 1 and a copy of 1. Request 2 needs
    # 2 places, 1 is free: 0 leaves, 1 and its copy are orphans. Request 3 recomputes 0 and 1: both go, 2 stays.
    trace = hand_trace([[0, 1], [0, 1], [2], [0, 1]], [20, 20, 15, 25])
    hits, evictions, outcome = run(trace, 4, SHALLOW_FIRST, orphans=True)
    assert hits == [0, 1, 0, 0]
    assert evictions == [(2, 0), (3, 1), (3, 1)]
    assert outcome.counts["resident_blocks"] == 3


def test_generated_blocks_enter_at_the_finish():
    # 15 + 16 - 1 = 30 tokens have KV: one prompt block and 2 generated ones, 3 places in all. The next turn has
    # 15 + 16 tokens, so with inferred ids it finds them: 3 hits.
    trace = hand_trace([[0], [0, 1, 2]], [15, 31], output_tokens=[16, 1])
    hits, _, outcome = run(trace, 4, decode="infer")
    assert hits == [0, 3]
    assert (outcome.counts["generated_blocks"], outcome.counts["dropped_generated_blocks"]) == (2, 0)
    hits, _, outcome = run(trace, 5, decode="private")
    assert hits == [0, 1]
    assert (outcome.counts["generated_blocks"], outcome.counts["admitted_blocks"]) == (2, 3)
    hits, _, outcome = run(trace, 4, decode="none")
    assert (hits, outcome.counts["generated_blocks"]) == ([0, 1], 0)


def test_nothing_continues_a_prompt_without_full_blocks():
    # Any later prompt starts with the no blocks of request 0, and [0, 1] has its 5 + 16 tokens: still no continuation.
    trace = hand_trace([[], [0, 1]], [5, 25], output_tokens=[16, 1])
    hits, _, outcome = run(trace, 9, decode="infer")
    assert (hits, outcome.counts["generated_blocks"]) == ([0, 0], 2)
    assert simulate(trace, "vllm", 9, decode="infer").hit_blocks_per_request.tolist() == [0, 0]


def test_generated_blocks_without_room_are_dropped():
    # 2 places: prompt block and tail. 3 blocks would be complete at the finish; the first generated one takes the
    # tail's place, the second finds none.
    trace = hand_trace([[0]], [15], output_tokens=[16])
    _, _, outcome = run(trace, 2, decode="private")
    assert (outcome.counts["generated_blocks"], outcome.counts["dropped_generated_blocks"]) == (1, 1)
    result = simulate(trace, "vllm", 2, decode="private")
    assert (result.generated_blocks, result.dropped_generated_blocks) == (1, 1)


def test_traces_without_full_blocks_generate_blocks():
    trace = hand_trace([[], []], [5, 5], output_tokens=[16, 16])
    _, _, outcome = run(trace, 9, decode="private")
    assert outcome.counts["generated_blocks"] == 4
    assert outcome.state.parents.tolist() == [0xFFFFFFFF, 0, 0xFFFFFFFF, 2]


def test_records_show_what_happened():
    # 0 is used by requests 1 and 3 (steps), at 1.0 s and 4.5 s; 1 once.
    trace = hand_trace([[0], [1], [0]], [11, 11, 11], arrival_s=[1.0, 2.0, 4.5], turn=[0, 0, 7], session=[0, 1, 0])
    _, _, outcome = run(trace, 9)
    first, second = outcome.state.block[:2]
    shown = ("last_access", "last_access_s", "gap", "gap_s", "inserted", "hits", "seen", "depth", "turn", "released")
    assert [first[name] for name in shown] == [3, 4.5, 2, 3.5, 1, 1, 2, 0, 7, 3]
    assert [second[name] for name in shown] == [2, 2, fields.NEVER, fields.NEVER, 2, 0, 1, 0, 0, 2]


def test_moving_averages_follow_requests():
    # 2 places; hit rates per request 0, 1, 0 with weight 1/64; one eviction at the last request.
    trace = hand_trace([[0], [0], [1]], [11, 11, 11])
    _, _, outcome = run(trace, 2)
    cache = outcome.state.cache[0]
    assert cache["recent_hit_rate"] == (1 / 64) * (63 / 64)
    assert cache["pressure"] == 1 / 64
    assert cache["hit_rate"] == 1 / 3
    assert cache["now"] == 3


BROKEN_LAWS = [
    ("counts", "hit_blocks", "hit \\+ admitted"),
    ("counts", "evicted_blocks", "admitted \\+ generated"),
    ("counts", "resident_blocks", "admitted \\+ generated"),
    ("counts", "peak_used_blocks", "exceeds the capacity"),
    ("children", 0, "children counts"),
    ("pins", 0, "pinned"),
    ("place", 0, "where it is said to be"),
    ("ghost", 4, "ghost counter"),
    ("status", 0, "ancestors|resident counter|candidates"),
    ("hits", 0, "sum over requests"),
]


@pytest.mark.parametrize(("what", "where", "law"), BROKEN_LAWS)
def test_check_integrity_names_the_broken_law(what, where, law):
    trace = hand_trace([[0, 1], [0, 1], [2, 3, 4], [0, 5]], [21, 21, 30, 20])
    _, _, outcome = run(trace, 4)
    state = outcome.state
    if what == "counts":
        outcome.counts[where] += 5
    elif what == "hits":
        outcome.hits[where] += 1
    elif what == "children":
        state.block["children"][where] += 1
    elif what == "pins":
        state.pins[where] = 1
    elif what == "place":
        state.candidates.place_of[state.candidates.node[0]] += 1
    elif what == "ghost":
        state.n[0] += 1
    else:
        state.status[where] = 0
    with pytest.raises(IntegrityError, match=law):
        check_integrity(trace, outcome, 4)


def test_check_integrity_walks_the_native_pool():
    trace = hand_trace([[0, 1], [0, 1], [2, 3, 4], [0, 5]], [21, 20, 30, 20])
    outcome = run_engine(prepare(trace), 4, Options())
    check_integrity(trace, outcome, 4)
    outcome.pool.free[0] -= 1
    with pytest.raises(IntegrityError, match="free counter"):
        check_integrity(trace, outcome, 4)
    outcome.pool.free[0] += 1
    content = outcome.pool.slots["content"][:-1]
    outcome.pool.first_copy[content[content != 0xFFFFFFFF][0]] = 0xFFFFFFFF
    with pytest.raises(IntegrityError, match="lookup reaches"):
        check_integrity(trace, outcome, 4)


def test_policies_see_whole_ticks_of_time():
    policy = compile_policy(load_policy("lru"))
    trace = hand_trace([[0]], [10], arrival_s=[0.3])
    outcome = run_policy(prepare(trace), policy, 4, Options())
    assert outcome.state.block["last_access_s"][0] == np.floor(0.3 * 1024) / 1024
