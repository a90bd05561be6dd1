"""oracleGeneral: what libCacheSim's own reader makes of our files, there and back, and broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import extra
from hypothesis import given
from small_traces import hand_trace, random_traces

from sim import simulate
from workloads import Trace, TraceError, load
from workloads.readers import oracle_general
from workloads.readers.oracle_general import RECORD
from workloads.synthetic import chat

CAPACITY_BLOCKS = 1_000
OURS = {"LRU": "lru", "Belady": "belady", "WTinyLFU": "w-tinylfu"}


def records(*rows: tuple[int, int, int, int]) -> bytes:
    """Return the bytes of (time, id, size, next) records."""
    return np.array(list(rows), RECORD).tobytes()


@pytest.mark.parametrize("suffix", oracle_general.SUFFIXES)
@pytest.mark.parametrize(("policy", "marked"), [("LRU", False), ("LRU", True), ("Belady", False), ("WTinyLFU", False)])
def test_libcachesim_reads_it_and_hits_what_we_hit(tmp_path: Path, policy: str, marked: bool, suffix: str) -> None:
    library = extra("libcachesim")
    trace = chat(seed=4, requests=1_500)
    path = tmp_path / f"x{suffix}"
    oracle_general.write(trace, path, block_bytes=1 if policy == "WTinyLFU" else 3, marked=marked)
    reader = library.TraceReader(str(path), library.TraceType.ORACLE_GENERAL_TRACE)
    size = CAPACITY_BLOCKS if policy == "WTinyLFU" else 3 * CAPACITY_BLOCKS
    misses, byte_misses = getattr(library, policy)(size, hashpower=16).process_trace(reader)
    hits = simulate(trace, OURS[policy], CAPACITY_BLOCKS, engine="flat").hit_blocks
    assert 0 < hits < trace.n_refs
    assert round((1 - misses) * trace.n_refs) == round((1 - byte_misses) * trace.n_refs) == hits


def test_libcachesim_reads_the_real_one(tmp_path: Path, real_trace: Callable[[str], Trace]) -> None:
    library = extra("libcachesim")
    trace = real_trace("mooncake_conversation")
    path = tmp_path / "x.oracleGeneral.zst"
    oracle_general.write(trace, path, marked=True)
    reader = library.TraceReader(str(path), library.TraceType.ORACLE_GENERAL_TRACE)
    assert reader.get_num_of_req() == trace.n_refs
    misses, _ = library.LRU(5_000, hashpower=16).process_trace(reader)
    back = load(f"{path}?requests=marked&block_tokens=512")
    assert (back.block_ids == trace.block_ids).all()
    hits = simulate(trace, "lru", 5_000, engine="flat").hit_blocks
    assert round((1 - misses) * trace.n_refs) == simulate(back, "lru", 5_000, engine="flat").hit_blocks == hits


@given(trace=random_traces())
def test_there_and_back(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "x.oracleGeneral"
    if not trace.n_refs:
        with pytest.raises(TraceError, match="0 full blocks"):
            oracle_general.write(trace, path)
        return
    oracle_general.write(trace, path, marked=True)
    back = oracle_general.read(path, trace.block_tokens, requests="marked")
    kept = trace.full_blocks > 0
    assert (back.block_ids == trace.block_ids).all()
    assert (back.full_blocks == trace.full_blocks[kept]).all()
    assert (back.arrival_s == np.floor(trace.arrival_s[kept])).all()
    assert (back.input_tokens == trace.full_blocks[kept] * trace.block_tokens).all()
    single = oracle_general.read(path)
    assert (single.block_ids == trace.block_ids).all()
    assert (single.full_blocks == 1).all()
    rows = np.fromfile(path, RECORD)
    for at, row in enumerate(rows):
        later = np.flatnonzero(rows["id"][at + 1 :] == row["id"])
        assert row["next"] == (at + 1 + later[0] if len(later) else -1)


def test_records_become_requests(tmp_path: Path) -> None:
    path = tmp_path / "x.oracleGeneral.bin"
    path.write_bytes(records((1, 2**64 - 1, 9, 2), (1, 5, 9, -1), (4, 2**64 - 1, 9, -1), (4, 7, 9, -1)))
    single = load(str(path))
    assert single.block_ids.tolist() == [0, 1, 0, 2]
    assert single.arrival_s.tolist() == [1.0, 1.0, 4.0, 4.0]
    assert (single.name, single.block_tokens) == ("x", 1)
    assert Trace.build(**single.columns(), name="x", block_tokens=1).fingerprint == single.fingerprint
    grouped = load(f"{path}?requests=time&block_tokens=8")
    assert grouped.offsets.tolist() == [0, 2, 4]
    assert grouped.input_tokens.tolist() == [16, 16]


def test_objects_that_are_no_prefixes_can_be_rechained(tmp_path: Path) -> None:
    path = tmp_path / "x.oracleGeneral"
    path.write_bytes(records((1, 5, 1, 3), (1, 6, 1, 2), (2, 6, 1, -1), (2, 5, 1, -1)))
    with pytest.raises(TraceError, match=r"request 1: .*\(record 2\), or pass repair='rechain'"):
        oracle_general.read(path, requests="time")
    trace = oracle_general.read(path, requests="time", repair="rechain")
    assert trace.block_ids.tolist() == [0, 1, 2, 3]
    assert trace.provenance["repairs"] == {"rechain": 2}


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "no records in it"),
        (records((1, 1, 1, -1)) + b"\0" * 5, {}, "record 1: .*5 bytes of a record of 24.*truncated"),
        (records((2, 1, 1, -1), (1, 2, 1, -1)), {}, r"request 1: field 'arrival_s': .*\(record 1\)"),
        (records((2, 4, 1, -1)), {"requests": "marked"}, "record 0: expected an odd id"),
        (records((2, 4, 1, -1)), {"requests": "session"}, "one of record, time, marked"),
        (records((2, 4, 1, -1)), {"repair": "all"}, "unknown repair 'all'"),
        (records((2, 4, 1, -1)), {"block_tokens": 0}, "block_tokens"),
        (records(*[(1, 2 * i, 1, -1) for i in range(3)]), {"requests": "time", "block_tokens": 2**30}, "input_tokens"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 50, {}, "data ends or breaks after this"),
        (b"\x1f\x8b" + b"\0" * 50, {}, "data ends or breaks after this"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes, options: dict[str, object], words: str) -> None:
    path = tmp_path / "x.oracleGeneral"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=words) as caught:
        oracle_general.read(path, **options)  # type: ignore[arg-type]
    assert any(word in str(caught.value) for word in ("fix: ", "expected", "known: "))


def test_truncated_zstd(tmp_path: Path) -> None:
    extra("zstandard")
    path = tmp_path / "x.oracleGeneral.zst"
    oracle_general.write(chat(seed=1, requests=200), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match="data ends or breaks after this"):
        oracle_general.read(path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.oracleGeneral"
    for size in (0, 2**32):
        with pytest.raises(TraceError, match="block_bytes"):
            oracle_general.write(chat(seed=1, requests=10), path, size)
    with pytest.raises(TraceError, match="last arrival"):
        oracle_general.write(hand_trace([[0]], [10], arrival_s=[2.0**32]), path)
    assert not path.exists()


@pytest.mark.parametrize("suffix", oracle_general.SUFFIXES[:2])
def test_a_write_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(oracle_general, "_records", cut_off)
    with pytest.raises(KeyboardInterrupt):
        oracle_general.write(chat(seed=1, requests=10), tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []
