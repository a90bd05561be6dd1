"""WEKA sessions: the real ones equal their conversion; sub-agents, duplicates and gaps by hand; refusals."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import extra
from hypothesis import given
from hypothesis import strategies as st
from text_files import lines

from workloads import SessionSet, Trace, TraceError, load, materialise, runs
from workloads.readers import kvsess1, weka

REAL = "cc_weka_v8_raw_30_sessions.tar.zst"


def call(t: float | None, tokens: int, ids: list[int], **more: Any) -> dict[str, Any]:
    return {"type": "n", "in": tokens, "out": 3, "hash_ids": ids} | ({} if t is None else {"t": t}) | more


def agent(t: float | None, *requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "subagent", "requests": list(requests)} | ({} if t is None else {"t": t}) | more


def session(*requests: dict[str, Any], name: str = "a", **more: Any) -> dict[str, Any]:
    known = {"id": name, "models": ["m"], "block_size": 4, "hash_id_scope": "local", "tool_tokens": 5}
    return {**known, "system_tokens": 3, "requests": list(requests), **more}


def written(folder: Path, *sessions: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(sessions):
        (folder / f"trace_{number}.json").write_text(json.dumps(one, indent=number))
    return folder


def ids_of(sessions: SessionSet) -> list[list[int]]:
    rows, ids = runs.expand(sessions.run_rows, sessions.run_starts, sessions.run_lengths)
    return [ids[start:stop].tolist() for start, stop in pairwise(rows.tolist())]


# ---- real ------------------------------------------------------------------------------------------------------------


def test_the_real_sessions_equal_their_conversion(trace_path: Callable[[str], Path]) -> None:
    extra("zstandard")
    converted = kvsess1.read(trace_path("cc_weka_v8"))
    sessions = weka.read(trace_path("cc_weka_v8").with_name(REAL))
    same = converted.select([converted.session_names.index(name) for name in sessions.session_names])
    assert sessions.session_names == same.session_names
    assert (sessions.n_sessions, sessions.n_requests) == (30, 1750)
    for name, column in vars(same).items():
        if isinstance(column, np.ndarray):
            np.testing.assert_array_equal(getattr(sessions, name), column, err_msg=name)


def test_a_folder_an_archive_and_lines_are_the_same(trace_path: Callable[[str], Path], tmp_path: Path) -> None:
    zstandard = extra("zstandard")
    packed = trace_path("cc_weka_v8").with_name(REAL)
    content = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(packed.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(tmp_path, filter="data")
    files = sorted((tmp_path / "raw").iterdir())[:6]
    for file in sorted((tmp_path / "raw").iterdir())[6:]:
        file.unlink()
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as archive:
        for file in reversed(files):
            archive.add(file, f"raw/{file.name}")
    lines(tmp_path / "some.jsonl", [json.loads(file.read_text()) for file in files])
    traces = [load(f"{tmp_path / name}?window_s=3600") for name in ("raw", "some.tar.gz", "some.jsonl")]
    assert traces[0].n_requests > 20
    assert {trace.provenance["format"] for trace in traces} == {"weka"}
    assert len({trace.fingerprint for trace in traces}) == 1
    one = load(f"{files[0]}?window_s=3600")
    assert one.n_requests == len(json.loads(files[0].read_text())["requests"])


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_sub_agents_are_flattened(tmp_path: Path) -> None:
    inner = agent(2.0, call(0.0, 4, [31]), tool_tokens=1, system_tokens=0)
    nested = session(
        call(0.0, 9, [1, 2]),
        agent(1.5, call(0.0, 8, [21, 22]), inner, call(4.0, 12, [21, 22, 23]), tool_tokens=2, system_tokens=7),
        call(2.0, 13, [1, 2, 3]),
    )
    sessions = weka.read(written(tmp_path / "w", nested))
    assert sessions.offset_ms.tolist() == [0.0, 1500.0, 2000.0, 3500.0, 5500.0]
    assert sessions.agent.tolist() == [0, 1, 0, 2, 1]
    assert sessions.tool_tokens.tolist() == [5, 2, 5, 1, 2]
    assert sessions.system_tokens.tolist() == [3, 7, 3, 0, 7]
    assert ids_of(sessions) == [[1, 2], [21, 22], [1, 2, 3], [31], [21, 22, 23]]
    assert not sessions.global_ids
    assert sessions.provenance["requests_sorted_by_time"] == 1
    assert sessions.provenance["unused_fields"] == {"models": 1}


@pytest.mark.parametrize(
    ("own", "first", "option", "found"),
    [
        (10.0, 0.5, "auto", 10_500.0),  # before the sub-agent began: relative
        (10.0, 10.5, "auto", 10_500.0),
        (10.0, 10.5, "relative", 20_500.0),
        (10.0, 0.5, "absolute", 500.0),
        (None, 7.0, "auto", 7_000.0),
    ],
)
def test_times_of_sub_agents(tmp_path: Path, own: float | None, first: float, option: str, found: float) -> None:
    path = written(tmp_path / "w", session(call(0.0, 4, [1]), agent(own, call(first, 4, [2]))))
    assert weka.read(path, subagent_times=option).offset_ms[1] == found


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    one = session(call(0.0, 9, [1, 2]))
    other = session(call(0.0, 9, [1, 2]), name="c", tool_tokens=6)
    sessions = weka.read(written(tmp_path / "w", one, {**one, "id": "b"}, other))
    assert sessions.session_names == ("a", "c")
    assert sessions.provenance["duplicate_sessions_dropped"] == 1


def test_local_ids_are_kept_apart_and_global_ones_are_not(tmp_path: Path) -> None:
    for scope, blocks in (("local", 4), ("global", 3)):
        some = [
            session(call(0.0, 8, [1, 2]), name="a", hash_id_scope=scope),
            session(call(0.0, 8, [1, 3]), name="b", hash_id_scope=scope),
        ]
        trace = load(f"weka:{written(tmp_path / scope, *some)}?window_s=10")
        assert trace.n_blocks == blocks


def test_times_may_be_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "w", session(call(0.0, 4, [1]), call(None, 8, [1, 2]), call(1.0, 9, [1, 2])))
    assert np.isnan(weka.read(path).offset_ms).all()
    trace = load(f"{path}?window_s=10&think_s=2")
    assert (np.diff(trace.arrival_s) > 0).all()
    assert trace.input_tokens.tolist() == [4, 8, 9]


def test_partial_tails_and_uncovered_prompts(tmp_path: Path) -> None:
    path = written(tmp_path / "w", session(call(0.0, 9, [1, 2, 3]), call(1.0, 30, [1, 2])))
    with pytest.raises(TraceError, match="clip_input"):
        weka.read(path)
    sessions = weka.read(path, repair="clip_input")
    assert sessions.input_tokens.tolist() == [9, 11]
    assert ids_of(sessions) == [[1, 2], [1, 2]]
    assert (sessions.provenance["partial_tail_ids_dropped"], sessions.provenance["clip_input"]) == (1, 1)


GOOD = session(call(0.0, 9, [1, 2]), call(1.0, 8, [1, 2]))
DEEP = agent(0.0, call(0.0, 4, [1]))
for _ in range(40):
    DEEP = agent(0.0, DEEP)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({**GOOD, "id": 7}, "field 'id'"),
        ({**GOOD, "block_size": 0}, "field 'block_size'"),
        ({**GOOD, "block_size": "4"}, "field 'block_size'"),
        ({**GOOD, "hash_id_scope": "mine"}, "field 'hash_id_scope'"),
        ({**GOOD, "tool_tokens": -1}, "field 'tool_tokens'"),
        ({**GOOD, "requests": []}, "at least one request"),
        ({**GOOD, "requests": {}}, "field 'requests'"),
        ({**GOOD, "requests": [3]}, "a list of objects"),
        (session(call(-1.0, 9, [1, 2])), "field 't'"),
        (session(call(1e300, 9, [1, 2])), "field 't'"),
        (session(call(0.0, -4, [])), "field 'in'"),
        (session({**call(0.0, 9, [1, 2]), "out": 1.5}), "field 'out'"),
        (session({"t": 0, "in": 9, "out": 1}), "field 'hash_ids'"),
        (session(call(0.0, 9, [1, -2])), "field 'hash_ids'"),
        (session(call(0.0, 9, [1, 2**62])), "field 'hash_ids'"),
        (session(call(0.0, 9, [1, 2, 3, 4])), "2 ids = in 9"),
        (session(call(0.0, 9, [1, True])), "field 'hash_ids'"),
        (session(call(0.0, 9, [1, 2]), call(1.0, 9, [3, 2])), "prefix-chained"),
        (session(DEEP), "deep"),
    ],
)
def test_what_is_refused(tmp_path: Path, broken: dict[str, Any], expected: str) -> None:
    path = written(tmp_path / "w", {**GOOD, "id": "fine"}, broken)
    with pytest.raises(TraceError) as refused:
        weka.read(path)
    assert expected in str(refused.value)
    assert str(path) in str(refused.value)


def test_sets_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="not used before"):
        weka.read(written(tmp_path / "same", GOOD, session(call(0.0, 4, [1]))))
    with pytest.raises(TraceError, match="block_size"):
        weka.read(written(tmp_path / "sizes", GOOD, session(call(0.0, 8, [1]), name="b", block_size=8)))
    with pytest.raises(TraceError, match="no sessions"):
        weka.read(written(tmp_path / "none"))
    with pytest.raises(TraceError, match="no such file"):
        weka.read(tmp_path / "absent")
    (tmp_path / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(TraceError, match="damaged"):
        weka.read(tmp_path / "cut.tar.gz")
    (tmp_path / "cut.json").write_text(json.dumps(GOOD)[:-20])
    with pytest.raises(TraceError, match=r"cut\.json:1"):
        weka.read(tmp_path / "cut.json")


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=6))
def test_runs_of_rows_are_the_rows(rows: list[list[int]]) -> None:
    offsets, starts, lengths = runs.compressed([np.array(row, np.int64) for row in rows])
    ends, ids = runs.expand(offsets, starts, lengths)
    assert [ids[a:b].tolist() for a, b in pairwise(ends.tolist())] == rows


def test_materialised_twice_the_same(tmp_path: Path) -> None:
    sessions = weka.read(written(tmp_path / "w", GOOD))
    traces: list[Trace] = [materialise(sessions, 10.0) for _ in range(2)]
    assert traces[0].fingerprint == traces[1].fingerprint
