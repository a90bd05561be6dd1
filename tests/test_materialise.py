"""Sessions on one clock: the procedure by hand, and the published timelines W1 and W3."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import SessionSet, Trace, TraceError, chains, materialise, runs
from workloads.readers import kvsess1
from workloads.sessions import hash_share
from workloads.statistics import measure

HOUR_S = 3600.0


def sessions_of(tmp_path: Path, *lines: dict[str, Any], block_size: int = 4, **header: Any) -> SessionSet:
    """Write sessions to a file and read them back."""
    path = tmp_path / "tiny_sessions.jsonl"
    first = {"format": "kvsess1", "block_size": block_size, **header}
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))
    return kvsess1.read(path)


def request(t: float | None, blocks: list[list[int]], tail: int = 0, out: int = 1, agent: int = 0) -> dict[str, Any]:
    """One request of whole 4-token blocks plus a tail."""
    tokens = 4 * sum(length for _, length in blocks) + tail
    return {"a": agent, "in": tokens, "out": out, "b": blocks} | ({} if t is None else {"t": t})


def test_starts_gaps_and_order_by_hand(tmp_path: Path) -> None:
    sessions = sessions_of(
        tmp_path,
        {"session": "a", "requests": [request(0, [[1, 2]]), request(4_000, [[1, 3]]), request(100_000, [[1, 4]])]},
        {"session": "b", "requests": [request(0, [[1, 1]], tail=3), request(500, [[1, 1], [7, 1]])]},
    )
    draw = random.Random(5)
    start_a, start_b = draw.random() * 60.0, draw.random() * 60.0
    trace = materialise(sessions, 60.0, max_gap_s=10.0, seed=5)
    # a: gaps 4 s and 96 s, the second cut to 10 s
    want = sorted([start_a, start_a + 4.0, start_a + 14.0, start_b, start_b + 0.5])
    assert trace.arrival_s.tolist() == pytest.approx(want, abs=6e-5)  # rounded to 0.1 ms
    assert np.allclose(trace.arrival_s * 10_000, np.round(trace.arrival_s * 10_000), atol=1e-6)
    assert trace.n_blocks == 4 + 2  # ids are local: nothing is shared between a and b
    assert trace.session is not None
    assert trace.turn is not None
    assert {(s, t) for s, t in zip(trace.session.tolist(), trace.turn.tolist(), strict=True)} == {
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    }
    assert materialise(sessions, 60.0, seed=6).fingerprint != materialise(sessions, 60.0, seed=5).fingerprint


def test_think_times_come_from_the_same_stream(tmp_path: Path) -> None:
    sessions = sessions_of(
        tmp_path,
        {"session": "a", "requests": [request(None, [[0, 1]], out=80), request(None, [[0, 2]])]},
        {"session": "b", "requests": [request(None, [[0, 1]])]},
        global_ids=True,
    )
    draw = random.Random(0)
    start_a = draw.random() * 10.0
    second = start_a + 80 / 40.0 + draw.lognormvariate(math.log(3.0), 1.0)  # decode, then think
    start_b = draw.random() * 10.0  # drawn after the think time
    trace = materialise(sessions, 10.0, think_s=3.0)
    assert trace.arrival_s.tolist() == pytest.approx(sorted([start_a, second, start_b]), abs=6e-5)
    assert trace.n_blocks == 2  # global ids are shared


def test_coarsening_keeps_every_kth_id(tmp_path: Path) -> None:
    # 7 blocks of 4 tokens: ids 1 2 3 | 8 9 10 11. Pairs: (1 2) (3 8) (9 10), 11 is left over
    sessions = sessions_of(tmp_path, {"session": "a", "requests": [request(0, [[1, 3], [8, 4]]), request(5, [[1, 2]])]})
    trace = materialise(sessions, 1.0, block_tokens=8)
    assert trace.block_tokens == 8
    assert trace.full_blocks.tolist() == [3, 1]
    assert trace.block_ids.tolist() == [0, 1, 2, 0]
    with pytest.raises(TraceError, match="a multiple of the recorded 4"):
        materialise(sessions, 1.0, block_tokens=6)


def test_shared_prefix_by_hand(tmp_path: Path) -> None:
    # a and b: 5 + 3 = 8 tokens are 2 shared blocks; c: other counts; a's sub-agent: 2 + 2 = 4 tokens, 1 block
    parts = {"tool_tokens": 5, "system_tokens": 3}
    sessions = sessions_of(
        tmp_path,
        {
            "session": "a",
            **parts,
            "subagents": [[2, 2]],
            "requests": [request(0, [[1, 3]]), request(1, [[9, 2]], agent=1)],
        },
        {"session": "b", **parts, "requests": [request(0, [[1, 4]])]},
        {"session": "c", "tool_tokens": 4, "system_tokens": 4, "requests": [request(0, [[1, 2]])]},
    )
    assert materialise(sessions, 1.0).n_blocks == 3 + 2 + 4 + 2
    assert materialise(sessions, 1.0, shared_prefix=True).n_blocks == 3 + 2 + 4 + 2 - 2
    with pytest.raises(TraceError, match="needs tool_tokens"):
        materialise(
            sessions_of(tmp_path, {"session": "a", "requests": [request(0, [[1, 3]])]}), 1.0, shared_prefix=True
        )
    shared = sessions_of(tmp_path, {"session": "a", **parts, "requests": [request(0, [[1, 3]])]}, global_ids=True)
    with pytest.raises(TraceError, match="needs local ids"):
        materialise(shared, 1.0, shared_prefix=True)


def test_recorded_starts_and_bad_times(tmp_path: Path) -> None:
    timed = {"session": "a", "abs_start_ms": 7_000, "requests": [request(0, [[1, 1]]), request(500, [[1, 1]])]}
    sessions = sessions_of(tmp_path, timed)
    assert materialise(sessions, None, use_recorded_starts=True).arrival_s.tolist() == [7.0, 7.5]
    for arguments, words in (
        ({"window_s": None}, "either window_s"),
        ({"window_s": 5.0, "use_recorded_starts": True}, "either window_s"),
        ({"window_s": -5.0}, "window_s -5.0"),
        ({"window_s": 5.0, "max_gap_s": float("nan")}, "max_gap_s nan"),
        ({"window_s": 5.0, "block_tokens": 0}, "block_tokens"),
    ):
        with pytest.raises(TraceError, match=words):
            materialise(sessions, **arguments)  # type: ignore[arg-type]
    untimed = sessions_of(tmp_path, {"session": "a", "requests": [request(None, [[1, 1]])]})
    with pytest.raises(TraceError, match="think_s"):
        materialise(untimed, 5.0)
    with pytest.raises(TraceError, match="without abs_start_ms"):
        materialise(untimed, None, think_s=1.0, use_recorded_starts=True)


def test_hash_split_is_a_partition_by_name_alone(tmp_path: Path) -> None:
    lines = [{"session": f"s{i}", "requests": [request(0, [[1, 1 + i % 3]])]} for i in range(60)]
    whole = sessions_of(tmp_path, *lines)
    parts = [whole.hash_split(low, high) for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 1.0))]
    names = [set(part.session_names) for part in parts]
    assert set.union(*names) == set(whole.session_names)
    assert sum(map(len, names)) == 60
    for part, low, high in zip(parts, (0, 0.5, 0.7), (0.5, 0.7, 1.0), strict=True):
        assert all(low <= hash_share(name) < high for name in part.session_names)
        for i, name in enumerate(part.session_names):
            own = part.input_tokens[part.session_rows[i] : part.session_rows[i + 1]]
            assert own.tolist() == [4 * (1 + int(name[1:]) % 3)]
    assert set(sessions_of(tmp_path, *reversed(lines)).hash_split(0, 0.5).session_names) == names[0]
    with pytest.raises(TraceError, match="0 <= low < high"):
        whole.hash_split(0.5, 0.5)


# ---- rows and runs of ids ----------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=8))
def test_rechain_gives_equal_ids_exactly_to_equal_prefixes(rows: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, rows)])
    ids = chains.densify(np.array([block for row in rows for block in row], np.int64))[0]
    new, _ = chains.rechain(offsets, ids)
    seen: dict[tuple[int, ...], int] = {}
    for row, start in zip(rows, offsets[:-1].tolist(), strict=True):
        for i in range(len(row)):
            assert seen.setdefault(tuple(row[: i + 1]), int(new[start + i])) == new[start + i]
    assert len(set(seen.values())) == len(seen)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=4), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_runs_expand_coarsen_and_check_as_single_ids_do(rows: list[list[tuple[int, int]]], factor: int) -> None:
    flat = np.array([run for row in rows for run in row], np.int64).reshape(-1, 2)
    run_rows = np.cumsum([0, *map(len, rows)])
    naive = [[start + i for start, length in row for i in range(length)] for row in rows]
    offsets, ids = runs.expand(run_rows, flat[:, 0], flat[:, 1], factor)
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == [row[factor - 1 :: factor] for row in naive]
    followers: dict[int, set[int]] = {}
    for row in naive:
        for before, block in zip([-1, *row], row, strict=False):
            followers.setdefault(block, set()).add(before)
    chained = all(len(before) == 1 for before in followers.values())
    assert (runs.first_violation(run_rows, flat[:, 0], flat[:, 1]) == -1) == chained


# ---- published timelines (traces.md sections 4 and 7) ------------------------------------------------------------


def test_w3_is_w2_with_fewer_blocks(real_trace: Callable[[str], Trace]) -> None:
    """The other timelines are in test_statistics.py."""
    trace = real_trace("cc_weka_v8?window_s=86400&max_gap_s=none")
    assert (trace.n_requests, round(trace.span_s), trace.n_refs, trace.n_blocks) == (
        29_622,
        169_291,
        6_744_495,
        248_399,
    )
    found = measure(trace)
    assert (round(100 * found.infinite_hit, 2), round(100 * found.infinite_hit_2nd_half, 2)) == (96.32, 96.41)


def test_w1_has_the_published_size(trace_path: Callable[[str], Path]) -> None:
    """W1 (64-token blocks, 54 M references) is checked through the runs, without writing the ids out."""
    sessions = kvsess1.read(trace_path("cc_weka_v8"))
    assert int(sessions.run_lengths.sum()) == 54_059_641
    assert (sessions.n_sessions, int((sessions.agent > 0).sum())) == (455, 250)
