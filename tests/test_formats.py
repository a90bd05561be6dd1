"""Formats: each told from all others by its contents, converted, and read in bounded memory."""

from __future__ import annotations

import gzip
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import extra, missing
from small_traces import hand_trace
from trace_files import (
    AGENTIC_1,
    AGENTIC_2,
    BAILIAN,
    CLOSED_LOOP,
    DELTA,
    DYNAMO,
    EVOLVE,
    KVSESS1,
    KVT1,
    LMCACHE,
    MOONCAKE,
    chat,
    ended,
    lookup,
    ragpulse_folder,
    write,
)

from sim.cli import main
from workloads import Trace, TraceError, formats, load, locate
from workloads.readers import bailian, dynamo, lmcache, mooncake, oracle_general, prefix_cache_evolve, ragpulse
from workloads.synthetic import chat as chats

LINES = {
    "kvt1": [KVT1],
    "kvsess1": [KVSESS1],
    "mooncake": [MOONCAKE, CLOSED_LOOP, DELTA],
    "bailian": [BAILIAN],
    "dynamo": [DYNAMO, [DYNAMO[2]]],
    "agentic_mooncake": [AGENTIC_1, AGENTIC_2],
    "lmcache": [LMCACHE],
    "prefix_cache_evolve": [EVOLVE, EVOLVE[1:]],
}

CONVERSATION = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TEXTS = {
    "recorded": '{"timestamp": 1, "input_length": 5, "output_length": 1, "block_size": 4, "hash_ids": [9, 1]}\n',
    "weka": '{"id": "a", "block_size": 4, "requests": [{"t": 0, "in": 9, "out": 3, "hash_ids": [1, 2]}]}\n',
    "lmcache_text": '{"timestamp": 1, "input": "Hi", "output": "Hello", "session_id": "a"}\n',
    "sharegpt": '[{"id": "a_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}]',
    "wildchat": json.dumps({"conversation_hash": "a", "model": "m", "conversation": CONVERSATION, "turn": 1}) + "\n",
    "openai_chat": json.dumps({"messages": CONVERSATION[:1], "time": 3}) + "\n",
    "spec": "format: kvevolve-workload\nversion: 1\nname: x\nsources:\n- family: chat\n",
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n",
    "servegen": "workload,t_s,rate_rps\nm-large,0,195.8\n",
}
SAME_ON_THE_WIRE = {"sglang_events": "vllm_events"}
EVENTS = {"vllm_events": "vllm033_events.gz", "sglang_events": "sglang0523_events.gz"}


def files_of(name: str, folder: Path) -> Iterator[Path]:
    """Write small files (or folders) of a format and yield them."""
    for number, records in enumerate(LINES.get(name, [])):
        plain = write(folder / f"{number}", records)
        yield plain
        packed = folder / f"{number}.packed"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        yield packed
    if name in TEXTS:
        (folder / "text").write_text(TEXTS[name])
        yield folder / "text"
    if name in EVENTS:
        yield Path(__file__).parent / "data" / EVENTS[name]
    if name in formats.MODULES and hasattr(formats.module(name), "write"):
        for suffix in formats.module(name).SUFFIXES:
            if suffix.endswith(".zst"):
                extra("zstandard")
            formats.writer(folder / f"x{suffix}").write(chats(seed=1, requests=20), folder / f"x{suffix}")
            yield folder / f"x{suffix}"
    if name == "ragpulse":
        yield ragpulse_folder(folder / "rag")
        yield folder / "rag"
        with tarfile.open(folder / "rag.tar.gz", "w:gz") as archive:
            archive.add(folder / "rag", "raw")
        yield folder / "rag.tar.gz"
    for format_name, file in (("dynamo", "request-trace.000000.jsonl"), ("lmcache", "lookup_hashes_1_1.jsonl")):
        if name == format_name:
            (folder / "rotated").mkdir()
            write(folder / "rotated" / file, LINES[name][0])
            yield folder / "rotated"


@pytest.mark.parametrize("name", formats.MODULES)
def test_every_file_is_told_from_all_other_formats(tmp_path: Path, name: str) -> None:
    if name == "parquet":
        extra("pyarrow")
    found = list(files_of(name, tmp_path))
    assert found, "a format without a file in this test"
    for path in found:
        assert formats.sniff(path) == SAME_ON_THE_WIRE.get(name, name), path


def test_what_is_no_trace(tmp_path: Path) -> None:
    for content in (
        b"",
        b"{",
        b"[1]\n",
        b"hello\n",
        b"\x1f\x8b\x08",
        b'{"x": 1}\n',
        b'{"hash_ids"\n',
        b"\0" * 600,
        b"\n" * 65_536,
    ):
        path = tmp_path / "x"
        path.write_bytes(content)
        with pytest.raises(TraceError, match="not a known trace format"):
            formats.sniff(path)
    with pytest.raises(TraceError, match="not a known trace format"):
        formats.sniff(tmp_path)


def test_rows_of_lengths_alone_are_refused_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "x", [{"timestamp": 0, "input_length": 10, "output_length": 4}])
    with pytest.raises(TraceError, match=r"x:1: field 'hash_ids': .*no block identity"):
        load(str(path))


# ---- real files ------------------------------------------------------------------------------------------------------


def ragpulse_raw() -> Path:
    """Return RAGPulse's own files."""
    for folder in locate.trace_dirs():
        if (folder / "ragpulse" / "raw.tar.gz").is_file():
            return folder / "ragpulse" / "raw.tar.gz"
    missing("ragpulse/raw.tar.gz")


