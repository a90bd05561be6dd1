"""The 29 workload families of prefix-cache-evolve as presets: all there, at real scale, each with its structure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from workloads import Trace, TraceError, load
from workloads.synthetic import GENERATORS, PRESETS, generator

ITS_NAMES = """
    shared_system_prompt rag_template_reuse long_context_mixed session_continuation_growth agentic_tool_workflows
    phase_shift_prompts multi_tenant_skew hotset_cold_scan concurrent_long_generation stochastic_serving_mix
    rolling_template_versions heavy_tailed_prefix_lengths priority_burst_recovery priority_one_off_noise
    tenant_phase_shift_cycles agent_trace_branching cyclic_working_set_pressure adversarial_unique_prompts
    cross_family_mixture tenant_session_reentry stochastic_serving_mix_shifted rolling_template_versions_shifted
    heavy_tailed_prefix_lengths_shifted priority_burst_recovery_shifted cyclic_working_set_pressure_shifted
    priority_one_off_noise_shifted tenant_phase_shift_cycles_shifted reasoning_burst reasoning_burst_shifted
""".split()  # noqa: SIM905
NEAR = 0.1
"""In shares of the prompt tokens: the peer's prompts are a few blocks, ours thousands of tokens."""


@cache
def made(name: str) -> Trace:
    return load(f"synthetic:{name}?seed=1")


def reuse(trace: Trace) -> float:
    """Token hits of an infinite cache over prompt tokens."""
    return (trace.n_refs - trace.n_blocks) * trace.block_tokens / trace.prompt_tokens


def prompt(trace: Trace, row: int) -> list[int]:
    return trace.block_ids[trace.offsets[row] : trace.offsets[row + 1]].tolist()


def blocks(trace: Trace, rows: np.ndarray) -> set[int]:
    return set(trace.block_ids[np.repeat(rows, trace.full_blocks)].tolist())


def head(trace: Trace) -> int:
    """Leading blocks common to all prompts."""
    common = prompt(trace, 0)
    for row in range(1, trace.n_requests):
        mine = prompt(trace, row)
        common = [a for a, b in zip(common, mine, strict=False) if a == b]
    return len(common)


def kinds(trace: Trace) -> np.ndarray:
    assert trace.request_type is not None
    return trace.request_type


def share(trace: Trace, kind: int, part: int = 0, parts: int = 1) -> float:
    """Share of the requests of a type in one of equal parts of the trace."""
    return float((np.array_split(kinds(trace), parts)[part] == kind).mean())


def turns(trace: Trace) -> list[tuple[int, int]]:
    """Rows of consecutive turns of a session."""
    assert trace.session is not None
    order = np.argsort(trace.session, kind="stable").tolist()
    return [(a, b) for a, b in pairwise(order) if trace.session[a] == trace.session[b]]


def one_system_prompt_and_five_tasks(trace: Trace) -> None:
    assert head(trace) >= 1_500 // 16
    assert len(np.unique(trace.tenant)) == 5


def one_template(trace: Trace) -> None:
    assert head(trace) == 420 // 16
    firsts = [prompt(trace, row)[27] for row in range(trace.n_requests) if trace.full_blocks[row] > 40]
    assert 2 * len(set(firsts)) < len(firsts)  # chunks recur


