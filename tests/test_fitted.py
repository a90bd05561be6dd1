"""Traces fitted to real ones: the forest, the tables, the generator, and how close the shipped ones come."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.calibration import GOAL_SHARES, difference
from sim.ladder import ladder
from workloads import Trace, TraceError, load
from workloads import spec as specs
from workloads.fitted import fit, fitted, kernels
from workloads.fitted.fitting import even_clock
from workloads.fitted.forest import BRANCH, CONTINUATION, ROOT, forest
from workloads.fitted.quantiles import Curve, spread, stratified, summarise, whole
from workloads.fitted.specification import specification
from workloads.fitted.tables import checked
from workloads.synthetic import chat, zero_reuse

SHIPPED = (
    "cc_weka_v8",
    "lmcache_agent",
    "mooncake_conversation",
    "mooncake_synthetic",
    "mooncake_toolagent_1000",
    "ragpulse",
    "taubench_airline",
)


def a_trace(paths: list[list[int]]) -> Trace:
    lengths = [len(path) for path in paths]
    return Trace.build(
        name="t",
        block_tokens=4,
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        block_ids=[block for path in paths for block in path],
        arrival_s=np.arange(len(paths)),
        input_tokens=[4 * length + 1 for length in lengths],
        output_tokens=[1] * len(paths),
    )


@pytest.fixture(scope="module")
def chatting() -> Trace:
    return chat(3, requests=1_500)


@pytest.fixture(scope="module")
def tables(chatting: Trace) -> dict:
    return fit(chatting)


def test_forest_of_a_few_prompts():
    found = forest(a_trace([[1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5], [9], [1, 2, 3, 5, 6], []]))
    assert found.kind.tolist() == [ROOT, CONTINUATION, CONTINUATION, BRANCH, ROOT, CONTINUATION, ROOT]
    assert found.parent.tolist() == [-1, 0, 1, 2, -1, 3, -1]
    assert found.hits.tolist() == [0, 2, 3, 3, 0, 4, 0]
    assert not found.stale.any()


def test_a_prefix_that_many_part_from_is_no_parent():
    found = forest(a_trace([[0, 1, 10 + k] for k in range(9)]))
    assert found.kind.tolist() == [ROOT] * 9
    assert found.prefix.tolist() == [-1] + [0] * 8
    assert (found.prefix_blocks.tolist(), found.prefix_parent.tolist()) == ([2], [-1])


def test_what_siblings_took_makes_a_parent_stale():
    found = forest(a_trace([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4, 6]]))
    assert found.stale.tolist() == [False, False, True]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=40, max_size=400), st.integers(0, 99))
def test_curves_keep_the_mean_and_small_numbers_their_share(values: list[int], seed: int):
    curve = Curve.model_validate(summarise(spread(values), 33))
    drawn = whole(curve.draw(np.random.default_rng(seed), 4_000))
    assert drawn.min() >= min(values) - 1
    assert abs(drawn.mean() - np.mean(values)) <= 0.05 * np.mean(values) + 0.3


@settings(max_examples=30)
@given(st.integers(1, 3_000), st.integers(0, 99))
def test_stratified_draws_cover_every_stratum(count: int, seed: int):
    drawn = stratified(np.random.default_rng(seed), count)
    assert len(drawn) == count
    assert ((drawn >= 0) & (drawn < 1)).all()
    first = drawn[: min(64, count)]
    assert len(np.unique((first * len(first)).astype(int))) == len(first)


def test_clock_of_ticks_is_spread_within_them():
    clock, quantum = even_clock(np.repeat(np.arange(50) * 3.0, 4))
    assert quantum == 3.0
    assert np.allclose(np.diff(clock), 0.75)
    assert even_clock(np.arange(9.0))[1] == 0.0


def test_ownership_follows_the_last_user():
    """Request 3 continues a branch point of 0 below which 1 and 2 took everything: their rest must shrink."""
    grown = kernels.new_grown(4)
    grown.blocks[:] = 10
    grown.taken[:] = (4, 2, 0, 0)  # 1 took 0's first 4, 2 took 1's first 2
    grown.taker[:] = (1, 2, -1, -1)
    kernels._take(grown, 3, 0, 7)
    assert grown.taken.tolist() == [7, 4, 2, 0]
    assert grown.taker.tolist() == [3, 3, 3, -1]


def test_the_same_arguments_make_the_same_trace(tables: dict):
    one, again, two = fitted(1, tables=tables), fitted(1, tables=tables), fitted(2, tables=tables)
    assert one.fingerprint == again.fingerprint != two.fingerprint
    assert Trace.build(name="x", block_tokens=one.block_tokens, **one.columns()).fingerprint == one.fingerprint


@pytest.mark.parametrize("requests", [1, 2, 37, 3_000])
@pytest.mark.parametrize("block_tokens", [5, 512])
def test_any_number_of_requests_and_block_size(tables: dict, requests: int, block_tokens: int):
    made = fitted(5, requests, block_tokens, tables=tables)
    assert (made.n_requests, made.block_tokens) == (requests, block_tokens)
    assert made.session is not None
    assert made.turn is not None


@pytest.mark.parametrize("factor", [0.2, 10])
def test_size_scales_and_the_rate_stays(factor: float):
    spec = specs.shipped_spec("mooncake_synthetic")
    one, made = (specs.generate(spec, 1, round(times * spec.fields.requests)) for times in (1, factor))
    assert made.span_s / one.span_s == pytest.approx(factor, rel=0.01)
    assert made.n_refs / one.n_refs == pytest.approx(factor, rel=0.05)
    assert made.n_blocks / one.n_blocks == pytest.approx(factor, rel=0.2)


def test_hits_are_those_of_the_fitted_trace_uncalibrated():
    real = chat(11, requests=2_500)
    off = difference(ladder(fitted(1, tables=fit(real)), GOAL_SHARES), ladder(real, GOAL_SHARES))
    assert np.abs(off).max() < 6


def test_what_has_no_reuse_gets_none():
    made = fitted(1, tables=fit(zero_reuse(1, requests=300)))
    assert made.n_blocks == made.n_refs


def test_tables_hold_no_id_and_no_request(chatting: Trace, tables: dict):
    """Renumbered ids and another name change nothing, and there are far fewer numbers than requests have."""
    shuffled = Trace.build(name="other", **_with_other_ids(chatting))
    assert fit(shuffled) == tables
    assert len(_numbers(tables)) < chatting.n_refs / 5


def _with_other_ids(trace: Trace) -> dict:
    columns = {key: np.array(column) for key, column in trace.columns().items()}
    columns["block_ids"] = np.random.default_rng(0).permutation(trace.n_blocks)[columns["block_ids"]]
    return {"block_tokens": trace.block_tokens, **columns}


def _numbers(content: object) -> list:
    if isinstance(content, dict):
        content = list(content.values())
    return [number for item in content for number in _numbers(item)] if isinstance(content, list) else [content]


def test_too_small_a_trace_is_refused():
    with pytest.raises(TraceError, match="no distribution"):
        fit(chat(1, requests=50))


BROKEN = {
    "unknown field": (("more",), 1),
    "missing": (("prefixes",), ...),
    "descending curve": (("arrivals", "gaps"), [1, 0.5]),
    "infinite": (("arrivals", "gaps"), [0, float("inf")]),
    "not a number": (("tokens", "tail"), [0, float("nan")]),
    "negative": (("tokens", "tail"), [-1, 1]),
    "huge": (("tokens", "tail"), [0, 1e300]),
    "shares do not sum": (("kinds",), [[0.5, 0.1, 0.1]]),
    "no block size": (("block_tokens",), 0),
    "prefix of itself": (("prefixes",), [{"blocks": 3, "parent": 0}]),
    "prefix of none": (("prefixes",), [{"blocks": 3, "parent": 7}]),
    "popularity": (("roots", "popularity"), [[1] * 50]),
    "group": (("roots", "group"), [9]),
    "kind that nothing describes": (("continuations", "stretches"), []),
    "choice": (("match",), {"choice": 0}),
    "a list": ((), []),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tables_are_refused(tables: dict, name: str):
    path, value = BROKEN[name]
    broken = copy.deepcopy(tables)
    if not path:
        broken = value
    else:
        at = broken
        for key in path[:-1]:
            at = at[key]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value
    with pytest.raises(TraceError, match="tables"):
        checked(broken)


def test_more_references_than_fit_are_refused(tables: dict):
    huge = copy.deepcopy(tables)
    huge["roots"]["beyond"] = [[{"start": 0, "blocks": [2e9, 2e9]}]]
    huge["roots"]["group"] = [0] * len(huge["roots"]["group"])
    with pytest.raises(TraceError, match="block references"):
        fitted(1, 100, tables=huge)


def test_longer_prefixes_than_fit_are_refused(tables: dict):
    huge = copy.deepcopy(tables)
    for prefix in huge["prefixes"]:
        prefix |= {"blocks": 2_000_000_000, "parent": -1}
    with pytest.raises(TraceError, match="common prefixes"):
        fitted(1, 2, tables=huge)


@pytest.mark.parametrize("arguments", [{"requests": 0}, {"requests": 1.5}, {"block_tokens": 0}, {"seed": -1}])
def test_arguments_without_sense_are_refused(tables: dict, arguments: dict):
    with pytest.raises(TraceError):
        fitted(**{"seed": 1, "tables": tables, **arguments})


def test_tables_are_needed():
    with pytest.raises(TraceError, match="option 'tables' is needed"):
        load("synthetic:fitted?seed=1")
    with pytest.raises(TraceError, match=r"field 'sources\[0\].parameters.tables': expected this parameter"):
        specs.parse_spec("format: kvevolve-workload\nversion: 1\nname: x\nsources: [{family: fitted}]")


def test_specification_round_trip(tables: dict):
    spec = specs.parse_spec(specification("mine", tables, {"source": "a log"}).to_yaml())
    assert spec.fields.sources[0].parameters["tables"] == tables
    assert specs.generate(spec, 4).n_requests == tables["requests"]


def test_a_date_does_not_leave_the_trace(chatting, tables):
    late = replace(chatting, arrival_s=chatting.arrival_s + 1.7e9)
    found = fit(late)["arrivals"]["profile_s"]
    assert found[0] == 0
    assert found == pytest.approx(tables["arrivals"]["profile_s"], abs=1e-3)


def test_shipped_specifications_are_small_and_say_where_they_come_from():
    assert specs.shipped() == sorted(SHIPPED)
    for name in SHIPPED:
        spec = specs.shipped_spec(name)
        assert len(spec.to_yaml()) < 61_440
        assert all(spec.fields.about[field] for field in ("source", "licence", "citation"))


SEEDS = {"cc_weka_v8": (1,), "lmcache_agent": (1, 2, 3, 4)}
LIMITS = {"lmcache_agent": 4.5}
"""Points that one seed may be off. lmcache_agent has 70 sessions, one of them a burst of 186 requests with 40 % of all
blocks: on 16 seeds it is at most 4.5 off, every other trace at most 2.2 on 8. The recorded sessions themselves, laid on
the clock with other seeds (``lmcache_agent?seed=8``), differ by up to 8.7 points from those of seed 0."""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_specification_hits_like_the_real_trace(real_trace, name: str):
    """LRU and the optimum within 3 points at 1, 2, 5, 10 and 20 % of the distinct blocks."""
    trace, spec = real_trace(name), specs.shipped_spec(name)
    real, made = ladder(trace, GOAL_SHARES), [specs.generate(spec, seed) for seed in SEEDS.get(name, (1, 2))]
    off = np.array([difference(ladder(one, GOAL_SHARES), real) for one in made])
    assert np.abs(off).max() <= LIMITS.get(name, 3.0)
    assert np.abs(off.mean(axis=0)).max() <= 3.0
    for one in made:
        assert one.n_refs / trace.n_refs == pytest.approx(1, abs=0.04)
        assert one.n_blocks / trace.n_blocks == pytest.approx(1, abs=0.04)
