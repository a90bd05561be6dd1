"""Synthetic generators: sizes, independence of seeds, and that each does what it says."""

from __future__ import annotations

import inspect
import re
from itertools import combinations

import numpy as np
import pytest

from workloads import Trace, TraceError
from workloads.synthetic import GENERATORS, agent, chat, generator, multi_tenant, phase_shift, scan, zero_reuse
from workloads.synthetic.prompts import ROOT, PromptTree

NAMES = sorted(set(GENERATORS) - {"fitted"})  # needs tables: tests/test_fitted.py

PUBLISHED = {
    "chat": "336463c301d9",
    "shared_system": "ba1b00a1f44c",
    "rag": "79886139734b",
    "agent": "1bc509a67d1e",
    "scan": "4bae5f19da5e",
    "phase_shift": "3ba0bd99f477",
    "multi_tenant": "02024cda179c",
    "zero_reuse": "41e1f1262351",
}
"""How the fingerprints of seed 7 begin; published panels are made of these families."""


@pytest.fixture(scope="module")
def defaults() -> dict[str, Trace]:
    """Every generator at its default size."""
    return {name: GENERATORS[name](7) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_defaults_fill_real_caches(defaults: dict[str, Trace], name: str) -> None:
    trace = defaults[name]
    assert trace.n_blocks >= 100_000
    assert trace.n_requests == inspect.signature(GENERATORS[name]).parameters["requests"].default
    assert trace.session is not None
    assert trace.turn is not None
    assert Trace.build(name="x", block_tokens=trace.block_tokens, **trace.columns()).fingerprint == trace.fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_tells_the_size(defaults: dict[str, Trace], name: str) -> None:
    said = re.search(r"about\s+([\d,]+)\s+distinct\s+blocks", GENERATORS[name].__doc__ or "")
    assert said
    assert defaults[name].n_blocks == pytest.approx(int(said[1].replace(",", "")), rel=0.15)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_families_never_change(defaults: dict[str, Trace], name: str) -> None:
    assert defaults[name].fingerprint.startswith(PUBLISHED[name])


def windows(trace: Trace) -> set[tuple[int, ...]]:
    """Prompt and output lengths of four requests in a row, wherever they stand."""
    columns = (trace.input_tokens, trace.output_tokens)
    return set(
        zip(*(column[i : trace.n_requests - 3 + i].tolist() for i in range(4) for column in columns), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_same_arguments_same_trace_other_seed_other_stream(name: str) -> None:
    make = GENERATORS[name]
    one, again, two = make(1, requests=300), make(1, requests=300), make(2, requests=300)
    assert one.fingerprint == again.fingerprint
    # not merely shifted: neither the gaps nor the lengths of one stream recur in the other
    assert len(np.intersect1d(np.diff(one.arrival_s), np.diff(two.arrival_s))) < 0.2 * one.n_requests
    assert not windows(one) & windows(two)
    assert (one.input_tokens == two.input_tokens).mean() < 0.05


def test_families_share_nothing_under_one_seed() -> None:
    drawn = {name: windows(GENERATORS[name](1, requests=200)) for name in NAMES if name != "cross_family"}
    assert not [(a, b) for a, b in combinations(drawn, 2) if drawn[a] & drawn[b]]


@pytest.mark.parametrize("name", NAMES)
def test_size_and_block_size_are_honoured(name: str) -> None:
    for requests, block_tokens in ((1, 16), (37, 64)):
        trace = GENERATORS[name](3, requests=requests, block_tokens=block_tokens)
        assert (trace.n_requests, trace.block_tokens) == (requests, block_tokens)
        assert trace.provenance["generator"] == name


def test_requests_scale_the_block_count() -> None:
    small, large = chat(5, requests=500), chat(5, requests=2_000)
    assert large.n_blocks > 3 * small.n_blocks


def test_chat_contexts_grow_by_turn() -> None:
    trace = chat(0, requests=2_000)
    assert trace.turn is not None
    means = [trace.input_tokens[trace.turn == turn].mean() for turn in range(4)]
    assert means == sorted(means)


def test_zero_reuse_reuses_nothing() -> None:
    trace = zero_reuse(0)
    assert trace.n_blocks == trace.n_refs


def test_scan_blocks_are_read_once() -> None:
    trace = scan(0, requests=1_500)
    assert trace.request_type is not None
    uses = np.bincount(trace.block_ids)
    of_scan = np.repeat(trace.request_type == 1, trace.full_blocks)
    assert 0.15 < (trace.request_type == 1).mean() < 0.5
    assert (uses[trace.block_ids[of_scan]] == 1).mean() > 0.8


def test_phases_share_only_the_system_prompt_and_the_first_comes_back() -> None:
    trace = phase_shift(0, requests=2_000, phases=4)
    quarters = [set(trace.slice(a, a + 500).block_ids.tolist()) for a in range(0, 2_000, 500)]
    assert all(quarters)
    whole = [set(trace.block_ids[trace.offsets[a] : trace.offsets[a + 500]].tolist()) for a in range(0, 2_000, 500)]
    common = len(whole[0] & whole[1])
    assert common <= 300 // 16
    assert len(whole[0] & whole[3]) > 100 * max(common, 1)


def test_agents_have_helpers_and_compact() -> None:
    trace = agent(0, requests=2_000, context_limit=30_000)
    assert trace.request_type is not None
    assert 0 < (trace.request_type == 1).mean() < 0.5
    assert trace.input_tokens.max() < 30_000 + 40_000
    assert trace.n_blocks < 0.2 * trace.n_refs


def test_tenants_have_classes() -> None:
    trace = multi_tenant(0, requests=2_000)
    assert trace.tenant is not None
    assert trace.priority is not None
    assert len(np.unique(trace.tenant)) > 8
    per_tenant = {(t, p) for t, p in zip(trace.tenant.tolist(), trace.priority.tolist(), strict=True)}
    assert len(per_tenant) == len({t for t, _ in per_tenant})  # one priority per tenant


def test_a_block_belongs_to_the_segment_in_which_it_fills_up() -> None:
    # blocks of 4: system of 6 tokens fills block 0; 3 more fill one block (6 + 3 = 9 -> 2 blocks), 1 token is left
    tree = PromptTree(4)
    system = tree.extend(ROOT, 6, "system")
    assert tree.path(system) == ((0, 1),)
    one, two = tree.extend(system, 3, "x"), tree.extend(system, 3, "y")
    assert tree.path(one) == ((0, 2),)
    assert tree.path(two) == ((0, 1), (2, 1))
    assert tree.extend(system, 3, "x") == one
    assert tree.extend(one, 3) != tree.extend(one, 3)
    assert tree.tokens(two) == 9


def test_bad_arguments() -> None:
    with pytest.raises(TraceError, match="did you mean 'chat'"):
        generator("chatt")
    for bad in (
        {"requests": 0},
        {"requests": 2.5},
        {"block_tokens": 0},
        {"sessions_per_s": -1.0},
        {"think_s": float("nan")},
    ):
        with pytest.raises(TraceError, match="expected"):
            chat(0, **bad)  # type: ignore[arg-type]
    for seed in (-1, 1.5, True):
        with pytest.raises(TraceError, match="seed"):
            chat(seed, requests=5)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="share"):
        scan(0, requests=5, scan_share=1.5)
