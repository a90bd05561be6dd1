"""What a writer of policies is told: against a slow search on small traces, and against the engine's text filter."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openevolve.config import PromptConfig
from openevolve.prompt.sampler import PromptSampler

from sim import feedback
from sim.bounds import optimum
from sim.explanation import explain
from sim.feedback import Regret
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy
from sim.score import Cell, score
from sim.simulation import Options, run_policy
from workloads import Trace

WORST = compile_policy(Policy.from_source("def priority(block, cache):\n    return -block.released\n"))
LRU = compile_policy(load_policy("lru"))
ARTIFACT_BYTES = 8192


def forest(seed: int, requests: int = 60, depth: int = 6, width: int = 3, least_tail: int = 0) -> Trace:
    """Return random walks down a tree: prefix-chained by construction, with much reuse."""
    rng = np.random.default_rng(seed)
    ids: dict[tuple[int, ...], int] = {}
    offsets, blocks = [0], []
    for _ in range(requests):
        path = tuple(rng.integers(0, width, rng.integers(1, depth + 1)).tolist())
        blocks += [ids.setdefault(path[: k + 1], len(ids)) for k in range(len(path))]
        offsets.append(len(blocks))
    tokens = np.diff(offsets) * 4 + rng.integers(least_tail, 4, requests)
    return Trace.build(
        name="forest",
        block_tokens=4,
        offsets=offsets,
        block_ids=blocks,
        arrival_s=np.arange(requests, dtype=float),
        input_tokens=tokens,
        output_tokens=np.ones(requests),
    )


def slow(trace: Trace, capacity_blocks: int, request: list[int], block: list[int], most: int) -> list[Regret]:
    """The same, one eviction at a time, over Python lists."""
    rows = [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    best = optimum(trace, capacity_blocks).hit_blocks_per_request
    groups = defaultdict(list)
    for at, evicted in zip(request, block, strict=True):
        later = [i for i in range(at + 1, len(rows)) if evicted in rows[i]]
        if later and rows[later[0]].index(evicted) < best[later[0]]:
            groups[at, later[0]].append((rows[later[0]].index(evicted), evicted))
    found = []
    for (at, asked), members in groups.items():
        depth, evicted = min(members)
        before = [i for i in range(at + 1) if evicted in rows[i]]
        tokens = len(members) * trace.block_tokens
        found.append(Regret(at, asked, len(members), tokens, depth, at - before[-1], len(before)))
    return sorted(found, key=lambda r: (-r.blocks, r.evicted_at, r.asked_at))[:most]


@pytest.mark.parametrize("policy", [LRU, WORST], ids=["lru", "worst"])
@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), capacity=st.integers(7, 40), most=st.integers(1, 12))
def test_costliest_evictions_equal_a_slow_search(policy, seed, capacity, most):
    trace = forest(seed)
    replay = run_policy(prepare(trace), policy, capacity, Options(), log_evictions=10_000)
    request = replay.state.log_request[: replay.logged]
    block = replay.state.log_block[: replay.logged].astype(np.int64)
    assert replay.logged == replay.counts["evicted_blocks"]
    judged = feedback.judge_evictions(trace, capacity, request, block)
    assert feedback.costliest_evictions(judged, trace.block_tokens, most) == slow(
        trace, capacity, request.tolist(), block.tolist(), most
    )


def test_costliest_evictions_are_found_at_all_and_absent_where_nothing_is_lost():
    trace = forest(1, requests=200)
    replay = run_policy(prepare(trace), WORST, 12, Options(), log_evictions=10_000)
    log = replay.state.log_request[: replay.logged], replay.state.log_block[: replay.logged].astype(np.int64)
    judged = feedback.judge_evictions(trace, 12, *log)
    found = feedback.costliest_evictions(judged, trace.block_tokens, 10)
    assert len(found) == 10
    assert found[0].blocks >= found[-1].blocks >= 1
    nothing = feedback.judge_evictions(trace, 12, np.zeros(0, np.int32), np.zeros(0, np.int64))
    assert feedback.costliest_evictions(nothing, trace.block_tokens) == []
    assert feedback.describe_evictions(nothing).startswith("0.0% of 0 evictions")


def test_the_log_alone_finds_what_the_shadow_oracle_finds_lost():
    """Leaves only, no admission, no second copies: what the optimum hits and the policy does not was evicted once."""
    trace = forest(2, requests=150, least_tail=1)
    replay = run_policy(prepare(trace), WORST, 12, Options(), log_evictions=10_000)
    log = replay.state.log_request[: replay.logged], replay.state.log_block[: replay.logged].astype(np.int64)
    judged = feedback.judge_evictions(trace, 12, *log)
    found = explain(trace, WORST, 12)
    assert np.count_nonzero(judged.regretted) == found.account["lost_to_evictions"] > 0
    assert judged.accesses.min() >= 1
    assert judged.age.min() >= 1


def test_what_admission_cost_follows_from_the_evictions_and_the_gap():
    trace = forest(5, requests=150, least_tail=1)
    policy = compile_policy(load_policy("second_touch"))
    replay = run_policy(prepare(trace), policy, 12, Options(), log_evictions=10_000)
    log = replay.state.log_request[: replay.logged], replay.state.log_block[: replay.logged].astype(np.int64)
    found = explain(trace, policy, 12)
    missing = found.hits["optimum"] - found.hits["policy"]
    text = feedback.describe_bypasses(feedback.judge_evictions(trace, 12, *log), missing, found.bypassed.decisions)
    least = found.account["lost_to_bypasses"] - found.account["hit_by_policy_alone"]
    assert least > 0
    assert f"kept out {found.bypassed.decisions} blocks" in text
    assert f"at least {least} of them" in text
    assert text.endswith(f"against {found.account['lost_to_evictions']} lost to evictions")


def test_a_forged_log_is_judged_without_complaint():
    """Blocks nobody had asked for: an honest child cannot log them."""
    trace = forest(4)
    request, block = np.zeros(50, np.int32), np.arange(50, dtype=np.int64) % trace.n_blocks
    judged = feedback.judge_evictions(trace, 12, request, block)
    text = feedback.describe_regrets(judged, feedback.costliest_evictions(judged, 4), cell(1))
    assert "of 50 evictions" in text


def test_what_tells_regretted_evictions_is_said_first():
    regretted = np.arange(100) < 40
    same, at = np.ones(100, np.int64), np.zeros(100, np.int32)
    judged = feedback.Judged(regretted, at, at, same, same * 9, np.where(regretted, 5, 1))
    text = feedback.describe_evictions(judged).splitlines()
    assert text[0].startswith("40.0% of 100 evictions")
    assert text[1] == "- block.seen is higher where regretted (AUC 1.00); regretted by value, 1 0%, 4-5 100%"
    assert len(text) == 3


def test_last_reference_of_the_last_block_is_within_bounds():
    """The block with the highest id, evicted after its last use, has no place behind it to look at."""
    trace = forest(3)
    last = np.array([trace.n_requests - 1], np.int32), np.array([trace.n_blocks - 1], np.int64)
    judged = feedback.judge_evictions(trace, 20, *last)
    assert not judged.regretted.any()


def wide_judged(seed: int) -> feedback.Judged:
    """Return evictions whose fields reach from 0 to the highest numbers a trace allows."""
    rng = np.random.default_rng(seed)
    columns = [(10 ** rng.uniform(0, 8, 500)).astype(np.int64) for _ in range(5)]
    return feedback.Judged(rng.random(500) < 0.3, *columns)


def cell(hits: int, name: str = "conversation", optimum_tokens: int = 600) -> Cell:
    return Cell(name, 0.05, 1234, 1000, 200, optimum_tokens, hits)


def test_weakest_ignores_cells_that_do_not_count():
    cells = [cell(300), cell(250), cell(0, optimum_tokens=205)]
    assert feedback.weakest(cells) == 1
    assert feedback.weakest([cell(300), cell(300)]) == 0, "the first of equals"


def test_texts_say_what_they_should():
    cells = [cell(300), cell(0, "narrow", optimum_tokens=205)]
    lines = feedback.describe_cells(cells).splitlines()
    assert lines[1] == "conversation 1234 0.3000 0.2000 0.6000 +0.250"
    assert lines[2] == "narrow 1234 0.0000 0.2000 0.2050 not scored, lost +0.2000"
    ranks = feedback.describe_rank(score([cell(300)], 0), {"lru": score([cell(200)], 4), "best": score([cell(600)], 0)})
    assert ranks.splitlines() == ["1. best +1.0000", "2. THIS POLICY +0.2500", "3. lru -0.0004"]
    some = feedback.Judged(*(np.array([1, 0]) for _ in range(6)))
    text = feedback.describe_regrets(some, [Regret(10, 15, 3, 12, 2, 4, 7)], cells[0])
    assert "trace conversation, capacity 1234 blocks; 50.0% of 2 evictions" in text
    assert "3 blocks (12 hit tokens lost) from depth 2, idle for 4 requests, used by 7 before" in text
    assert text.endswith("asked for again 5 requests later")
    assert "costliest" not in feedback.describe_regrets(some, [], cells[0])


@settings(max_examples=50)
@given(
    st.lists(st.tuples(*[st.integers(0, 10**9)] * 7), min_size=3, max_size=3),
    st.integers(0, 10**15),
    st.integers(0, 99),
)
def test_texts_pass_the_engines_filter_and_are_small(numbers, tokens, seed):
    """It redacts runs of 32 letters and digits, and words such as token followed by a colon."""
    name = "mooncake_conversation_validation"
    cells = [Cell(name, 0.01, 10**9, 10**15, 0, 10**15, tokens) for _ in range(33)]
    baselines = {f"a_baseline_with_a_long_name_{i}": score(cells, 3) for i in range(20)}
    texts = [
        feedback.describe_cells(cells),
        feedback.describe_rank(score(cells, 100), baselines),
        feedback.describe_regrets(wide_judged(seed), [Regret(*row) for row in numbers], cells[0]),
    ]
    assert len(texts[2]) <= 1_200
    sampler = PromptSampler(PromptConfig())
    for text in texts:
        assert sampler._apply_security_filter(text) == text
        assert "`" * 3 not in text
    assert sum(len(text.encode()) for text in texts) < ARTIFACT_BYTES
