"""Synthetic families beyond the first eight: that each does what it says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from workloads import Trace, TraceError, load
from workloads.synthetic import (
    GENERATORS,
    agent_branches,
    agent_tools,
    batch_sweep,
    diurnal,
    few_shot,
    generator,
    id_churn,
    long_document_qa,
    loop,
    noisy_neighbour,
    priority_noise,
    rag_order,
    reasoning,
    recovery,
    returning_chat,
    stale_popularity,
)
from workloads.synthetic.agents import TOOLS
from workloads.synthetic.daily import SERVEGEN
from workloads.synthetic.starts import DAY_S, Day


def gaps_s(trace: Trace) -> np.ndarray:
    """Seconds between consecutive turns of a session."""
    assert trace.session is not None
    order = np.argsort(trace.session, kind="stable")
    return np.diff(trace.arrival_s[order])[np.diff(trace.session[order]) == 0]


def prompt(trace: Trace, row: int) -> list[int]:
    return trace.block_ids[trace.offsets[row] : trace.offsets[row + 1]].tolist()


def reused(trace: Trace) -> float:
    return 1.0 - trace.n_blocks / trace.n_refs


def test_people_come_back_within_minutes_hours_and_days() -> None:
    trace = returning_chat(1, requests=3_000, sessions_per_s=0.002)
    away_s = gaps_s(trace)
    assert 30 < np.median(away_s) < 120
    assert (away_s > 12 * 3_600).mean() > 0.02
    assert ((away_s > 600) & (away_s < 12 * 3_600)).mean() > 0.06
    late = away_s[away_s > 16 * 3_600] / DAY_S
    assert np.median(np.abs(late - np.round(late))) < 0.1  # about the same hour, days later
    assert trace.span_s > 2 * DAY_S


def test_turns_of_a_session_are_in_time_order() -> None:
    for trace in (returning_chat(1, requests=400), agent_tools(1, requests=400), batch_sweep(1, requests=400)):
        assert trace.session is not None
        assert trace.turn is not None
        order = np.argsort(trace.session, kind="stable")
        same = np.diff(trace.session[order]) == 0
        assert (np.diff(trace.turn[order])[same] == 1).all()


def test_tools_have_latencies_of_their_own_and_sub_agents_report() -> None:
    assert sum(tool.share for tool in TOOLS) == pytest.approx(1.0)
    trace = agent_tools(1, requests=800, sessions_per_s=0.1)
    quick, slow = np.quantile(gaps_s(trace), (0.1, 0.95))
    assert slow > 10 * quick
    assert trace.request_type is not None
    assert trace.session is not None
    assert 0.05 < (trace.request_type == 1).mean() < 0.6
    sub = np.flatnonzero(trace.request_type == 1)
    main = np.flatnonzero(trace.request_type == 0)
    heads = {prompt(trace, row)[0] for row in sub}
    assert not heads & {prompt(trace, row)[0] for row in main}  # prompts of their own
    assert len(heads) < 0.3 * len(sub)  # shared by sessions
    none = agent_tools(1, requests=500, subagent_share=0.0)
    assert none.request_type is None
    assert np.median(gaps_s(agent_tools(1, requests=500, latency_factor=20.0))) > 1.5 * np.median(gaps_s(none))


def test_sub_agents_run_side_by_side() -> None:
    trace = agent_tools(2, requests=1_000, sessions_per_s=0.01, subagent_share=0.2)
    assert trace.session is not None
    assert trace.request_type is not None
    for session in np.unique(trace.session):
        rows = np.flatnonzero((trace.session == session) & (trace.request_type == 1))
        grew = [set(prompt(trace, a)) < set(prompt(trace, b)) for a, b in pairwise(rows)]
        if len(grew) > 20:
            assert 1 - np.mean(grew) > 0.05  # not one chain: calls of several agents alternate
            return
    pytest.fail("no session with sub-agents")


def test_branches_return_to_blocks_left_long_ago() -> None:
    straight = agent_branches(1, requests=1_000, fork_share=0.0, replan_share=0.0, resume_share=0.0)
    assert straight.request_type is None
    trace = agent_branches(1, requests=1_000, context_limit=20_000)
    assert trace.input_tokens.max() <= 20_000
    assert trace.session is not None
    order = np.argsort(trace.session, kind="stable").tolist()
    follow = [(a, b) for a, b in pairwise(order) if trace.session[a] == trace.session[b]]
    extends = [prompt(trace, b)[: trace.full_blocks[a]] == prompt(trace, a) for a, b in follow]
    assert 0.5 < np.mean(extends) < 0.95


def test_chunk_order_alone_decides_what_a_prefix_cache_can_reuse() -> None:
    fixed, ranked, shuffled = (rag_order(1, requests=700, order=order) for order in ("fixed", "ranked", "shuffled"))
    for other in (ranked, shuffled):
        np.testing.assert_array_equal(other.input_tokens, fixed.input_tokens)
        np.testing.assert_array_equal(other.arrival_s, fixed.arrival_s)
    assert reused(fixed) > reused(ranked) + 0.02
    assert reused(ranked) > reused(shuffled) + 0.1


def test_releases_reach_all_requests_or_are_rolled_back() -> None:
    trace = few_shot(1, requests=4_000, releases=3, rollback_every=3, canary_share=0.1, rollout_share=0.5)
    phases = np.array_split(trace.request_type, 10)
    shares = [np.bincount(phase, minlength=4) / len(phase) for phase in phases]
    expected = [(1, 0, 0, 0), (0.9, 0.1, 0, 0), (0.5, 0.5, 0, 0), (0, 1, 0, 0), (0, 0.9, 0.1, 0), (0, 0.5, 0.5, 0)]
    expected += [(0, 0, 1, 0), (0, 0, 0.9, 0.1), (0, 0, 0.5, 0.5), (0, 0, 0.8, 0.2)]
    np.testing.assert_allclose(shares, expected, atol=0.09)


def test_ids_die_and_never_come_back() -> None:
    trace = id_churn(1, requests=2_000, lifetime_s=60.0, stable_share=0.0)
    assert trace.tenant is not None
    assert trace.request_type is not None
    users: dict[int, set[tuple[int, int]]] = {}
    for row in range(trace.n_requests):
        users.setdefault(prompt(trace, row)[0], set()).add((trace.tenant[row], trace.request_type[row]))
    assert all(len(found) == 1 for found in users.values())  # a head belongs to one id of one template
    assert reused(trace) < reused(id_churn(1, requests=2_000, lifetime_s=1e6)) - 0.1


def test_sweeps_read_rows_once_or_sample_them() -> None:
    trace = batch_sweep(1, requests=3_000, jobs=6, samples=4, sampled_share=0.5)
    assert trace.session is not None
    assert trace.tenant is not None
    rows = np.bincount(trace.session)
    assert set(rows[rows > 0].tolist()) <= {1, 2, 3, 4}  # less than 4 where the trace ends
    assert len(np.unique(trace.tenant)) == 6
    assert np.ptp(trace.arrival_s[trace.session == np.argmax(rows)]) <= 30.0
    assert reused(batch_sweep(1, requests=1_000, sampled_share=1.0)) > reused(
        batch_sweep(1, requests=1_000, sampled_share=0.0)
    )


def test_documents_are_read_whole_or_in_part() -> None:
    whole, uniform, pareto = (
        long_document_qa(1, requests=400, depth=depth) for depth in ("whole", "uniform", "pareto")
    )
    assert whole.input_tokens.mean() > uniform.input_tokens.mean() > 1.5 * pareto.input_tokens.mean()
    tail = [long_document_qa(1, requests=400, depth="pareto", tail_alpha=alpha) for alpha in (1.1, 3.0)]
    assert np.quantile(tail[0].input_tokens, 0.99) > 1.5 * np.quantile(tail[1].input_tokens, 0.99)


def test_thinking_stays_in_the_history_or_not() -> None:
    kept, dropped = (reasoning(1, requests=600, keep_share=share, turns_mean=5.0) for share in (1.0, 0.0))
    for trace, grows in ((kept, True), (dropped, False)):
        assert trace.session is not None
        order = np.argsort(trace.session, kind="stable").tolist()
        follow = [(a, b) for a, b in pairwise(order) if trace.session[a] == trace.session[b]]
        whole = [trace.input_tokens[b] >= trace.input_tokens[a] + trace.output_tokens[a] for a, b in follow]
        assert bool(np.mean(whole) > 0.99) is grows
    assert np.median(kept.output_tokens) > 1_000


@pytest.mark.parametrize("shape", SERVEGEN)
def test_a_day_has_the_published_peak_and_trough(shape: str) -> None:
    peak, trough = SERVEGEN[shape]
    day = Day(peak, trough)
    assert day.rates.mean() == pytest.approx(1.0, abs=0.01)
    assert day.rates.max() == pytest.approx(peak, rel=0.01)
    assert day.rates.min() == pytest.approx(trough, abs=0.01)
    times_s = [day.at_s(passed) for passed in np.linspace(0.0, 2.0, 49)]
    assert all(a < b for a, b in pairwise(times_s))
    assert times_s[24] == pytest.approx(DAY_S)
    assert times_s[36] - times_s[12] == pytest.approx(DAY_S)


def test_requests_follow_the_day() -> None:
    trace = diurnal(1, requests=4_000, shape="deepseek-r1", burstiness=1.0)
    hours = trace.arrival_s / 3_600
    day, night = ((hours >= a) & (hours < a + 4) for a in (12, 0))
    assert day.sum() > 4 * night.sum()
    assert 18 < hours[-1] < 32
    short = diurnal(1, requests=500, hours=6.0)
    assert short.arrival_s[-1] < 12 * 3_600


def test_the_neighbour_changes_nothing_but_its_own_traffic() -> None:
    quiet, loud = (noisy_neighbour(1, requests=n, noisy_share=share) for n, share in ((400, 0.0), (900, 0.4)))
    assert quiet.tenant is not None
    assert loud.tenant is not None
    assert quiet.tenant.min() == 1
    kept = np.flatnonzero(loud.tenant > 0)[:400]
    np.testing.assert_array_equal(loud.input_tokens[kept], quiet.input_tokens[: len(kept)])
    np.testing.assert_array_equal(loud.arrival_s[kept], quiet.arrival_s[: len(kept)])
    assert 0.2 < (loud.tenant == 0).mean() < 0.6
    uses = np.bincount(loud.block_ids)
    flood = np.repeat(loud.request_type == 1, loud.full_blocks)
    assert (uses[loud.block_ids[flood]] == 1).mean() > 0.5


def test_recovery_with_and_without_priorities() -> None:
    plain = recovery(1, requests=600)
    assert plain.priority is None
    assert plain.tenant is None
    assert recovery(1, requests=600, hot_priority=2).priority is not None
    parts = [(part == 1).mean() for part in np.array_split(plain.request_type, 4)]
    assert parts[0] == parts[3] == 0.0
    assert 0.7 < min(parts[1:3]) <= max(parts[1:3]) < 0.9
    rate = [1 / np.diff(part).mean() for part in np.array_split(plain.arrival_s, 4)]
    assert min(rate[1:3]) > 2 * max(rate[0], rate[3])


def test_loops_have_the_size_asked_for() -> None:
    trace = loop(1, requests=800, loop_blocks=5_000, prompt_tokens=2_000.0, root_tokens=64)
    uses = np.bincount(trace.block_ids)
    assert 5_000 <= (uses > 1).sum() < 5_400
    assert trace.session is not None
    shrunk = loop(1, requests=800, loop_blocks=5_000, growth=0.5)
    first, second = (len(set(half.tolist())) for half in np.array_split(shrunk.session, 2))
    assert abs(second / first - 0.5) < 0.1


def test_stale_documents_are_used_most_and_never_again() -> None:
    trace = stale_popularity(1, requests=2_000, epochs=5, stale_share=0.5)
    assert trace.request_type is not None
    assert (np.diff(trace.request_type) >= 0).all()
    epochs = [set(trace.block_ids[np.repeat(trace.request_type == epoch, trace.full_blocks)]) for epoch in range(5)]
    assert all(not a & b for i, a in enumerate(epochs) for b in epochs[:i])
    uses = np.bincount(trace.block_ids)
    hottest = [np.mean([uses[block] for block in epoch if uses[block] > 1]) for epoch in epochs]
    assert hottest[0] > 2 * max(hottest[1:])


@pytest.mark.parametrize(
    "spec",
    [
        "loop?loop_blocks=1&stride=7",
        "loop?growth=0.01",
        "few_shot?releases=40",
        "recovery?cycles=90&tenants=50",
        "batch_sweep?jobs=90&parallel_jobs=200&samples=1",
        "serving_mix?burst_max=1&topics=1",
        "noisy_neighbour?quiet_tenants=1&noisy_share=1",
        "rag_order?chunks=1&chunks_per_prompt=9&order=shuffled",
        "returning_chat?day_share=1&visits_mean=9",
        "agent_tools?subagent_share=1&steps_mean=1&parallel_share=1&context_limit=1",
        "agent_branches?fork_share=1&context_limit=1",
        "long_document_qa?documents=1&section_tokens=1000000&depth=pareto&tail_alpha=0.1",
        "reasoning?burst=100&keep_share=1",
        "diurnal?shape=m-mid&burstiness=20&hours=0.1",
        "stale_popularity?epochs=1",
        "stale_popularity?stale_share=1",
        "id_churn?lifetime_s=0.001&stable_share=1",
        "priority_noise?noise_share=1&noise_priority=0",
        "cross_family?requests=2",
    ],
)
def test_extreme_settings_give_a_sound_trace(spec: str) -> None:
    name, _, options = spec.partition("?")
    trace = load(f"synthetic:{name}?seed=5&{options if 'requests' in options else options + '&requests=60'}")
    assert trace.n_requests == (2 if "requests" in options else 60)
    assert Trace.build(name="x", block_tokens=16, **trace.columns()).fingerprint == trace.fingerprint


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("rag_order?seed=1&order=rankd", "did you mean 'ranked'"),
        ("long_document_qa?seed=1&depth=deep", "known: pareto, uniform, whole"),
        ("diurnal?seed=1&shape=m-larg", "did you mean 'm-large'"),
        ("serving_mix?seed=1&regimes=odd", "known: even, shifted"),
        ("few_shot?seed=1&canary_share=1.5", "canary_share: expected a share from 0 to 1"),
        ("recovery?seed=1&cycles=0", "cycles: expected an integer >= 1"),
        ("recovery?seed=1&cycles=2.5", "option 'cycles': expected int"),
        ("recovery?seed=1&hot_priority=-1", "hot_priority: expected an integer >= 0"),
        ("loop?seed=1&growth=0", "growth: expected a finite number > 0"),
        ("loop?seed=1&popularity=1", "option of synthetic:loop"),
        ("loop?seed=-1", "seed: expected an integer >= 0"),
        ("loop", "option 'seed' is needed"),
    ],
)
def test_refusals_name_the_argument(spec: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        load(f"synthetic:{spec}")


def test_popularity_may_be_even() -> None:
    trace = priority_noise(1, requests=300, popularity=0.0, prompts=3, noise_share=0.0)
    assert trace.priority is None


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_docstring_documents_every_parameter(name: str) -> None:
    text = generator(name).__doc__ or ""
    for parameter in generator(name).__annotations__:
        assert parameter == "return" or f"        {parameter}: " in text
    assert "distinct" in text
