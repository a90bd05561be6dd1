"""The score formula, by hand: the arithmetic stands beside each case."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.score import LOSS_CHARGE, LOWEST, NODE_CHARGE, REJECTED, SCORED_GAP, TOLERATED_LOSS, WORST_WEIGHT, Cell, score


def cell(hits: int, trace: str = "a", lru: int = 200, optimum: int = 600, prompt: int = 1000) -> Cell:
    return Cell(trace, 0.05, 100, prompt, lru, optimum, hits)


def test_published_constants():
    """A change of any of these makes scores incomparable: change them on purpose only."""
    constants = (SCORED_GAP, TOLERATED_LOSS, LOSS_CHARGE, WORST_WEIGHT, NODE_CHARGE, LOWEST, REJECTED)
    assert constants == (0.01, 0.01, 2.0, 0.2, 0.0001, -0.9, -1.0)


def test_lru_is_zero():
    found = score([cell(200), cell(200, "b")], 0)
    assert (found.combined, found.mean, found.worst_trace, found.loss_charge, found.size_charge) == (0, 0, 0, 0, 0)


def test_optimum_is_one_minus_size():
    found = score([cell(600), cell(600, "b")], 50)
    # 0.8 * 1 + 0.2 * 1 - 50 * 0.0001 = 0.995
    assert found.combined == pytest.approx(0.995, abs=1e-15)
    assert (found.mean, found.worst_trace, found.size_charge) == (1.0, 1.0, pytest.approx(0.005))


def test_mean_is_over_cells_and_worst_over_traces():
    cells = [cell(300), cell(500), cell(400, "b")]
    # a: 100/400 = 0.25 and 300/400 = 0.75, so 0.5; b: 200/400 = 0.5; c: 40/400 = 0.1
    # mean over cells (0.25 + 0.75 + 0.5 + 0.1) / 4 = 0.4; worst trace c, 0.1
    # 0.8 * 0.4 + 0.2 * 0.1 - 10 * 0.0001 = 0.32 + 0.02 - 0.001 = 0.339
    found = score([*cells, cell(240, "c")], 10)
    assert found.by_trace == {"a": 0.5, "b": 0.5, "c": pytest.approx(0.1)}
    assert found.worst_trace_name == "c"
    assert found.mean == pytest.approx(0.4)
    assert found.combined == pytest.approx(0.339)


def test_worst_trace_is_a_mean_not_the_worst_cell():
    # a: -0.5 and 0.9, so 0.2; b: 0.1. The worst trace is b although the worst cell is in a
    found = score([cell(0), cell(560), cell(240, "b")], 0)
    assert (found.worst_trace_name, found.worst_trace) == ("b", pytest.approx(0.1))
    # mean (-0.5 + 0.9 + 0.1) / 3 = 1/6; 0.8 / 6 + 0.2 * 0.1 = 0.153333…
    assert found.combined == pytest.approx(0.8 / 6 + 0.02)


def test_a_cell_without_a_gap_is_not_scored():
    # optimum - LRU = 9 of 1000 prompt tokens, 0.9 points: reported, not scored, whatever is won there
    narrow = cell(209, "narrow", lru=200, optimum=209)
    assert not narrow.counts
    assert narrow.gap_closed == 1.0
    found = score([cell(240), narrow], 0)
    assert found.by_trace == {"a": pytest.approx(0.1)}
    assert found.combined == pytest.approx(0.1)


def test_a_gap_of_exactly_one_point_counts():
    assert cell(0, lru=200, optimum=210).counts
    assert not cell(0, lru=200, optimum=209).counts


@pytest.mark.parametrize(
    ("hits", "charge"),
    [
        (200, 0.0),  # nothing lost
        (190, 0.0),  # 1 point lost: tolerated
        (170, 0.04),  # 3 points lost: 2 * (0.03 - 0.01)
        (0, 0.38),  # 20 points lost: 2 * (0.20 - 0.01)
        (205, 0.0),  # winning there earns nothing
    ],
)
def test_losing_where_nothing_can_be_won_is_charged(hits, charge):
    found = score([cell(400), cell(hits, "narrow", lru=200, optimum=205)], 0)
    assert found.loss_charge == pytest.approx(charge)
    # the other cell: 200/400 = 0.5, and it is the worst trace too; the sum stays positive
    assert found.combined == pytest.approx(0.5 - charge)


def test_losses_in_several_such_cells_add_up():
    narrow = [cell(170, "narrow", lru=200, optimum=205), cell(160, "narrow", lru=200, optimum=205)]
    # 2 * (0.03 - 0.01) + 2 * (0.04 - 0.01) = 0.04 + 0.06
    assert score([cell(400), *narrow], 0).loss_charge == pytest.approx(0.10)


def test_losses_in_scored_cells_are_not_charged_twice():
    found = score([cell(0)], 0)
    # (0 - 200) / 400 = -0.5, no charge beside it; squeezed: -0.5 / (1 + 0.5 / 0.9) = -0.45 / 1.4
    assert (found.mean, found.loss_charge) == (-0.5, 0.0)
    assert found.combined == pytest.approx(-0.45 / 1.4)


def test_one_cell_costs_at_most_one_and_the_score_has_a_floor():
    disaster = cell(0, "b", lru=590, optimum=600)  # (0 - 590) / 10 = -59, counted as -1
    found = score([cell(600), disaster], 0)
    assert found.by_trace == {"a": 1.0, "b": -1.0}
    # mean 0, worst -1: 0.8 * 0 - 0.2; squeezed: -0.2 / (1 + 0.2 / 0.9) = -0.18 / 1.1
    assert found.combined == pytest.approx(-0.18 / 1.1)
    # -1 - 500 * 0.0001 = -1.05; squeezed: -1.05 / (1 + 1.05 / 0.9) = -0.945 / 1.95
    assert score([disaster], 500).combined == pytest.approx(-0.945 / 1.95)
    assert REJECTED < LOWEST, "a rejection is worse than any policy that runs"


def test_however_much_is_lost_a_valid_score_stays_above_the_floor_and_worse_stays_worse():
    narrow = [cell(0, "narrow", lru=900, optimum=905)] * 200
    # each loses 90 points: 2 * (0.9 - 0.01) = 1.78; together 356, and 712
    few, many = score([cell(0), *narrow], 0), score([cell(0), *narrow, *narrow], 0)
    assert (few.loss_charge, many.loss_charge) == (pytest.approx(356.0), pytest.approx(712.0))
    assert LOWEST < many.combined < few.combined < -0.89


def test_squeezing_starts_gently_at_zero():
    # -0.0001 / (1 + 0.0001 / 0.9): less than a millionth is lost
    assert score([cell(200)], 1).combined == pytest.approx(-0.0001, rel=2e-4)
    assert score([cell(201)], 0).combined == pytest.approx(1 / 400)


def test_no_cell_that_counts_is_an_error():
    with pytest.raises(ValueError, match="no cell counts"):
        score([cell(200, lru=200, optimum=205)], 1)
    with pytest.raises(ValueError, match="no cell counts"):
        score([], 1)


def test_cells_without_tokens_or_gap_divide_by_nothing():
    empty = cell(0, lru=0, optimum=0, prompt=0)
    assert (empty.gap_closed, empty.lost) == (0.0, 0.0)


@st.composite
def panels(draw) -> list[Cell]:
    cells = []
    for _ in range(draw(st.integers(1, 8))):
        prompt = draw(st.integers(100, 10**9))
        optimum = draw(st.integers(0, prompt))
        lru = draw(st.integers(0, optimum))
        hits = draw(st.integers(0, optimum))
        cells.append(Cell(draw(st.sampled_from("abc")), 0.1, 10, prompt, lru, optimum, hits))
    cells.append(Cell("d", 0.1, 10, 1000, 100, 500, draw(st.integers(0, 500))))
    return cells


def with_hits(panel: list[Cell], index: int, hits: int) -> list[Cell]:
    return [*panel[:index], replace(panel[index], hit_tokens=hits), *panel[index + 1 :]]


@given(panels(), st.integers(0, 500), st.integers(1, 5))
def test_a_weight_counts_the_cells_of_a_trace_so_often(panel, nodes, times):
    heavy = [replace(cell, weight=float(times)) if cell.trace == "a" else cell for cell in panel]
    often = [cell for cell in panel for _ in range(times if cell.trace == "a" and cell.counts else 1)]
    assert score(heavy, nodes).mean == pytest.approx(score(often, nodes).mean, abs=1e-12)
    assert score(heavy, nodes).by_trace == pytest.approx(score(often, nodes).by_trace)
    assert score([replace(cell, weight=3.0) for cell in panel], nodes).combined == pytest.approx(
        score(panel, nodes).combined, abs=1e-12
    )


@given(panels(), st.integers(0, 500))
def test_bounded_and_finite(panel, nodes):
    found = score(panel, nodes)
    assert LOWEST < found.combined <= 1.0
    assert -1.0 <= found.worst_trace <= found.mean + 1e-12 <= 1.0 + 1e-9
    assert all(math.isfinite(value) for value in (found.combined, found.loss_charge, found.size_charge))
    assert found.loss_charge >= 0.0


@given(panels(), st.integers(0, 500), st.data())
def test_more_hits_never_score_less(panel, nodes, data):
    index = data.draw(st.integers(0, len(panel) - 1))
    hits = data.draw(st.integers(panel[index].hit_tokens, panel[index].optimum_hit_tokens))
    assert score(with_hits(panel, index, hits), nodes).combined >= score(panel, nodes).combined - 1e-12


@given(panels(), st.integers(0, 499))
def test_every_node_costs_the_same(panel, nodes):
    small, large = score(panel, nodes).combined, score(panel, nodes + 1).combined
    assert large < small
    if large >= 0.0:
        assert small - large == pytest.approx(NODE_CHARGE, abs=1e-9)


@given(panels(), st.randoms(use_true_random=False))
def test_order_of_cells_does_not_matter(panel, random):
    shuffled = list(panel)
    random.shuffle(shuffled)
    assert score(shuffled, 3).combined == pytest.approx(score(panel, 3).combined, abs=1e-12)