def documents_to_varying_depth(trace: Trace) -> None:
    readers: dict[int, set[int]] = {}
    for row in range(trace.n_requests):
        ids = prompt(trace, row)
        readers.setdefault(ids[350 // 16], set()).add(len(ids) * 16 // 800)
    assert np.mean([len(depths) > 1 for depths in readers.values()]) > 0.5


def every_turn_goes_on_from_the_last(trace: Trace) -> None:
    follow = turns(trace)
    assert len(follow) > 0.8 * trace.n_requests
    for before, after in follow:
        assert prompt(trace, after)[: trace.full_blocks[before]] == prompt(trace, before)
    assert all(trace.input_tokens[after] > trace.input_tokens[before] for before, after in follow)


def forks_resumes_and_replans(trace: Trace) -> None:
    assert set(kinds(trace).tolist()) == {0, 1, 2, 3}
    back = [(a, b) for a, b in turns(trace) if kinds(trace)[b] == 2]
    assert all(trace.input_tokens[b] <= trace.input_tokens[a] for a, b in back)


def retries_only(trace: Trace) -> None:
    assert set(kinds(trace).tolist()) == {0, 2}
    assert 0.03 < share(trace, 2) < 0.1


def another_hot_set_at_half_time(trace: Trace) -> None:
    assert (np.diff(kinds(trace)) != 0).sum() == 1
    assert abs(share(trace, 0) - 0.5) < 0.01
    assert not blocks(trace, kinds(trace) == 0) & blocks(trace, kinds(trace) == 1)


def three_tenants_of_which_one_sends_most(trace: Trace) -> None:
    assert trace.tenant is not None
    shares = np.bincount(trace.tenant) / trace.n_requests
    assert len(shares) == 3
    assert 0.55 < shares.max() < 0.8


def warm_scan_return(trace: Trace) -> None:
    np.testing.assert_allclose([share(trace, 1, part, 3) for part in range(3)], [0.0, 1.0, 0.0], atol=0.002)
    uses = np.bincount(trace.block_ids)
    assert max(uses[list(blocks(trace, kinds(trace) == 1))]) == 1
    warm, _, back = (set(prompt(trace, row)[40] for row in part) for part in np.array_split(np.arange(3_000), 3))
    assert len(warm & back) == 60


def pairs_with_long_answers(trace: Trace) -> None:
    assert bursts_of(trace) == 2
    assert 300 < np.median(trace.output_tokens) < 1_000


def bursts_of(trace: Trace) -> int:
    """The size of a burst: sessions that start within 0.2 s of its first, burst numbers from the session number."""
    assert trace.session is not None
    assert trace.turn is not None
    starts = trace.turn == 0
    at_s = dict(zip(trace.session[starts].tolist(), trace.arrival_s[starts].tolist(), strict=True))
    for size in (4, 3, 2):
        whole = [[at_s[n + i] for i in range(size)] for n in range(0, 600, size)]
        if all(max(times) - min(times) <= 0.21 for times in whole):
            return size
    return 1


def five_sources_in_changing_shares(trace: Trace) -> None:
    assert set(kinds(trace).tolist()) == {0, 1, 2, 3, 4}
    assert share(trace, 4, 2, 3) > 1.5 * share(trace, 4, 0, 3)


def more_agents_and_one_offs(trace: Trace) -> None:
    five_sources_in_changing_shares(trace)
    plain = made("stochastic_serving_mix")
    assert share(trace, 2) + share(trace, 4) > share(plain, 2) + share(plain, 4)


def canary_rollout_rollback(trace: Trace) -> None:
    found = [share(trace, 1, part, 4) for part in range(4)]
    np.testing.assert_allclose(found, [0.0, 0.25, 0.75, 0.2], atol=0.04)


def third_version_with_a_new_root(trace: Trace) -> None:
    first = {kind: {prompt(trace, row)[0] for row in np.flatnonzero(kinds(trace) == kind)} for kind in range(3)}
    assert first[0] == first[1] != first[2]
    assert share(trace, 2, 6, 7) == 1.0


def heavy_tail_and_three_tenants(trace: Trace) -> None:
    assert len(np.unique(trace.tenant)) == 3
    low, high = np.quantile(trace.input_tokens, (0.5, 0.99))
    assert high > 4 * low


def heavier_tail(trace: Trace) -> None:
    heavy_tail_and_three_tenants(trace)
    assert trace.input_tokens.mean() > 1.3 * made("heavy_tailed_prefix_lengths").input_tokens.mean()


def hot_set_of_high_priority(priorities: set[int]) -> Callable[[Trace], None]:
    def check(trace: Trace) -> None:
        assert trace.priority is not None
        assert set(trace.priority.tolist()) == priorities
        assert set(trace.priority[kinds(trace) == 0].tolist()) == {max(priorities)}
        assert set(trace.priority[kinds(trace) == 1].tolist()) == {0}
        quarters = [share(trace, 1, part, 4) for part in range(4)]
        assert quarters[0] == quarters[3] == 0.0
        assert min(quarters[1:3]) > 0.7

    return check


def important_one_offs(expected: float) -> Callable[[Trace], None]:
    def check(trace: Trace) -> None:
        assert trace.priority is not None
        once = np.repeat(trace.priority > 0, trace.full_blocks)
        assert abs((trace.priority > 0).mean() - expected) < 0.05
        uses = np.bincount(trace.block_ids)
        assert (uses[trace.block_ids[once]] == 1).mean() > 0.9
        assert (uses[trace.block_ids[~once]] == 1).mean() < 0.1

    return check


def cycles_of_tenants(cycles: int, tenants: int) -> Callable[[Trace], None]:
    def check(trace: Trace) -> None:
        assert trace.tenant is not None
        assert len(np.unique(trace.tenant)) == tenants
        parts = np.array_split(np.arange(trace.n_requests), 4 * cycles)
        polluted = [(kinds(trace)[rows] == 1).mean() > 0.5 for rows in parts]
        assert polluted == [False, True, True, False] * cycles
        warm = [set(trace.tenant[parts[4 * cycle]][1:-1].tolist()) for cycle in range(cycles)]
        assert warm == [{cycle % tenants} for cycle in range(cycles)]

    return check


def rounds(growth: float) -> Callable[[Trace], None]:
    def check(trace: Trace) -> None:
        assert trace.session is not None
        sizes = []
        for half in np.array_split(trace.session, 2):
            size = len(set(half.tolist()))
            assert (half[size:] == half[:-size]).all()  # the same prompts again, in the same order
            sizes.append(size)
        assert abs(sizes[1] / sizes[0] - growth) < 0.1

    return check


def stride_of_five(trace: Trace) -> None:
    rounds(22 / 12)(trace)
    assert trace.session is not None
    assert (np.diff(trace.session[:1_000]) == 5).mean() > 0.9


def no_reuse(trace: Trace) -> None:
    assert trace.n_blocks == trace.n_refs


def nothing_reused_in_the_end(trace: Trace) -> None:
    thirds = np.array_split(np.arange(trace.n_requests), 3)
    found = [reuse(trace.slice(rows[0], rows[-1] + 1)) for rows in thirds]
    assert found[0] > found[1] > 0.5
    assert found[2] == 0.0


def sessions_of_three_tenants_come_back(trace: Trace) -> None:
    assert len(np.unique(trace.tenant)) == 3
    away_s = [trace.arrival_s[b] - trace.arrival_s[a] for a, b in turns(trace)]
    assert len(away_s) > 0.4 * trace.n_requests
    assert np.median(away_s) > 600.0


def bursts(size: int, low: int, high: int) -> Callable[[Trace], None]:
    def check(trace: Trace) -> None:
        assert bursts_of(trace) == size
        assert trace.priority is not None
        assert 0.08 < trace.priority.mean() < 0.22
        p10, p90 = np.quantile(trace.output_tokens[kinds(trace) == 0], (0.1, 0.9))
        assert low < p10 < p90 < high

    return check


CHECKS: dict[str, Callable[[Trace], None]] = {
    "shared_system_prompt": one_system_prompt_and_five_tasks,
    "rag_template_reuse": one_template,
    "long_context_mixed": documents_to_varying_depth,
    "session_continuation_growth": every_turn_goes_on_from_the_last,
    "agentic_tool_workflows": forks_resumes_and_replans,
    "phase_shift_prompts": another_hot_set_at_half_time,
    "multi_tenant_skew": three_tenants_of_which_one_sends_most,
    "hotset_cold_scan": warm_scan_return,
    "concurrent_long_generation": pairs_with_long_answers,
    "stochastic_serving_mix": five_sources_in_changing_shares,
    "rolling_template_versions": canary_rollout_rollback,
    "heavy_tailed_prefix_lengths": heavy_tail_and_three_tenants,
    "priority_burst_recovery": hot_set_of_high_priority({0, 1, 3}),
    "priority_one_off_noise": important_one_offs(0.4),
    "tenant_phase_shift_cycles": cycles_of_tenants(6, 4),
    "agent_trace_branching": retries_only,
    "cyclic_working_set_pressure": rounds(17 / 9),
    "adversarial_unique_prompts": no_reuse,
    "cross_family_mixture": nothing_reused_in_the_end,
    "tenant_session_reentry": sessions_of_three_tenants_come_back,
    "stochastic_serving_mix_shifted": more_agents_and_one_offs,
    "rolling_template_versions_shifted": third_version_with_a_new_root,
    "heavy_tailed_prefix_lengths_shifted": heavier_tail,
    "priority_burst_recovery_shifted": hot_set_of_high_priority({0, 2, 5}),
    "cyclic_working_set_pressure_shifted": stride_of_five,
    "priority_one_off_noise_shifted": important_one_offs(0.6),
    "tenant_phase_shift_cycles_shifted": cycles_of_tenants(8, 5),
    "reasoning_burst": bursts(3, 300, 2_000),
    "reasoning_burst_shifted": bursts(4, 700, 4_000),
}


def test_every_family_of_the_peer_is_there() -> None:
    assert len(ITS_NAMES) == 29
    assert sorted(ITS_NAMES) == sorted(PRESETS) == sorted(CHECKS)
    assert not set(PRESETS) & set(GENERATORS)


@pytest.mark.parametrize("name", ITS_NAMES)
def test_it_has_the_structure_its_name_says(name: str) -> None:
    trace = made(name)
    CHECKS[name](trace)
    assert trace.name == f"{name}-seed1"
    assert 10_000 < trace.n_blocks < 1_100_000
    assert 500 < trace.input_tokens.mean() < 25_000


@pytest.mark.parametrize("name", [name for name in ITS_NAMES if PRESETS[name].reuse is not None])
def test_it_has_about_as_much_to_reuse(name: str) -> None:
    assert abs(reuse(made(name)) - PRESETS[name].reuse) < NEAR


def test_options_override_what_a_preset_sets() -> None:
    trace = load("synthetic:rolling_template_versions_shifted?seed=1&requests=70&releases=1&block=64")
    assert (trace.n_requests, trace.block_tokens) == (70, 64)
    given = trace.provenance["parameters"]
    assert isinstance(given, dict)
    assert (given["releases"], given["canary_share"]) == (1, 0.33)
    assert trace.provenance["preset"] == "rolling_template_versions_shifted"


def test_refusals() -> None:
    with pytest.raises(TraceError, match="did you mean 'reasoning_burst'"):
        generator("reasoning_brust")
    with pytest.raises(TraceError, match="cycles"):
        load("synthetic:hotset_cold_scan?seed=1&cycle=2")
