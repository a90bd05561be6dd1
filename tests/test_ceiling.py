"""The learnable ceiling: features against a slow twin, the index by its definition, replays against known orders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import extra
from hypothesis import given, settings
from hypothesis import strategies as st
from small_traces import dialogue_trace, hand_trace

import sim
from sim.core import gittins, replay, touches
from sim.policy.program import Policy
from sim.results.ceiling import ceiling, clocks, foresight, hazards
from sim.results.ceiling.hazards import EDGES_S, WIDTHS_S
from sim.results.ceiling.touches import FEATURES, Touches, touches_of
from workloads import Trace

CHECKED = (
    "depth",
    "from_end",
    "seen",
    "gap_s",
    "known_blocks",
    "branches",
    "was_last",
    "blocks",
    "first_seen_s",
    "turn",
)


def twin(trace: Trace) -> np.ndarray:
    """Return the columns of `CHECKED` per reference, computed the slow way."""
    times: dict[int, list[float]] = {}
    children: dict[int, set[int]] = {}
    ends: dict[int, int] = {}
    user: dict[int, int] = {}
    turns, sizes, rows = [], [], []
    for i in range(trace.n_requests):
        path = trace.block_ids[trace.offsets[i] : trace.offsets[i + 1]].tolist()
        now_s = float(trace.arrival_s[i])
        known = next((k for k, block in enumerate(path) if block not in times), len(path))
        turn = 0
        if known and known > 0.6 * sizes[user[path[known - 1]]]:
            turn = turns[user[path[known - 1]]] + 1
        turns.append(turn)
        sizes.append(len(path))
        for k, block in enumerate(path):
            before = times.get(block, [])
            gap_s = now_s - before[-1] if before else touches.NEVER
            first_s = now_s - before[0] if before else 0.0
            rows.append([k, len(path) - 1 - k, len(before) + 1, gap_s, known, len(children.get(block, ())),
                         ends.get(block, 0), len(path), first_s, turn])  # fmt: skip
        for k, block in enumerate(path):
            times.setdefault(block, []).append(now_s)
            user[block] = i
            if k:
                children.setdefault(path[k - 1], set()).add(block)
            ends[block] = ends.get(block, 0) + (k + 1 == len(path))
    return np.array(rows)


def full(trace: Trace) -> np.ndarray:
    """Return all features of all references."""
    return sim.results.ceiling.touches._features(trace)  # type: ignore[attr-defined]


@pytest.mark.parametrize("labels", [False, True])
def test_features_equal_their_twin(labels: bool) -> None:
    trace = dialogue_trace(labels)
    columns = [FEATURES.index(name) for name in CHECKED]
    assert np.allclose(full(trace)[:, columns], twin(trace), rtol=1e-6)


def test_labels_and_sessions_are_shown() -> None:
    trace = hand_trace(
        [[0], [0], [0], []], [11, 11, 11, 5], arrival_s=[0, 4, 6, 9], session=[3, 1, 3, -1], turn=[0, 0, 1, -1]
    )
    found = {name: full(trace)[:, FEATURES.index(name)].tolist() for name in FEATURES}
    assert found["turn_label"] == [0, 0, 1]
    assert found["type_label"] == [-1, -1, -1]
    assert found["session_gap_s"] == [touches.NEVER, touches.NEVER, 6]
    assert found["session_requests"] == [0, 0, 1]
    assert found["uses_30s"] == pytest.approx([1, 1 + np.exp(-4 / 30), 1 + np.exp(-2 / 30) * (1 + np.exp(-4 / 30))])


def test_the_next_use_is_where_a_block_can_be_hit() -> None:
    trace = hand_trace([[0, 1], [0, 1], [0, 1]], [20, 25, 20], arrival_s=[0, 3, 10])
    found = touches_of(trace)
    assert found.wait_s[found.row_of].tolist() == [3, 3, 7, np.inf, np.inf, np.inf]  # a last token is computed again
    assert found.left_s[found.row_of].tolist() == [10, 10, 7, 7, 0, 0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**20))
def test_each_reference_has_a_stand_in_of_its_own_request_and_history(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = [list(range(n)) if rng.random() < 0.5 else [*range(n - 1), 100 + i] for i, n in enumerate(lengths)]
    trace = hand_trace(prompts, [10 * n for n in lengths])
    found, every = touches_of(trace), full(trace)
    stand_in = found.features[found.row_of]
    same = [FEATURES.index(name) for name in ("seen", "gap_s", "blocks", "known_blocks", "turn")]
    assert np.array_equal(stand_in[:, same], every[:, same])
    assert found.size.sum() == trace.n_refs
    assert np.array_equal(np.unique(found.row_of), np.arange(len(found.features)))


def slow_index(row: np.ndarray, widths: np.ndarray, first: int) -> float:
    """Return the best hits per second over horizons, straight from the definition."""
    best = 0.0
    for stop in range(first + 1, len(widths) + 1):
        reach = np.concatenate([[1.0], np.cumprod(1 - row[first:stop])])
        used = reach[:-1] * row[first:stop]
        kept = float((used * (np.cumsum(widths[first:stop]) - 0.5 * widths[first:stop])).sum())
        kept += float(reach[-1]) * float(widths[first:stop].sum())
        best = max(best, float(used.sum()) / kept)
    return best


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6), st.integers(0, 99))
def test_the_index_equals_its_definition(row: list[float], seed: int) -> None:
    table = np.array([row], np.float32)
    widths = np.random.default_rng(seed).uniform(0.5, 9.0, len(row))
    out = np.empty_like(table)
    gittins.indices(replay.frozen(table, np.float32), replay.frozen(widths, np.float64), out)
    wanted = [slow_index(np.float64(table[0]), widths, first) for first in range(len(row))]
    assert out[0] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def whole_seconds(trace: Trace) -> Trace:
    """Return a trace with a request every 8 s."""
    return replace(trace, arrival_s=8.0 * np.arange(trace.n_requests))


def test_a_table_of_ages_is_the_policy_that_reads_the_age(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = whole_seconds(dialogue_trace())
    found = touches_of(trace)

    def by_age(hazards: np.ndarray, widths: np.ndarray, out: np.ndarray) -> None:
        out[:] = -np.abs(EDGES_S - 120.0)

    monkeypatch.setattr(gittins, "indices", by_age)
    capacity = int(trace.occupied_blocks.max()) + 40
    table = np.zeros((len(found.features), EDGES_S.size), np.float32)
    policy = Policy.from_source("def priority(block, cache):\n    return -abs(block.age_s - 120.0)\n", "by_age")
    wanted = sim.simulate(trace, policy, capacity).hit_blocks_per_request
    mine = foresight.hits(trace, found, table, [capacity])[0]
    last_s = 8.0 * trace.n_requests
    assert last_s < EDGES_S[-1]  # beyond the last edge the table is flat
    assert np.array_equal(mine, wanted)
    assert not np.array_equal(mine, sim.simulate(trace, "lru", capacity).hit_blocks_per_request)


def certain(found: Touches) -> np.ndarray:
    """Return the hazards of who knows the bin of every next use."""
    table = np.zeros((len(found.wait_s), EDGES_S.size), np.float32)
    bins = np.searchsorted(EDGES_S, found.wait_s, side="right") - 1
    used = np.isfinite(found.wait_s)
    table[np.flatnonzero(used), bins[used]] = 1.0
    return table


def test_knowing_the_future_beats_lru_and_never_the_optimum() -> None:
    trace = whole_seconds(dialogue_trace())
    found = touches_of(trace)
    for capacity in (60, 120):
        mine = foresight.hits(trace, found, certain(found), [capacity])[0].sum()
        lru, best = sim.simulate(trace, "vllm", capacity).hit_blocks, sim.optimum(trace, capacity).hit_blocks
        assert lru + 0.5 * (best - lru) < mine <= best


def test_a_cache_below_the_longest_prompt_is_refused() -> None:
    trace = dialogue_trace()
    found = touches_of(trace)
    with pytest.raises(ValueError, match="below the longest prompt"):
        foresight.hits(trace, found, certain(found), [1])


def test_observed_hazards_are_shares_of_what_was_at_risk() -> None:
    waits = np.array([0.5, 1.5, 1.5, 9.0, np.inf])
    left = np.array([99.0, 99.0, 1.7, 99.0, 5.0])
    size = np.array([1.0, 2.0, 1.0, 1.0, 4.0])
    found = hazards.observed(
        Touches(np.zeros((5, 1), np.float32), waits, left, size, np.zeros(5, np.int32)), np.zeros(5, int)
    )
    assert found[0, 0] == pytest.approx(1 / 9)
    assert found[0, 1] == pytest.approx(3 / 8)
    assert found[0, 2] == 0  # [2, 4): the last one was watched until 5 s
    assert found[0, 3] == 0  # [4, 6): not long enough
    assert np.isnan(found[0, -1])
    assert EDGES_S.size == WIDTHS_S.size


PANEL = """\
format: kvevolve-panel/1
name: small-v1
capacities: [10%]
splits:
  train:
    - {name: chat_train, source: 'synthetic:chat?seed=11', options: {requests: 400}}
    - {name: rag_train, source: 'synthetic:rag?seed=11', options: {requests: 200}}
  validation:
    - {name: chat_validation, source: 'synthetic:chat?seed=12', options: {requests: 400}}
  test:
    - {name: chat_test, source: 'synthetic:chat?seed=13', options: {requests: 400}}
    - {name: scan_test, source: 'synthetic:scan?seed=13', options: {requests: 200}}
