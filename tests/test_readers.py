"""Readers: real files give the published statistics, broken ones an error that says where and what."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import extra
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_files import KVSESS1, KVT1, MOONCAKE, READERS, changed, ragpulse_folder, without, write

from workloads import SessionSet, Trace, TraceError, load
from workloads.readers import kvsess1, kvt1, mooncake


def call(t: float | None, tokens: int, *runs: list[int], a: int = 0) -> dict[str, Any]:
    """One request of a kvsess1 session."""
    return {"a": a, "in": tokens, "out": 1, "b": list(runs)} | ({} if t is None else {"t": t})


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_mooncake_by_hand(tmp_path: Path) -> None:
    trace = mooncake.read(write(tmp_path / "m.jsonl", MOONCAKE), block_tokens=4)
    assert trace.block_ids.tolist() == [0, 1, 0, 1, 0, 1, 2]  # partial ids 2 and 4 dropped, 3 becomes dense 2
    assert trace.offsets.tolist() == [0, 2, 4, 7]
    assert trace.arrival_s.tolist() == [0.0, 1.5, 1.5005]
    assert trace.input_tokens.tolist() == [9, 8, 13]
    assert trace.output_tokens.tolist() == [5, 0, 1]
    assert trace.session is None
    assert trace.name == "m"
    assert trace.provenance["partial_tail_ids_dropped"] == 2
    assert trace.provenance["source"] == {"file": "m.jsonl", "sha256": _sha(tmp_path / "m.jsonl")}


def test_mooncake_variants(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_tokens": 4, "output_tokens": 1, "hash_ids": [0], "note": "x"},
        {"timestamp": 1, "input_tokens": 4, "output_tokens": 1, "hash_ids": [0], "session_id": "u"},
        {"timestamp": 1, "input_tokens": 4, "output_tokens": 1, "hash_ids": [0], "session_id": None},
        {"timestamp": 2, "input_tokens": 4, "output_tokens": 1, "hash_ids": [0], "session_id": "u"},
        {"timestamp": 2, "input_tokens": 4, "output_tokens": 1, "hash_ids": [0]},
    ]
    trace = mooncake.read(write(tmp_path / "v.jsonl", [*rows, ""]), block_tokens=4)
    assert trace.session is not None
    assert trace.turn is not None
    assert trace.session.tolist() == [-1, 0, -1, 0, -1]
    assert trace.turn.tolist() == [-1, 0, -1, 1, -1]
    assert trace.provenance["blank_lines"] == 1
    assert trace.provenance["unused_fields"] == {"note": 1}


def test_kvt1_by_hand(tmp_path: Path) -> None:
    trace = kvt1.read(write(tmp_path / "k", KVT1))
    assert trace.block_ids.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 4]
    assert (trace.name, trace.block_tokens) == ("tiny", 4)
    assert trace.session is not None
    assert trace.turn is not None
    assert trace.session.tolist() == [3, 4, 3]
    assert trace.turn.tolist() == [0, 0, 1]


def test_kvsess1_by_hand(tmp_path: Path) -> None:
    sessions = kvsess1.read(write(tmp_path / "s_sessions.jsonl", KVSESS1))
    assert isinstance(sessions, SessionSet)
    assert sessions.session_names == ("a", "b")
    assert sessions.session_rows.tolist() == [0, 3, 4]
    assert sessions.tool_tokens.tolist() == [5, 2, 5, 5]
    assert np.isnan(sessions.abs_start_ms).all()
    assert repr(sessions) == "SessionSet('s', 2 sessions, 4 requests, blocks of 4 tokens, local ids)"


def test_gzip_or_not_is_told_from_the_contents(tmp_path: Path) -> None:
    plain = write(tmp_path / "m.jsonl", MOONCAKE)
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert mooncake.read(zipped, 4).fingerprint == mooncake.read(plain, 4).fingerprint


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "records", "line", "field", "words"),
    [
        ("mooncake", changed(MOONCAKE, 2, timestamp=float("nan")), 2, None, "NaN"),
        ("mooncake", changed(MOONCAKE, 2, timestamp=float("inf")), 2, None, "Infinity"),
        ("mooncake", changed(MOONCAKE, 2, timestamp=-1), 2, "timestamp", "got -1"),
        ("mooncake", changed(MOONCAKE, 2, timestamp=True), 2, "timestamp", "got True"),
        ("mooncake", changed(MOONCAKE, 2, timestamp="5"), 2, "timestamp", "got '5'"),
        ("mooncake", changed(MOONCAKE, 3, timestamp=7), 3, "arrival_s", "repair='sort_time'"),
        ("mooncake", without(MOONCAKE, 1, "timestamp"), 1, "timestamp", "missing"),
        ("mooncake", without(MOONCAKE, 2, "hash_ids"), 2, "hash_ids", "no block identity"),
        ("mooncake", changed(MOONCAKE, 1, input_length=-9), 1, "input_length", "from 0"),
        ("mooncake", changed(MOONCAKE, 1, input_length=9.0), 1, "input_length", "got 9.0"),
        ("mooncake", changed(MOONCAKE, 1, input_length=True), 1, "input_length", "got True"),
        ("mooncake", changed(MOONCAKE, 1, input_length=13), 1, "hash_ids", "expected 4 ids"),
        ("mooncake", changed(MOONCAKE, 1, output_length=-1), 1, "output_length", "got -1"),
        ("mooncake", changed(MOONCAKE, 1, hash_ids=[0, 1, -2]), 1, "hash_ids", "got -2"),
        ("mooncake", changed(MOONCAKE, 1, hash_ids=[0, True, 2]), 1, "hash_ids", "got True"),
        ("mooncake", changed(MOONCAKE, 1, hash_ids=[0, 10**30, 2]), 1, "hash_ids", "integer block ids"),
        ("mooncake", changed(MOONCAKE, 1, hash_ids=None), 1, "hash_ids", "a list"),
        ("mooncake", changed(MOONCAKE, 3, hash_ids=[1, 0, 3, 4]), 3, "block_ids", "repair='rechain'"),
        ("mooncake", [MOONCAKE[0], "{broken"], 2, None, "expected one JSON object"),
        ("mooncake", [MOONCAKE[0], "[1]"], 2, None, "expected a JSON object"),
        ("mooncake", [MOONCAKE[0], "[" * 100_000], 2, None, "expected one JSON object"),
        ("kvt1", MOONCAKE, 1, "format", "expected 'kvt1'"),
        ("kvt1", changed(KVT1, 1, block_size=0), 1, "block_size", "from 1"),
        ("kvt1", changed(KVT1, 2, b=[[0, 1]]), 2, "b", "repair='clip_input'"),
        ("kvt1", changed(KVT1, 2, b=[[0, 3]]), 2, "b", "expected 2 blocks"),
        ("kvt1", changed(KVT1, 2, b=[[0, 0], [0, 2]]), 2, "b", "length >= 1"),
        ("kvt1", changed(KVT1, 2, b=[[0, 10**12]]), 2, "b", "length >= 1"),
        ("kvt1", changed(KVT1, 2, b=[0, 2]), 2, "b", "two integers"),
        ("kvt1", changed(KVT1, 4, b=[[1, 3]]), 4, "block_ids", "follows no block"),
        ("kvt1", changed(KVT1, 3, s=-4), 3, "s", "from 0"),
        ("kvt1", changed(KVT1, 3, t=-4), 3, "t", "milliseconds >= 0"),
        ("kvsess1", changed(KVSESS1, 1, format="kvsess2"), 1, "format", "expected 'kvsess1'"),
        ("kvsess1", changed(KVSESS1, 1, global_ids=1), 1, "global_ids", "true or false"),
        ("kvsess1", changed(KVSESS1, 3, session="a"), 3, "session", "not used before"),
        ("kvsess1", changed(KVSESS1, 3, requests=[]), 3, "requests", "at least one"),
        ("kvsess1", changed(KVSESS1, 3, tool_tokens=-1), 3, "tool_tokens", "from 0"),
        ("kvsess1", changed(KVSESS1, 2, subagents=[[1]]), 2, "subagents", "pairs"),
        ("kvsess1", changed(KVSESS1, 2, subagents=[[1, 2**63]]), 2, "subagents", "pairs"),
        ("kvsess1", changed(KVSESS1, 2, subagents=[[1, 1]] * 2, requests=[call(0, 4, [1, 1], a=3)]), 2, "a", "0 to 2"),
        ("kvsess1", changed(KVSESS1, 3, requests=[call(5, 4, [1, 1]), call(None, 4, [1, 1])]), 3, "t", "1 of 2"),
        ("kvsess1", changed(KVSESS1, 3, requests=[call(5, 4, [1, 1]), call(4, 4, [1, 1])]), 3, "t", "sort_time"),
        ("kvsess1", changed(KVSESS1, 3, requests=[call(5, 8, [1, 1])]), 3, "b", "expected 2 blocks"),
        ("kvsess1", changed(KVSESS1, 3, requests=[call(5, 12, [1, 2], [2, 1])]), 3, "b", "two predecessors"),
    ],
)  # fmt: skip
def test_refusals_say_where_and_what(
    tmp_path: Path, reader: str, records: list[Any], line: int, field: str | None, words: str
) -> None:
    path = write(tmp_path / "bad.jsonl", records)
    with pytest.raises(TraceError) as caught:
        READERS[reader][1](path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert words in message, message
    assert "fix: " in message
    if field is not None:
        assert caught.value.field == field
        assert f"field {field!r}" in message


def test_truncated_gzip_and_other_unreadable_files(tmp_path: Path) -> None:
    data = gzip.compress("".join(json.dumps(r) + "\n" for r in MOONCAKE * 400).encode())
    cut = tmp_path / "cut.gz"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(TraceError, match=r"cut\.gz:\d+: data ends or breaks .*truncated or damaged"):
        mooncake.read(cut, 4)
    cut.write_bytes(data[:60] + b"\0" * 20 + data[80:])
    with pytest.raises(TraceError, match=r"cut\.gz:\d+: "):
        mooncake.read(cut, 4)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    for read in (mooncake.read, kvt1.read, kvsess1.read):
        with pytest.raises(TraceError, match="fix: check that this is the right file"):
            read(empty)
        with pytest.raises(TraceError, match="fix: check the path"):
            read(tmp_path / "nothing")
        with pytest.raises(TraceError, match="fix: check the path"):
            read(tmp_path)
    (tmp_path / "latin").write_bytes(b'{"timestamp": 0, "x": "\xe9"}\n')
    with pytest.raises(TraceError, match="latin:1: "):
        mooncake.read(tmp_path / "latin")


def test_what_is_too_large_is_refused_before_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = [0, 2_000_000_000]
    header = {"format": "kvt1", "block_size": 1}
    flat = write(tmp_path / "x.kvt1", [header, {"t": 0, "in": run[1], "out": 1, "b": [run]}])
    monkeypatch.setattr("workloads.runs.os.sysconf", {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 1 << 12}.__getitem__)
    with pytest.raises(TraceError, match=r"2,000,000,000 block references: at most .* on a machine of 4 GiB"):
        kvt1.read(flat)
    session = {"session": "a", "tool_tokens": 0, "system_tokens": 0, "requests": [call(0, run[1], run)] * 2}
    path = write(tmp_path / "x.kvsess1", [header | {"format": "kvsess1"}, session])
    with pytest.raises(TraceError, match=r"4,000,000,000 block references"):
        load(f"{path}?window_s=1")
    monkeypatch.setattr("workloads.readers.lines.MAX_LINE_BYTES", 50)
    with pytest.raises(TraceError, match=r"x\.jsonl:1: .*a line of more than"):
        mooncake.read(write(tmp_path / "x.jsonl", MOONCAKE))


# ---- repairs ---------------------------------------------------------------------------------------------------------


def test_repairs_are_made_only_on_request_and_counted(tmp_path: Path) -> None:
    backwards = write(tmp_path / "t", changed(MOONCAKE, 3, timestamp=7))
    trace = mooncake.read(backwards, 4, repair="sort_time")
    assert trace.arrival_s.tolist() == [0.0, 0.007, 1.5]
    assert trace.input_tokens.tolist() == [9, 13, 8]
    assert trace.provenance["repairs"] == {"sort_time": 1}

    loose = write(tmp_path / "l", changed(MOONCAKE, 3, hash_ids=[1, 0, 3, 4]))
    trace = mooncake.read(loose, 4, repair=("rechain", "sort_time"))
    assert trace.block_ids.tolist() == [0, 1, 0, 1, 2, 3, 4]  # 1 and 0 along another path are new blocks
    assert trace.provenance["repairs"] == {"sort_time": 0, "rechain": 2}  # two more distinct ids than before

    # 17 tokens are 4 blocks, ids cover 3: at most 15 tokens are known
    short = write(tmp_path / "s", changed(KVT1, 3, b=[[0, 2], [5, 1]]))
    trace = kvt1.read(short, repair="clip_input")
    assert trace.input_tokens.tolist() == [9, 15, 12]
    assert trace.provenance["repairs"] == {"clip_input": 1, "clip_input_tokens": 2}

    early = changed(KVSESS1, 3, requests=[call(5, 4, [1, 1]), call(4, 8, [1, 2])])
    sessions = kvsess1.read(write(tmp_path / "e", early), repair="sort_time")
    assert sessions.input_tokens.tolist()[-2:] == [8, 4]
    assert sessions.provenance["repairs"] == {"sort_time": 1}

    assert mooncake.read(write(tmp_path / "m", MOONCAKE), 4).provenance["repairs"] == {}
    with pytest.raises(TraceError, match="did you mean 'sort_time'"):
        mooncake.read(backwards, 4, repair="sort_tme")


# ---- fuzzing ---------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated_line(draw: st.DrawFn, records: list[dict[str, Any]]) -> tuple[int, bytes]:
    """A line number (from 1) and what to put there: a field changed at any depth, removed, or bytes changed."""
    number = draw(st.integers(1, len(records)))
    record = json.loads(json.dumps(records[number - 1]))
    if draw(st.booleans()):
        text = bytearray(json.dumps(record).encode())
        for _ in range(draw(st.integers(1, 3))):
            text[draw(st.integers(0, len(text) - 1))] = draw(st.sampled_from(b'0123456789-+.eE"[]{},: \xff\x00aNtn'))
        return number, bytes(text)
    target = record
    while True:
        key = draw(st.sampled_from(sorted(target)))
        inside = target[key]
        if isinstance(inside, list) and inside and isinstance(inside[-1], dict) and draw(st.booleans()):
            target = inside[draw(st.integers(0, len(inside) - 1))]
            continue
        break
    if draw(st.integers(0, 3)):
        target[key] = draw(JSON)
    else:
        del target[key]
    return number, json.dumps(record).encode()


@pytest.mark.parametrize("reader", sorted(READERS))
@settings(max_examples=100)
@given(data=st.data())
def test_fuzzed_lines_parse_or_are_refused_with_their_line(tmp_path: Path, reader: str, data: st.DataObject) -> None:
    records, read = READERS[reader]
    number, text = data.draw(mutated_line(records))
    lines = [json.dumps(record).encode() for record in records]
    lines[number - 1] = text
    path = ragpulse_folder(tmp_path) if reader == "ragpulse" else tmp_path / "fuzz.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    outcome: object
    try:
        outcome = read(path)
    except TraceError as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert re.match(rf"{re.escape(str(path))}:\d+: ", outcome), outcome
    else:
        assert isinstance(outcome, Trace | SessionSet)


def _sha(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("cut", [20, 200, -5, -1])
def test_truncated_zstd_is_refused_even_between_lines(tmp_path: Path, cut: int) -> None:
    zstandard = extra("zstandard")
    packer = zstandard.ZstdCompressor().compressobj()
    lines = [json.dumps({**MOONCAKE[0], "timestamp": t}).encode() + b"\n" for t in range(50)]
    whole = b"".join(packer.compress(line) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for line in lines)
    path = tmp_path / "cut.zst"
    whole += packer.flush()
    path.write_bytes(whole)
    assert mooncake.read(path, 4).n_requests == 50
    path.write_bytes(whole[:cut])
    with pytest.raises(TraceError, match=r"cut\.zst:\d+: data ends or breaks"):
        mooncake.read(path, 4)
