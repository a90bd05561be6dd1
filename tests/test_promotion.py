"""The parts of the promotion gate: what is drawn, what is changed, what is renamed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from promotion_panel import FEW, HONEST, write_panel
from small_traces import random_traces

from sim import resampling
from sim.comparison import compare
from sim.marks import Marks, load_marks
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.promotion import bootstrap, rivals
from sim.promotion.bootstrap import Entry
from sim.promotion.renaming import differences, with_labels, with_permuted_ids
from sim.promotion.replays import Column, Tokens, hits_of, policy_hits
from sim.promotion.stability import Moved, judged
from sim.promotion.variants import ALL, BLOCKS, CAPACITY, TIME, Variant, ended, split, varied
from sim.zoo import OFFLINE
from workloads import Trace
from workloads.cutting import coarsened
from workloads.panel import load_panel


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Marks:
    return load_marks(load_panel("validation", write_panel(tmp_path_factory.mktemp("panel"))))


@pytest.fixture(scope="module")
def lru(marks: Marks) -> Entry:
    return entry(marks, Column("vllm"))


def entry(marks: Marks, column: Column, nodes: int = 0) -> Entry:
    panel = marks.panel
    return Entry([hits_of(panel.traces[c.trace_name], (column, c.capacity_blocks)) for c in panel.cells], nodes)


def with_more(marks: Marks, base: Entry, chosen: dict[str, np.ndarray], blocks: int = 2) -> Entry:
    """Return an entry that hits so many blocks more in the chosen requests of each trace."""
    hits = [found + blocks * chosen[c.trace_name] for c, found in zip(marks.panel.cells, base.hits, strict=True)]
    return Entry([found.astype(np.int32) for found in hits], base.nodes)


# ---- who has to be beaten --------------------------------------------------------------------------------------------


def test_every_shipped_policy_and_classic_is_a_rival() -> None:
    names = set(rivals.rivals())
    assert {"vllm", "lru_frequency", "gdsf", "lfu_ghost", "zoo:arc", "zoo:lirs"} <= names
    assert not names & {f"zoo:{name}" for name in OFFLINE}


def test_rivals_are_kept_and_a_damaged_cache_is_replaced(marks: Marks, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(rivals, "user_cache_dir", lambda: tmp_path)
    first = rivals.rival_hits(marks.panel, FEW)
    (kept,) = (tmp_path / "rivals").iterdir()
    for damage in (kept.read_bytes()[:100], b"", b"junk"):
        kept.write_bytes(damage)
        again = rivals.rival_hits(marks.panel, FEW)
        assert all(np.array_equal(a, b) for name in FEW for a, b in zip(first[name], again[name], strict=True))
    assert "unreadable" in caplog.text
    arc = hits_of(marks.panel.traces["loop_one"], (Column("zoo:arc"), marks.panel.cells[1].capacity_blocks))
    assert np.array_equal(first["zoo:arc"][1], arc)


# ---- the bootstrap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clustering", resampling.CLUSTERINGS)
def test_what_is_measured_is_the_difference_of_published_scores(marks: Marks, lru: Entry, clustering: str) -> None:
    policy = Policy.from_source(HONEST, "honest")
    found = compare([policy], "validation", marks.panel.which)
    mine = entry(marks, Column("honest", HONEST), policy.nodes)
    interval = bootstrap.intervals(marks, mine, {"vllm": lru}, clustering)["vllm"]
    assert interval.measured == found.scores[0].combined
    assert interval.low < interval.measured < interval.high
    assert bootstrap.intervals(marks, mine, {"vllm": lru}, clustering)["vllm"] == interval


def test_equal_policies_do_not_differ_in_any_sample(marks: Marks, lru: Entry) -> None:
    found = bootstrap.intervals(marks, lru, {"vllm": lru, "twin": lru}, "sessions")
    assert all((i.measured, i.low, i.high) == (0.0, 0.0, 0.0) for i in found.values())


@pytest.mark.parametrize("clustering", resampling.CLUSTERINGS)
def test_one_lucky_cluster_is_no_evidence(marks: Marks, lru: Entry, clustering: str) -> None:
    clusters = {name: resampling.CLUSTERINGS[clustering](trace) for name, trace in marks.panel.traces.items()}
    lucky = with_more(marks, lru, {name: found == 3 for name, found in clusters.items()}, 20)
    steady = with_more(marks, lru, {name: found >= 0 for name, found in clusters.items()}, 2)
    found = {
        name: bootstrap.intervals(marks, mine, {"vllm": lru}, clustering)["vllm"]
        for name, mine in (("lucky", lucky), ("steady", steady))
    }
    assert found["lucky"].measured > 0.0
    assert found["lucky"].low <= 0.0 < found["steady"].low


def test_a_policy_that_lives_on_one_trace_is_told(marks: Marks, lru: Entry) -> None:
    one = {name: np.full(trace.n_requests, name == "loop_one") for name, trace in marks.panel.traces.items()}
    found = bootstrap.without_a_trace(marks, with_more(marks, lru, one), lru)
    assert found["loop_one"] == 0.0 < found["loop_two"]


# ---- other conditions ------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(random_traces(), st.sampled_from([2, 3]))
def test_split_blocks_merge_back(trace: Trace, parts: int) -> None:
    assume(trace.block_tokens > 1)
    wide = ended(split_source(trace, parts))
    small = split(wide, trace.block_tokens)
    columns = {name: column for name, column in small.columns().items()}
    checked = Trace.build(name="small", block_tokens=small.block_tokens, **columns)
    assert checked.fingerprint == small.fingerprint
    assert np.array_equal(coarsened(small, wide.block_tokens).block_ids, wide.block_ids)


def split_source(trace: Trace, parts: int) -> Trace:
    """Return the trace in blocks so many times as large."""
    return coarsened(trace, trace.block_tokens * parts)


def test_variants_change_what_they_say(marks: Marks) -> None:
    panel = marks.panel
    trace, cells = panel.traces["loop_one"], panel.cells[:2]
    floor = int(trace.occupied_blocks.max())
    for variant in ALL:
        case = varied(trace, cells, variant)
        same = ended(trace) if variant == Variant(BLOCKS, 16) else trace
        assert (case.before.fingerprint, bool(case.cells)) == (same.fingerprint, variant != Variant(BLOCKS, 64))
        for i, before, after in case.cells:
            assert before == cells[i].capacity_blocks
            if variant.kind == CAPACITY:
                assert after == max(round(before * variant.value), floor)
            elif variant.kind == BLOCKS:
                assert (
                    abs(after * variant.value - before * 64) < variant.value
                    or after == case.after.occupied_blocks.max()
                )
            else:
                assert after == before
    slower = varied(trace, cells, Variant(TIME, 2.0)).after
    assert slower.span_s == pytest.approx(2.0 * trace.span_s)
    assert varied(trace, cells, Variant(BLOCKS, 16)).note == "split, not exact"
    assert varied(trace, cells, Variant(BLOCKS, 256)).note == ""


def test_long_traces_are_split_in_part_and_compared_with_that_part(marks: Marks, monkeypatch) -> None:
    monkeypatch.setattr("sim.promotion.variants.MOST_REFS", 4_000)
    trace = marks.panel.traces["loop_one"]
    case = varied(trace, marks.panel.cells[:2], Variant(BLOCKS, 16))
    assert 0 < case.before.n_requests < trace.n_requests
    assert case.before.n_refs * 4 <= 4_000
    assert case.note == f"split, not exact, first {case.before.n_requests} requests"


@pytest.mark.parametrize(
    ("before", "after", "faults"),
    [
        ([0.4, 0.4], [0.4, 0.2], 0),
        ([0.4, 0.4], [0.1, 0.1], 2),  # the trace, and the mean
        ([-0.02], [-0.06], 1),  # on average not even a little
        ([0.4, 0.0], [0.4, -0.1], 0),
        ([0.4, 0.0], [0.4, -0.5], 2),
    ],
)
def test_a_gain_may_halve_but_not_vanish(before: list[float], after: list[float], faults: int) -> None:
    cells = [
        Moved(Tokens(100_000, 0, 10_000, round(10_000 * b)), Tokens(100_000, 0, 10_000, round(10_000 * a)))
        for b, a in zip(before, after, strict=True)
    ]
    figures, found = judged(Variant(CAPACITY, 1.2), {"trace": (cells, "")})
    assert len(found) == faults
    assert figures["gap_closed_before"] == pytest.approx(sum(before) / len(before))


def test_what_leaves_no_gap_is_not_compared() -> None:
    none = Moved(Tokens(100_000, 500, 600, 600), Tokens(100_000, 500, 600, 500))
    figures, found = judged(Variant(TIME, 2.0), {"trace": ([none], "")})
    assert (figures["counting_cells"], figures["gap_closed_after"], found) == (0, None, [])


# ---- other names -----------------------------------------------------------------------------------------------------

BY_NAME = "def priority(block, cache):\n    return block.last_access + 5.0 * block.tenant\n"


@settings(max_examples=40)
@given(random_traces(), st.integers(1, 12))
def test_ids_never_matter(trace: Trace, capacity: int) -> None:
    prepared = prepare(trace)
    other = with_permuted_ids(prepared)
    inner = prepared.parents >= 0
    assert np.count_nonzero(other.parents >= 0) == np.count_nonzero(inner)
    for source in (HONEST, BY_NAME):
        assert np.array_equal(policy_hits(prepared, source, capacity), policy_hits(other, source, capacity))


def test_labels_are_given_where_a_trace_has_none(marks: Marks) -> None:
    trace = marks.panel.traces["loop_one"]
    one, other = with_labels(trace, prepare(trace))
    for field in ("tenant", "type"):
        pairs = set(zip(getattr(one.labels, field).tolist(), getattr(other.labels, field).tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 1
    assert np.array_equal(one.labels.turn, other.labels.turn)
    found = differences(trace, (BY_NAME, [marks.panel.cells[0].capacity_blocks]))
    assert found["ids"] == [0]
    assert found["labels"][0] > 0