"""


def test_the_ceiling_is_chosen_on_validation_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra("lightgbm")
    monkeypatch.setattr(ceiling, "ROUNDS", (4, 10))
    monkeypatch.setattr(hazards, "ROWS", 20_000)
    monkeypatch.setattr("sim.results.store.user_cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "small.yaml").write_text(PANEL)
    which = str(tmp_path / "small.yaml")
    report = ceiling.report(which, [], seeds=1)
    choices = report.data["validation"]["chosen"]
    assert set(choices) == {f"chat_validation, {clock}" for clock in clocks.CLOCKS}
    for clock in clocks.CLOCKS:
        chosen = report.data["test"]["chosen"]
        assert chosen[f"chat_test, {clock}"] == choices[f"chat_validation, {clock}"]
        assert chosen[f"scan_test, {clock}"].startswith(ceiling.JOINT)
    for cell in report.data["test"]["cells"]:
        assert cell["scored"] or cell["trace"] == "scan_test"
        assert set(cell["gap_closed"]) == set(clocks.CLOCKS)
        assert all(closed <= 1.0 for closed in cell["gap_closed"].values())
    assert all(sum(gains.values()) == pytest.approx(1) for gains in report.data["gains"].values())
    report.write(tmp_path / "out", figures=False)

    def no_more(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(hazards, "train", no_more)
    again = ceiling.report(which, [], seeds=1)
    assert (again.data, again.markdown()) == (report.data, report.markdown())


def test_more_trees_are_those_of_fewer_and_more() -> None:
    extra("lightgbm")
    found = touches_of(dialogue_trace())
    model = hazards.train([found], 6, seeds=2)
    both, alone = model.hazards(found, [2, 6]), [model.hazards(found, [n])[0] for n in (2, 6)]
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(both, alone, strict=True))
    assert not np.allclose(both[0], both[1])
    again = hazards.Model.from_text(model.to_text()).hazards(found, [6])[0]
    assert np.allclose(again, alone[1], atol=1e-6)


def test_without_seconds_only_the_order_of_requests_is_known() -> None:
    trace = dialogue_trace()
    seen = clocks.on_clock(trace, clocks.REQUESTS)
    slower = replace(trace, arrival_s=50.0 + trace.arrival_s**1.5)
    assert seen.fingerprint == clocks.on_clock(slower, clocks.REQUESTS).fingerprint
    gaps = full(seen)[:, FEATURES.index("gap_s")]
    assert np.array_equal(gaps, np.rint(gaps))  # requests, whole ones
    assert clocks.on_clock(trace, clocks.SECONDS) is trace


def test_without_lightgbm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(ModuleNotFoundError, match=r"kvevolve\[results\]"):
        hazards.train([], 1)
