"""The kernels against their slow twins, on random traces, capacities, modes, options and policies."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from small_traces import random_traces

from sim.core import residency
from sim.engines import VLLM
from sim.integrity import check_integrity
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy, policies
from sim.simulation import Options, run_engine, run_policy
from sim.twin import twin_policy
from sim.twin_lru import twin_engine


def examples(count: int):
    """Return settings for so many examples."""
    return settings(max_examples=count)


RANDOM_POLICIES = 40
BLOCK_FIELDS = (
    *("last_access", "gap", "gap_s", "inserted", "inserted_s", "released", "hits", "seen", "depth", "children"),
    *("generated", "turn", "tenant", "s0", "s1", "prefix_tokens", "recompute_cost", "age", "age_s", "residence"),
    *("prompt_blocks", "inferred_turn", "turn_gap"),
)
CACHE_FIELDS = (
    *("resident_blocks", "running_blocks", "hit_rate", "recent_hit_rate", "pressure", "request_blocks", "s0", "now_s"),
    *("continued", "usual_gap"),
)
REQUEST_FIELDS = (
    *("input_tokens", "blocks", "hit_blocks", "new_blocks", "turn", "tenant"),
    *("known_blocks", "inferred_turn", "turn_gap", "turn_gap_s"),
)


def _term(rng: np.random.Generator, request: bool, depth: int = 2) -> str:
    """Return a random expression; arithmetic that is exact to the last bit in both back ends."""
    if depth == 0 or rng.random() < 0.2:
        records = [("block", BLOCK_FIELDS), ("cache", CACHE_FIELDS)] + [("request", REQUEST_FIELDS)] * request
        record, names = records[rng.integers(len(records))]
        return str(rng.choice([f"{record}.{rng.choice(names)}", f"{rng.integers(-3, 9)}.0"], p=[0.8, 0.2]))
    a, b = _term(rng, request, depth - 1), _term(rng, request, depth - 1)
    forms = (f"({a} + {b})", f"({a} - {b})", f"({a} * 0.5)", f"min({a}, {b})", f"max({a}, {b})", f"abs({a})")
    more = (f"({a} if {b} > {_term(rng, request, 0)} else {b})", f"({a} / (1.0 + abs({b})))", f"math.sqrt(abs({a}))")
    return str(rng.choice([*forms, *more]))


def random_source(seed: int) -> str:
    """Return the source of a random policy: any scoring, with or without admission and hooks."""
    rng = np.random.default_rng(seed)
    touch = rng.random() < 0.3
    priority = ".age"
    while ".age" in priority and (touch or priority == ".age"):
        priority = f"block.{rng.choice(BLOCK_FIELDS)} * {rng.integers(-2, 3)}.0 + {_term(rng, request=False)}"
    lines = ['SCORING = "touch"'] * touch + ["def priority(block, cache):", f"    return {priority}"]
    if rng.random() < 0.5:
        lines += ["def admit(block, request, cache):", f"    return {_term(rng, True)} < {_term(rng, True)}"]
    for hook in ("on_hit", "on_insert", "on_evict"):
        if rng.random() < 0.5:
            request = hook != "on_evict"
            lines += [f"def {hook}(block, {'request, ' * request}cache):"]
            lines += [f"    block.s0 = {_term(rng, request, 1)}"] * request
            lines += [f"    cache.s0 = min(cache.s0 * 0.5 + {_term(rng, request, 1)}, 1000000.0)"]
    return "\n".join(lines) + "\n"


@cache
def compiled(name: str):
    if name.startswith("random"):
        return compile_policy(Policy.from_source(random_source(int(name.removeprefix("random"))), name))
    return compile_policy(load_policy(name))


NAMES = (*policies(), *(f"random{seed}" for seed in range(RANDOM_POLICIES)))

serving = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["serial", "overlap"]),
        "decode": st.sampled_from(["none", "private", "infer"]),
        "max_running": st.sampled_from([1, 2, 3, 256]),
        "prefill_tokens_per_s": st.sampled_from([50.0, 1000.0]),
    }
)
keeping = st.fixed_dictionaries(
    {"orphans": st.booleans(), "ghost_blocks": st.sampled_from([0, 1, 2, 5, 1000]), "clock_origin": st.just(0)}
)


@examples(250)
@given(random_traces(), st.integers(1, 30), serving, st.sampled_from(VLLM))
def test_native_engine_equals_its_twin(trace, capacity, serving, engine):
    options = Options(engine=engine, **serving)
    prepared = prepare(trace, options.decode)
    outcome = run_engine(prepared, capacity, options)
    assert outcome.hits.tolist() == twin_engine(trace, capacity, options)
    check_integrity(prepared, outcome, capacity)


def compare(trace, name: str, capacity: int, options: Options) -> None:
    prepared, policy = prepare(trace, options.decode), compiled(name)
    outcome = run_policy(prepared, policy, capacity, options, log_evictions=10_000)
    twin = twin_policy(trace, policy.policy, capacity, options)
    assert outcome.hits.tolist() == twin.hits
    np.testing.assert_array_equal(outcome.start_s, twin.start_s)
    assert {name: outcome.counts[name] for name in twin.counts} == twin.counts
    assert set(outcome.counts) - set(twin.counts) == {"priority_calls"}
    state, n = outcome.state, outcome.logged
    assert list(zip(state.log_request[:n].tolist(), state.log_block[:n].tolist(), strict=True)) == twin.evictions
    check_integrity(prepared, outcome, capacity)
    event(f"scoring {outcome.rules.scoring}, orphans {options.orphans}, evictions {n > 0}")


@examples(800)
@given(random_traces(), st.sampled_from(NAMES), st.integers(1, 30), serving, keeping)
def test_policy_engine_equals_its_twin(trace, name, capacity, serving, keeping):
    compare(trace, name, capacity, Options(**serving, **keeping))


@examples(60)
@given(random_traces(most_requests=120), st.sampled_from(NAMES), st.integers(4, 60), serving, keeping)
def test_policy_engine_equals_its_twin_on_longer_traces(trace, name, capacity, serving, keeping):
    compare(trace, name, capacity, Options(**serving, **keeping))


@pytest.mark.parametrize("name", policies())
def test_shipped_policies_ignore_the_clock_origin(name):
    @examples(25)
    @given(random_traces(), st.integers(2, 20), serving, st.sampled_from([1, 12_345, 2**33]))
    def shifted(trace, capacity, serving, origin):
        prepared = prepare(trace, serving["decode"])
        here = run_policy(prepared, compiled(name), capacity, Options(**serving), log_evictions=1000)
        there = run_policy(
            prepared, compiled(name), capacity, Options(**serving, clock_origin=origin), log_evictions=1000
        )
        assert here.hits.tolist() == there.hits.tolist()
        assert here.counts == there.counts
        n = here.logged
        np.testing.assert_array_equal(here.state.log_block[:n], there.state.log_block[:n])

    shifted()


@examples(200)
@given(
    random_traces(),
    st.sampled_from([name for name in NAMES if compiled(name).policy.timeless]),
    st.integers(1, 30),
    serving,
    st.sampled_from([0, 3, 1000]),
)
def test_scores_without_time_are_equal_at_every_moment(trace, name, capacity, serving, ghosts):
    """Scored once, when a block becomes a candidate, or at each eviction: the same evictions."""
    options = Options(**serving, ghost_blocks=ghosts)
    prepared, policy = prepare(trace, options.decode), compiled(name)
    once = run_policy(prepared, policy, capacity, options, log_evictions=10_000)
    assert once.rules.scoring == residency.WHEN_CANDIDATE
    source = policy.policy.source.replace('SCORING = "touch"\n', "")
    source = source.replace("    return ", "    return 0.0 * cache.now + ", 1)  # reads time, to no effect
    each = run_policy(prepared, rescored(source), capacity, options, log_evictions=10_000)
    assert each.rules.scoring == residency.AT_EVICTION
    assert each.hits.tolist() == once.hits.tolist()
    assert each.logged == once.logged
    np.testing.assert_array_equal(each.state.log_block[: each.logged], once.state.log_block[: once.logged])


@cache
def rescored(source: str):
    return compile_policy(Policy.from_source(source))
