"""The trace: what is accepted, what is derived, how it is cut, combined and stored."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import Trace, TraceError, chains


def build(**changes: Any) -> Trace:
    """Three requests, blocks of 4 tokens.

    Request 0: 9 tokens, 2 full blocks  [7, 3]       paths: 7 -> 3
    Request 1: 12 tokens, 3 full blocks [7, 3, 5]            7 -> 3 -> 5
    Request 2: 5 tokens, 1 full block   [9]                  9
    Dense ids by first appearance: 7 -> 0, 3 -> 1, 5 -> 2, 9 -> 3, so block_ids = [0 1 | 0 1 2 | 3].
    """
    columns: dict[str, Any] = {
        "name": "small",
        "block_tokens": 4,
        "offsets": [0, 2, 5, 6],
        "block_ids": [7, 3, 7, 3, 5, 9],
        "arrival_s": [1.0, 1.0, 4.0],
        "input_tokens": [9, 12, 5],
        "output_tokens": [1, 0, 3],
    }
    return Trace.build(**(columns | changes))


@st.composite
def traces(draw: st.DrawFn, block_tokens: int = 4) -> Trace:
    """Random prefix-chained traces: each request walks down a small random tree."""
    paths = draw(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=12))
    known: dict[tuple[int, ...], int] = {}
    ids = [known.setdefault(tuple(path[: i + 1]), len(known)) for path in paths for i in range(len(path))]
    n = len(paths)
    session = draw(st.none() | st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    return Trace.build(
        name="random",
        block_tokens=block_tokens,
        offsets=np.cumsum([0, *map(len, paths)]),
        block_ids=ids,
        arrival_s=sorted(draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))),
        input_tokens=[len(path) * block_tokens + draw(st.integers(0, block_tokens - 1)) for path in paths],
        output_tokens=draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)),
        session=session,
    )


def test_derived_columns_by_hand() -> None:
    trace = build()
    assert trace.block_ids.tolist() == [0, 1, 0, 1, 2, 3]
    assert (trace.n_requests, trace.n_refs, trace.n_blocks, trace.prompt_tokens) == (3, 6, 4, 9 + 12 + 5)
    assert trace.parents.tolist() == [-1, 0, 1, -1]
    # positions 0..5: block 0 at 0 and 2, block 1 at 1 and 3, blocks 2 and 3 once; 6 = never again
    assert trace.next_use.tolist() == [2, 3, 6, 6, 6, 6]
    assert trace.full_blocks.tolist() == [2, 3, 1]
    assert trace.occupied_blocks.tolist() == [3, 3, 2]  # ceil(9/4), ceil(12/4), ceil(5/4)
    assert trace.span_s == 3.0
    assert repr(trace).startswith("Trace('small', 3 requests, 6 refs, 4 blocks of 4 tokens, 3 s, ")
    assert "\n" not in repr(trace)


def test_dtypes_and_read_only() -> None:
    trace = build(session=[0, 0, 1])
    want = {"offsets": "int64", "arrival_s": "float64"}
    for name, column in trace.columns().items():
        assert column.dtype == want.get(name, "int32"), name
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0
    assert trace.nbytes == 4 * 8 + 6 * 4 + 3 * 8 + 3 * 4 * 3
    for derived in (trace.parents, trace.next_use, trace.full_blocks, trace.occupied_blocks):
        assert not derived.flags.writeable


def test_the_callers_arrays_are_copied() -> None:
    mine = np.array([1.0, 1.0, 4.0])
    trace = build(arrival_s=mine)
    mine[0] = 0.5
    assert trace.arrival_s[0] == 1.0


def test_next_use_is_lazy_and_travels_nowhere(tmp_path: Path) -> None:
    trace = build()
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    assert "next_use" not in loaded.__dict__
    assert loaded.next_use.tolist() == trace.next_use.tolist()
    revived = pickle.loads(pickle.dumps(loaded))
    assert "next_use" not in revived.__dict__
    assert revived.fingerprint == trace.fingerprint
    assert not revived.block_ids.flags.writeable


@pytest.mark.parametrize(
    ("changes", "request_index", "field", "words"),
    [
        ({"block_tokens": 0}, None, "block_tokens", "integer >= 1"),
        ({"block_tokens": True}, None, "block_tokens", "integer >= 1"),
        ({"offsets": [0, 2, 5, 7]}, None, "offsets", "= 6"),
        ({"offsets": [1, 2, 5, 6]}, None, "offsets", "0 = offsets"),
        ({"offsets": [0], "block_ids": []}, None, "offsets", "at least one request"),
        ({"arrival_s": [1.0, float("nan"), 4.0]}, 1, "arrival_s", "finite"),
        ({"arrival_s": [1.0, 2.0, float("inf")]}, 2, "arrival_s", "finite"),
        ({"arrival_s": [-1.0, 2.0, 3.0]}, 0, "arrival_s", ">= 0"),
        ({"arrival_s": [1.0, 3.0, 2.0]}, 2, "arrival_s", "expected >= 3.0"),
        ({"arrival_s": [1.0, 3.0]}, None, "arrival_s", "expected 3 values, got 2"),
        ({"input_tokens": [9, 16, 5]}, 1, "block_ids", "expected 4 ids"),
        ({"input_tokens": [9, -12, 5]}, 1, "input_tokens", "from 0"),
        ({"input_tokens": [9, 12.5, 5]}, 1, "input_tokens", "an integer"),
        ({"input_tokens": [9, 2**40, 5]}, 1, "input_tokens", "from 0 to"),
        ({"input_tokens": [True, False, True]}, None, "input_tokens", "integers"),
        ({"output_tokens": [1, -1, 3]}, 1, "output_tokens", "from 0"),
        ({"block_ids": [7, 3, 7, 3, -5, 9]}, 4, "block_ids", "from 0"),
        ({"block_ids": [7, 3, 9, 3, 5, 9]}, 1, "block_ids", "follows block id 9"),  # 3 followed 7 before
        ({"block_ids": [7, 3, 7, 3, 7, 9]}, 1, "block_ids", "follows block id 3"),  # 7 was a root
        ({"block_ids": [7, 3, 7, 3, 5, 3]}, 2, "block_ids", "follows no block"),  # 3 is not a root
        ({"session": [0, -2, 1]}, 1, "session", "from -1"),
        ({"turn": [[0], [1], [2]]}, None, "turn", "one dimension"),
    ],
)
def test_build_refuses(changes: dict[str, Any], request_index: int | None, field: str, words: str) -> None:
    with pytest.raises(TraceError) as caught:
        build(**changes)
    assert caught.value.field == field
    assert caught.value.request == request_index
    assert words in str(caught.value)


def test_empty_prompts_and_a_trace_without_full_blocks_are_fine() -> None:
    trace = build(offsets=[0, 0, 0, 0], block_ids=[], input_tokens=[0, 3, 1])
    assert (trace.n_refs, trace.n_blocks) == (0, 0)
    assert trace.occupied_blocks.tolist() == [0, 1, 1]
    assert trace.parents.size == trace.next_use.size == 0


def test_fingerprint_covers_contents_only() -> None:
    base = build().fingerprint
    assert build(name="other", provenance={"x": 1}).fingerprint == base
    assert build(block_ids=[70, 30, 70, 30, 50, 90]).fingerprint == base  # same dense ids
    changes: list[dict[str, Any]] = [
        {"arrival_s": [1.0, 1.0, 4.5]},
        {"output_tokens": [1, 0, 4]},
        {"session": [0, 0, 0]},
        {"turn": [0, 0, 0]},
        {"block_ids": [7, 3, 7, 3, 5, 7]},
    ]
    others = [build(**change).fingerprint for change in changes]
    assert len({base, *others}) == 6


def test_slice_by_hand() -> None:
    part = build().slice(1, 3)
    assert part.block_ids.tolist() == [0, 1, 2, 3]
    assert part.offsets.tolist() == [0, 3, 4]
    assert part.arrival_s.tolist() == [1.0, 4.0]
    assert part.name == "small[1:3]"
    assert part.provenance["steps"] == ["requests 1 to 2 of small"]
    for start, stop in ((2, 2), (-1, 2), (0, 4)):
        with pytest.raises(TraceError, match="expected 0 <= start < stop <= 3"):
            build().slice(start, stop)


def test_split_time_puts_a_request_at_the_cut_into_the_later_part() -> None:
    # span [0, 10], cuts at 4 and 6: 0, 3.9 | 4, 5 | 6, 10
    ids = [0, 1, 2, 3, 4, 5]
    trace = build(
        offsets=list(range(7)),
        block_ids=ids,
        arrival_s=[0.0, 3.9, 4.0, 5.0, 6.0, 10.0],
        input_tokens=[4] * 6,
        output_tokens=[0] * 6,
    )
    assert [part.arrival_s.tolist() for part in trace.split_time((0.4, 0.2, 0.4))] == [
        [0.0, 3.9],
        [4.0, 5.0],
        [6.0, 10.0],
    ]
    for bad in ((0.5, 0.4), (1.0, 0.0), (), (1.5, -0.5)):
        with pytest.raises(TraceError, match="sum to 1"):
            trace.split_time(bad)
    with pytest.raises(TraceError, match="part 1 has no requests"):
        trace.split_time((0.61, 0.1, 0.29))


def test_sample_keeps_groups_whole() -> None:
    # 100 families of 3 requests behind one common block 0: request i walks [0, family]
    family = np.repeat(np.arange(1, 101), 3)
    trace = Trace.build(
        name="families",
        block_tokens=1,
        offsets=np.arange(301) * 2,
        block_ids=np.stack([np.zeros(300, int), family], axis=1).ravel(),
        arrival_s=np.arange(300.0),
        input_tokens=np.full(300, 2),
        output_tokens=np.zeros(300, int),
    )
    part = trace.sample(0.25, seed=1)
    assert part.n_requests == 75
    assert part.n_blocks == 1 + 25  # the common block and 25 whole families
    assert trace.sample(0.25, seed=1).fingerprint == part.fingerprint
    assert trace.sample(0.25, seed=2).fingerprint != part.fingerprint
    with pytest.raises(TraceError, match="no session column"):
        trace.sample_sessions(0.5, seed=0)
    with pytest.raises(TraceError, match="0 < fraction <= 1"):
        trace.sample(0.0, seed=0)


def test_sample_sessions() -> None:
    trace = build(session=[4, 8, 4])
    kept = {trace.sample_sessions(0.5, seed).n_requests for seed in range(20)}
    assert kept == {1, 2}  # either session 8 (one request) or session 4 (two)


def test_concat_and_merge_by_hand() -> None:
    one, two = build(session=[5, 5, -1]), build(session=[0, 1, 0], arrival_s=[0.0, 2.0, 4.0])
    chained = Trace.concat([one, two], "both", gap_s=1.0)
    assert chained.arrival_s.tolist() == [1.0, 1.0, 4.0, 5.0, 7.0, 9.0]  # second starts at 4 + 1
    assert chained.block_ids.tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert chained.session is not None
    assert chained.session.tolist() == [5, 5, -1, 6, 7, 6]
    merged = Trace.merge([one, two], "mixed")
    # times 1 1 4 | 0 2 4, stable: two[0] 0, one[0] 1, one[1] 1, two[1] 2, one[2] 4, two[2] 4
    assert merged.arrival_s.tolist() == [0.0, 1.0, 1.0, 2.0, 4.0, 4.0]
    assert merged.block_ids.tolist() == [0, 1, 2, 3, 2, 3, 4, 0, 1, 5, 6, 7]
    assert Trace.concat([build(), two], "x").session is not None
    with pytest.raises(TraceError, match="block_tokens"):
        Trace.merge([build(), build(block_tokens=8, offsets=[0, 1, 2, 2], block_ids=[0, 0])], "x")
    with pytest.raises(TraceError, match="no traces"):
        Trace.concat([], "x")


@given(traces(), st.data())
def test_any_slice_is_a_valid_trace_with_the_same_sharing(trace: Trace, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, trace.n_requests - 1))
    part = trace.slice(start, data.draw(st.integers(start + 1, trace.n_requests)))
    again = Trace.build(name="again", block_tokens=part.block_tokens, **part.columns())
    assert again.fingerprint == part.fingerprint
    whole = trace.block_ids[trace.offsets[start] : trace.offsets[start + part.n_requests]]
    assert np.array_equal(chains.densify(whole)[0], part.block_ids)


@given(st.lists(traces(), min_size=1, max_size=3), st.booleans())
def test_combining_keeps_every_request_and_shares_nothing(parts: list[Trace], by_time: bool) -> None:
    whole = Trace.merge(parts, "w") if by_time else Trace.concat(parts, "w")
    again = Trace.build(name="again", block_tokens=4, **whole.columns())
    assert again.fingerprint == whole.fingerprint
    assert whole.n_refs == sum(part.n_refs for part in parts)
    assert whole.n_blocks == sum(part.n_blocks for part in parts)
    assert sorted(whole.input_tokens) == sorted(np.concatenate([part.input_tokens for part in parts]))


@settings(max_examples=40)
@given(traces())
def test_save_and_load_round_trip(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> None:
    path = tmp_path_factory.getbasetemp() / "round.npz"
    trace.save(path)
    loaded = Trace.load(path)
    assert loaded.fingerprint == trace.fingerprint
    assert (loaded.name, loaded.block_tokens, loaded.provenance) == (trace.name, trace.block_tokens, trace.provenance)
    assert not loaded.block_ids.flags.writeable


@given(traces())
def test_next_use_and_parents_against_the_obvious_loops(trace: Trace) -> None:
    ids = trace.block_ids.tolist()
    naive = [next((j for j in range(i + 1, len(ids)) if ids[j] == ids[i]), len(ids)) for i in range(len(ids))]
    assert trace.next_use.tolist() == naive
    for i in range(trace.n_requests):
        path = ids[trace.offsets[i] : trace.offsets[i + 1]]
        assert [trace.parents[block] for block in path] == [-1, *path[:-1]][: len(path)]


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    build().save(good)
    data = good.read_bytes()
    bad = tmp_path / "bad.npz"
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, x=np.arange(3))
    array = tmp_path / "array.npz"
    with array.open("wb") as handle:
        np.save(handle, np.arange(3))
    pickled = tmp_path / "pickled.npz"
    pickled.write_bytes(pickle.dumps([1, 2]))
    cases = [data[: len(data) // 2], data[:10], b"", b"hello", data[:-1], data[:200] + b"\xff" * 8 + data[208:]]
    for contents in cases:
        bad.write_bytes(contents)
        with pytest.raises(TraceError, match=r"bad\.npz: .*fix: "):
            Trace.load(bad)
    for path in (foreign, array, pickled, tmp_path / "nothing.npz", tmp_path):
        with pytest.raises(TraceError, match="fix: "):
            Trace.load(path)


@settings(max_examples=150)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_never_gives_another_trace(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    path, trace = folder / "flip.npz", build()
    trace.save(path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(bytes(data))
    with suppress(TraceError):
        assert Trace.load(path).fingerprint == trace.fingerprint


def test_a_consistent_but_invalid_file_is_refused(tmp_path: Path) -> None:
    """Right format, right checksum, broken rules: block 1 follows block 0, then nothing."""
    ids = np.array([0, 1, 0, 1, 2, 1], np.int32)
    base = build()
    columns: dict[str, Any] = base.columns() | {"block_ids": ids}
    Trace(name="forged", block_tokens=4, **columns).save(tmp_path / "forged.npz")
    with pytest.raises(TraceError, match="prefix-chained"):
        Trace.load(tmp_path / "forged.npz")
    columns["block_ids"] = np.array([0, 1, 0, 1, 2, 99], np.int32)
    Trace(name="forged", block_tokens=4, **columns).save(tmp_path / "forged.npz")
    with pytest.raises(TraceError, match="dense ids"):
        Trace.load(tmp_path / "forged.npz")


def test_save_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.npz"
    build().save(path)
    before = path.read_bytes()

    def fail(handle: Any, **_members: Any) -> None:
        handle.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        build(name="new").save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.npz"]