def test_ragpulse_raw_is_its_kvt1_conversion(tmp_path: Path, real_trace: Callable[[str], Trace]) -> None:
    want = real_trace("ragpulse")
    packed = load(str(ragpulse_raw()))
    assert packed.fingerprint == want.fingerprint
    assert packed.provenance["repairs"] == {"clip_input": 3_840, "clip_input_tokens": 19_146, "sort_time": 3_304}
    with tarfile.open(ragpulse_raw()) as archive:
        archive.extractall(tmp_path, filter="data")
    assert ragpulse.read(tmp_path / "raw").fingerprint == want.fingerprint
    with pytest.raises(TraceError, match=r"0_trace\.jsonl:\d+: .*repair='sort_time'"):
        ragpulse.read(tmp_path / "raw", repair="clip_input")
    whole = ragpulse_raw().read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match=r"cut\.tar\.gz: not a readable tar archive"):
        ragpulse.read(tmp_path / "cut.tar.gz")


def test_real_trace_there_and_back(tmp_path: Path, real_trace: Callable[[str], Trace]) -> None:
    trace = real_trace("mooncake_toolagent_1000")
    prefix_cache_evolve.write(trace, tmp_path / "x.pce.jsonl")
    oracle_general.write(trace, tmp_path / "x.oracleGeneral", marked=True)
    for file in ("x.pce.jsonl?block=512", "x.oracleGeneral?block=512&requests=marked"):
        back = load(f"{tmp_path / file}")
        assert (back.block_ids == trace.block_ids).all()
        assert (back.full_blocks[back.full_blocks > 0] == trace.full_blocks[trace.full_blocks > 0]).all()


# ---- memory ----------------------------------------------------------------------------------------------------------

IDS, PER_LINE = 50_000, 100
HASHES = [f"0x{7919 * n:064x}" for n in range(IDS)]


def big(name: str, path: Path) -> Callable[[], Trace]:
    """Write a file of `IDS` block ids, all different; return how it is read."""
    with path.open("w") as handle:
        for line, first in enumerate(range(0, IDS, PER_LINE)):
            block_ids = list(range(first, first + PER_LINE))
            if name == "mooncake":
                record = {"timestamp": line, "input_length": 512 * PER_LINE, "output_length": 1, "hash_ids": block_ids}
            elif name == "bailian":
                record = chat(line, line - 1, line, 16 * PER_LINE, 1 + line, *block_ids)
            elif name == "dynamo":
                record = ended(f"r{line}", line, 4 * PER_LINE, *(2**64 - 1 - n for n in block_ids))
            elif name == "lmcache":
                record = lookup(float(line), 4 * PER_LINE, *HASHES[first : first + PER_LINE])
            else:
                record = {**EVOLVE[1], "timestamp_ms": line, "prompt_length": 4 * PER_LINE, "prefix_hashes": block_ids}
            handle.write(json.dumps(record) + "\n")
    read: dict[str, Callable[[], Trace]] = {
        "mooncake": lambda: mooncake.read(path),
        "bailian": lambda: bailian.read(path),
        "dynamo": lambda: dynamo.read(path),
        "lmcache": lambda: lmcache.read(path),
        "prefix_cache_evolve": lambda: prefix_cache_evolve.read(path, 4),
    }
    return read[name]


@pytest.mark.parametrize(
    ("name", "bytes_per_id"),
    [("mooncake", 60), ("bailian", 80), ("dynamo", 90), ("lmcache", 300), ("prefix_cache_evolve", 300)],
)
def test_memory_is_bounded_by_the_ids(tmp_path: Path, name: str, bytes_per_id: int) -> None:
    """Columns and their copies; formats whose ids are text also hold every distinct name once."""
    read = big(name, tmp_path / "big.jsonl")
    tracemalloc.start()
    try:
        assert read().n_refs == IDS
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < IDS * bytes_per_id, f"{peak / IDS:.0f} bytes per id"


def test_memory_of_records_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.oracleGeneral"
    trace = chats(seed=1, requests=4_000)
    oracle_general.write(trace, path, marked=True)
    tracemalloc.start()
    try:
        oracle_general.read(path, requests="marked")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    buffer = 6_400_000
    assert peak < buffer + 70 * trace.n_refs, f"{(peak - buffer) / trace.n_refs:.0f} bytes per record"


@pytest.mark.parametrize("name", [name for name in formats.MODULES if hasattr(formats.module(name), "write")])
def test_a_format_keeps_the_columns_it_names(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "parquet":
        extra("pyarrow")
    known = {"session": [0, 0, 1], "turn": [0, 1, 0], "tenant": [0, 0, 1], "request_type": [1, 1, 0]}
    known |= {"priority": [2, 0, 1]}
    trace = hand_trace([[0, 1], [0, 2], [3]], [20, 25, 13], **known)
    trace.save(tmp_path / "t.npz")
    module = formats.module(name)
    out = tmp_path / f"out{module.SUFFIXES[0]}"
    assert main(["trace", "convert", str(tmp_path / "t.npz"), str(out)]) == 0
    lost = [column for column in known if column not in module.KEEPS]
    assert ("left out, the format has no place for it: " + ", ".join(lost) in capsys.readouterr().err) == bool(lost)
    back = load(f"{out}?block=10" if name in ("prefix_cache_evolve", "oracle_general") else str(out)).columns()
    for column in module.KEEPS:
        assert len(set(back[column].tolist())) == len(set(known[column]))
    for column in lost:
        assert column not in back or column == "turn"  # a reader may count turns anew
