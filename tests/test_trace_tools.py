"""Cutting, scaling, merging and coarsening of traces: what must not change does not."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_traces import dialogue_trace, hand_trace, random_traces

from workloads import Trace, TraceError, formats, load, sampling, validation
from workloads.combine import merge
from workloads.cutting import between, coarsened, hashed, within
from workloads.scaling import cloned, compressed
from workloads.statistics import first_uses, hit_blocks

SESSIONS = hand_trace(
    [[0, 1], [2, 3], [0, 1, 4], [2, 3, 5], [0, 6], [0]],
    [20, 25, 30, 35, 20, 10],
    arrival_s=[10, 20, 30, 50, 60, 70],
    session=[0, 1, 0, 1, 2, -1],
    turn=[0, 0, 1, 1, 0, -1],
)


def prompts_of(trace: Trace) -> list[list[int]]:
    """Return the block ids of each request."""
    return [trace.block_ids[a:b].tolist() for a, b in pairwise(trace.offsets.tolist())]


def hits_of(trace: Trace) -> list[int]:
    """Return the blocks each request hits in an infinite cache."""
    return hit_blocks(trace, first_uses(trace)).tolist()


def test_a_request_at_the_cut_belongs_to_the_later_part():
    parts = [within(SESSIONS, low, high) for low, high in ((0, 1 / 3), (1 / 3, 0.5), (0.5, 1))]  # cuts at 30 and 40 s
    assert [part.arrival_s.tolist() for part in parts] == [[10, 20], [30], [50, 60, 70]]
    with pytest.raises(TraceError, match=r"no request from 0\.4 to 0\.5 of the time"):
        within(SESSIONS, 0.4, 0.5)


@given(random_traces(), st.floats(0, 2), st.floats(0.01, 2))
def test_parts_of_the_time_hold_every_request_once(trace, cut_s, rest_s):
    validation.check_stored(trace)
    parts = []
    for low, high in ((None, cut_s), (cut_s, cut_s + rest_s), (cut_s + rest_s, None)):
        try:
            part = between(trace, low, high)
        except TraceError:
            continue
        validation.check_stored(part)
        parts.append(part)
    assert np.concatenate([part.arrival_s for part in parts]).tolist() == trace.arrival_s.tolist()
    assert np.concatenate([part.input_tokens for part in parts]).tolist() == trace.input_tokens.tolist()
    assert parts[0].block_ids.tolist() == trace.block_ids[: parts[0].n_refs].tolist()  # dense from the start


@given(random_traces(), st.floats(0.1, 0.9), st.integers(0, 3))
def test_hash_ranges_share_no_group(trace, cut, seed):
    labels = sampling.groups(trace)
    kept: list[int] = []
    for low, high in ((0.0, cut), (cut, 1.0)):
        try:
            part = hashed(trace, low, high, seed)
        except TraceError:
            continue
        validation.check_stored(part)
        kept.append(part.n_requests)
    assert sum(kept) == trace.n_requests
    place = sampling.hashed(labels, seed)
    assert all(len(set((place[labels == label] < cut).tolist())) == 1 for label in set(labels.tolist()))


@given(random_traces(), st.integers(1, 4), st.integers(1, 3))
def test_merging_blocks_is_exact(trace, first, second):
    size = trace.block_tokens
    coarse = coarsened(trace, size * first)
    validation.check_stored(coarse)
    assert coarse.full_blocks.tolist() == (trace.input_tokens // (size * first)).tolist()
    assert coarsened(coarse, size * first * second).fingerprint == coarsened(trace, size * first * second).fingerprint
    # two requests share a coarse block exactly if they share all the fine ones of it
    fine, merged = prompts_of(trace), prompts_of(coarse)
    for i, a in enumerate(merged):
        for j, b in enumerate(merged[:i]):
            shared = sum(x == y for x, y in zip(a, b, strict=False))
            assert shared == sum(x == y for x, y in zip(fine[i], fine[j], strict=False)) // first


def test_blocks_cannot_be_split():
    with pytest.raises(TraceError, match="expected a multiple of 10"):
        coarsened(SESSIONS, 15)
    with pytest.raises(TraceError, match="expected a multiple"):
        coarsened(SESSIONS, 5)
    assert coarsened(SESSIONS, 10) is SESSIONS


@given(random_traces(), st.floats(0.01, 10))
def test_pressed_time_changes_times_alone(trace, factor):
    pressed = compressed(trace, factor)
    validation.check_stored(pressed)
    assert pressed.block_ids.tolist() == trace.block_ids.tolist()
    assert pressed.span_s == pytest.approx(trace.span_s * factor)


@settings(max_examples=60)
@given(random_traces(), st.floats(0.01, 1))
def test_sessions_keep_their_gaps(trace, factor):
    assume(trace.session is not None)
    pressed = compressed(trace, factor, keep_gaps=True)
    validation.check_stored(pressed)
    for session in set(trace.session.tolist()):
        before = trace.arrival_s[trace.session == session]
        after = pressed.arrival_s[pressed.session == session]
        assert np.diff(after) == pytest.approx(np.diff(before), abs=1e-9)
        start = trace.arrival_s[0] + (before[0] - trace.arrival_s[0]) * factor
        assert after[0] == pytest.approx(start, abs=1e-9)


def test_keeping_gaps_by_hand():
    pressed = compressed(SESSIONS, 0.5, keep_gaps=True)
    assert pressed.arrival_s.tolist() == [10, 15, 30, 35, 40, 45]
    assert pressed.session.tolist() == [0, 1, 0, 2, -1, 1]
    with pytest.raises(TraceError, match="no session column"):
        compressed(hand_trace([[0]], [10]), 0.5, keep_gaps=True)


@given(random_traces(), st.integers(1, 3), st.sampled_from(["none", "trunk"]), st.integers(0, 2))
def test_clones_are_there_whole_with_ids_of_their_own(trace, copies, share, seed):
    many = cloned(trace, copies, 5.0, share, seed)
    validation.check_stored(many)
    common = int(sampling.trunk(trace).sum()) if share == "trunk" else 0
    assert many.n_requests == copies * trace.n_requests
    assert many.n_refs == copies * trace.n_refs
    assert many.n_blocks == copies * (trace.n_blocks - common) + common
    assert Counter(many.input_tokens.tolist()) == Counter(trace.input_tokens.tolist() * copies)
    if share == "none":
        assert sum(hits_of(many)) == copies * sum(hits_of(trace))
    assert cloned(trace, copies, 5.0, share, seed).fingerprint == many.fingerprint
    if copies == 1:
        assert many.fingerprint == trace.fingerprint


def test_clones_by_hand():
    many = cloned(SESSIONS, 2, 0.0, "cross-session")
    # block 0 is in two sessions and in a request without one, no other is
    assert many.n_blocks == 2 * 7 - 1
    assert many.arrival_s.tolist() == sorted([10, 20, 30, 50, 60, 70] * 2)
    assert sorted(set(many.session.tolist())) == [-1, 0, 1, 2, 3, 4, 5]
    assert prompts_of(many)[:2] == [[0, 1], [0, 2]]
    later = cloned(SESSIONS, 2, 1_000.0, seed=1)
    for session in (0, 1):
        gaps = [np.diff(later.arrival_s[later.session == session + 3 * copy]) for copy in (0, 1)]
        assert gaps[1] == pytest.approx(gaps[0])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: compressed(SESSIONS, 0), "factor 0"),
        (lambda: compressed(SESSIONS, float("nan")), "factor nan"),
        (lambda: cloned(SESSIONS, 0, 1.0), "copies 0"),
        (lambda: cloned(SESSIONS, 2, -1.0), "jitter_s -1"),
        (lambda: cloned(SESSIONS, 2, 1.0, "all"), "expected one of none"),
        (lambda: cloned(SESSIONS, 2**30, 1.0), "block references"),
        (lambda: cloned(hand_trace([[0]], [10]), 2, 1.0, "cross-session"), "no session column"),
        (lambda: between(SESSIONS, 5, 5), "from_s < to_s"),
        (lambda: between(SESSIONS, 61, None), "its span is 60 s"),
        (lambda: between(SESSIONS, float("nan"), None), "from_s < to_s"),
        (lambda: hashed(SESSIONS, 0.5, 0.5), "low < high"),
        (lambda: hashed(SESSIONS, 0.0, 1e-9), "no request group"),
        (lambda: merge([], "x", []), "no traces"),
    ],
)
def test_nonsense_is_refused(call, text):
    with pytest.raises(TraceError, match=text):
        call()


@settings(max_examples=50)
@given(random_traces(), random_traces(), st.floats(0, 3))
def test_merged_traces_hit_as_before(first, second, start_s):
    assume(first.block_tokens == second.block_tokens)
    both = merge([first, second], "both", [0.0, start_s])
    validation.check_stored(both)
    assert both.n_requests == first.n_requests + second.n_requests
    assert both.n_blocks == first.n_blocks + second.n_blocks
    assert sum(hits_of(both)) == sum(hits_of(first)) + sum(hits_of(second))
    assert both.arrival_s[0] == 0.0
    with pytest.raises(TraceError, match="expected 2 finite seconds"):
        merge([first, second], "both", [0.0])


def test_what_is_done_is_kept_in_the_provenance():
    trace = compressed(cloned(hashed(dialogue_trace(labels=True), 0.0, 0.5), 2, 1.0), 0.5)
    steps = trace.provenance["steps"]
    assert [step.split()[0] for step in steps] == ["groups", "sessions", "time"]


def test_half_the_time_doubles_the_load(real_trace):
    trace = real_trace("taubench_airline")
    assert compressed(trace, 0.5).span_s == pytest.approx(trace.span_s / 2)
    kept = hashed(trace, 0.0, 0.1)
    again = cloned(kept, 2, 3600.0, "cross-session")
    assert again.n_requests == 2 * kept.n_requests


def test_a_manifest_says_the_block_size(tmp_path):
    tiny = Trace.build(
        name="tiny", block_tokens=4, offsets=[0, 0], block_ids=[], arrival_s=[0], input_tokens=[3], output_tokens=[1]
    )
    path = tmp_path / "tiny.jsonl"
    formats.writer(path).write(tiny, path)
    assert load(str(path)).block_tokens == 4
    assert load(f"{path}?block_tokens=8").block_tokens == 8


def test_times_beyond_numbers_are_refused():
    with pytest.raises(TraceError, match=r"time x 1e\+308: expected finite times"):
        compressed(SESSIONS, 1e308)
