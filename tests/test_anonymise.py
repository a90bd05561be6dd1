"""Anonymised traces: nothing of the source in any output, file or message; ids that only the key links."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import extra
from small_traces import hand_trace
from text_files import SECRETS, characters, forms, lines

from sim.cli import main
from workloads import Trace, TraceError, load
from workloads.anonymise import anonymise
from workloads.columns import renumbered
from workloads.keys import Names, load_key
from workloads.text.tokenizer import load_tokenizer

TEXT, USER, ADDRESS, SESSION = SECRETS
KEY, OTHER = bytes(range(32)), bytes(32)


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


LOGS: dict[str, list[dict[str, Any]]] = {
    "sharegpt": [
        {"id": f"{SESSION}_0", "conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": TEXT * 2}]}
    ],
    "wildchat": [{"conversation": [said("user", TEXT, hashed_ip=ADDRESS), said("assistant", TEXT)], "model": USER}],
    "openai_chat": [
        {"messages": [said("user", TEXT)], "session_id": SESSION, "user": USER, "time": 9, "response": TEXT},
        {"messages": [said("user", TEXT + ADDRESS)], "session_id": USER, "user": SESSION, "time": 12},
    ],
    "lmcache_text": [{"timestamp": 1, "input": TEXT * 3, "output": TEXT, "session_id": SESSION}],
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".npz")


def log(folder: Path, kind: str) -> str:
    """Write a log whose file is named after a session; return how to read it."""
    (folder / "in").mkdir(exist_ok=True)
    path = lines(folder / "in" / f"{SESSION}.jsonl", LOGS[kind])
    return f"{path}?tokenizer={characters(folder)}&block=4&window_s=5&think_s=1"


def rows(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def ids(path: Path) -> set[int]:
    return {block for row in rows(path) for block in row["hash_ids"]}


def labels(path: Path) -> set[str]:
    return {row[name] for row in rows(path) for name in ("session_id", "tenant_id") if name in row}


# ---- nothing of the source -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", LOGS)
def test_nothing_of_a_log_is_in_what_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    suffix: str,
) -> None:
    spec, output = log(tmp_path, kind), tmp_path / "out" / f"x{suffix}"
    temporary: list[bytes] = []
    replace = os.replace

    def seen(source: Path, target: Path) -> None:
        temporary.append(Path(source).read_bytes())
        replace(source, target)

    monkeypatch.setattr(os, "replace", seen)
    assert main(["trace", "anonymize", spec, "-o", str(output), "--key", str(tmp_path / "key")]) == 0
    told = capfd.readouterr()
    found = [*temporary, output.read_bytes(), told.out.encode(), told.err.encode(), caplog.text.encode()]
    found += [str(output.parent).encode(), *(name.encode() for name in os.listdir(output.parent))]
    if suffix == ".npz":
        with np.load(output) as archive:
            found += [archive[name].tobytes() for name in archive.files]
    else:
        found.append(json.dumps(rows(output)).encode())
    found.append(repr(vars(load(str(output)))).encode())
    assert len(temporary) == 1
    assert os.listdir(output.parent) == [output.name]
    tokens = load_tokenizer(str(tmp_path / "tokenizer.json")).encode(TEXT)
    for secret in SECRETS:
        for form in forms(secret, tokens):
            assert not any(form in part for part in found), form


@pytest.mark.parametrize("kind", LOGS)
def test_nothing_of_a_broken_log_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    spec = log(tmp_path, kind)
    path = Path(spec.partition("?")[0])
    path = path.rename(path.with_name("log.jsonl"))
    with path.open("a") as handle:
        handle.write(json.dumps(LOGS[kind][0])[:-9])
    output = tmp_path / "out" / "x.jsonl"
    spec = f"{path}?{spec.partition('?')[2]}"
    assert main(["trace", "anonymize", spec, "-o", str(output), "--key", str(tmp_path / "key")]) == 1
    told = capfd.readouterr().err.encode()
    assert b"log.jsonl" in told
    assert not any(form in told for secret in SECRETS for form in forms(secret))
    assert not output.exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = log(tmp_path, "openai_chat")
    (tmp_path / "out").mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "replace", full)
    for suffix in SUFFIXES:
        with pytest.raises(OSError, match="no space"):
            anonymise(spec, tmp_path / "out" / f"x{suffix}", KEY)
    assert os.listdir(tmp_path / "out") == []


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_the_key_and_only_the_key_links(tmp_path: Path) -> None:
    spec = log(tmp_path, "openai_chat")
    for name, key in (("a", KEY), ("b", KEY), ("c", OTHER)):
        anonymise(spec, tmp_path / f"{name}.jsonl", key)
    first, same, other = (tmp_path / f"{name}.jsonl" for name in "abc")
    assert first.read_bytes() == same.read_bytes()
    assert not ids(first) & ids(other)
    assert not labels(first) & labels(other)
    assert load(str(first)).fingerprint == load(str(other)).fingerprint
    for name in (SESSION, USER):  # one value as session and as tenant, and what a recorder would call it
        assert Names(KEY, "session").text(name.encode()) in labels(first)
        assert Names(KEY, "tenant").text(name.encode()) in labels(first)
    assert len(labels(first)) == 4


def test_logs_of_one_key_share_the_ids_of_equal_prompts(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path)
    outputs = []
    for number, texts in enumerate((["alpha", "beta"], ["gamma", "alpha"])):
        path = lines(tmp_path / f"{number}.jsonl", [{"messages": [said("user", text * 9)]} for text in texts])
        outputs.append(tmp_path / f"out{number}.jsonl")
        anonymise(f"{path}?tokenizer={tokenizer}&block=4&window_s=5&think_s=1", outputs[-1], KEY)
    assert len(ids(outputs[0]) & ids(outputs[1])) > 10
    assert not labels(outputs[0]) & labels(outputs[1])  # rows without session ids


@pytest.fixture
def numbered(tmp_path: Path) -> tuple[Trace, str]:
    """A trace with labels that are not in order of appearance, saved; how to read it."""
    trace = hand_trace(
        [[0, 1], [0, 2], [3], []],
        [25, 20, 17, 3],
        arrival_s=[100.0, 100.1, 103.25, 103.3],
        session=[70, -1, 5, 70],
        turn=[0, -1, 0, 1],
        tenant=[9, 9, -1, 8],
        priority=[1, 2, 3, 4],
    ).renamed(TEXT, {"source": {"file": SESSION}, "header": {"name": USER}})
    trace.save(tmp_path / "in.npz")
    return trace, str(tmp_path / "in.npz")


def test_traces_keep_what_matters(numbered: tuple[Trace, str], tmp_path: Path) -> None:
    trace, spec = numbered
    for suffix in (*SUFFIXES, ".jsonl.zst"):
        if suffix.endswith(".zst"):
            extra("zstandard")
        output = tmp_path / f"out{suffix}"
        made = anonymise(spec, output, KEY)
        read = load(str(output))
        assert read.fingerprint == made.fingerprint
        for name in ("offsets", "block_ids", "arrival_s", "input_tokens", "output_tokens", "priority"):
            np.testing.assert_array_equal(getattr(read, name), getattr(trace, name))
        assert read.session.tolist() == [0, -1, 1, 0]
        assert read.tenant.tolist() == [0, 0, -1, 1]
        assert not any(secret in f"{read.name} {read.provenance}" for secret in SECRETS)


def test_numbers_of_different_traces_are_never_linked(numbered: tuple[Trace, str], tmp_path: Path) -> None:
    trace, spec = numbered
    trace.slice(0, 3).save(tmp_path / "part.npz")
    for name, source in (("a", spec), ("b", spec), ("part", str(tmp_path / "part.npz"))):
        anonymise(source, tmp_path / f"{name}.jsonl", KEY)
    assert ids(tmp_path / "a.jsonl") == ids(tmp_path / "b.jsonl")
    assert not ids(tmp_path / "a.jsonl") & ids(tmp_path / "part.jsonl")
    assert not labels(tmp_path / "a.jsonl") & labels(tmp_path / "part.jsonl")


def test_dense_ids_and_shifted_times(numbered: tuple[Trace, str], tmp_path: Path) -> None:
    _, spec = numbered
    output = tmp_path / "out.jsonl"
    arguments = ["trace", "anonymize", spec, "-o", str(output), "--key", str(tmp_path / "key")]
    assert main([*arguments, "--dense", "--start-at-zero"]) == 0
    found = rows(output)
    assert [row["hash_ids"] for row in found] == [[0, 1, 4], [0, 2], [3, 6], [7]]
    assert [row["timestamp"] for row in found] == [0.0, 100.0, 3250.0, 3300.0]
    assert [row.get("session_id") for row in found] == ["0", None, "1", "0"]


def test_the_real_sessions(trace_path: Callable[[str], Path], tmp_path: Path) -> None:
    spec = f"{trace_path('lmcache_agent')}?window_s=600"
    made = anonymise(spec, tmp_path / "out.jsonl.gz", KEY)
    assert load(str(tmp_path / "out.jsonl.gz")).fingerprint == made.fingerprint
    before = load(spec).columns()
    for name, column in made.columns().items():
        same = renumbered(before[name]) if name == "session" else before[name]
        np.testing.assert_array_equal(column, same, err_msg=name)


# ---- key files -------------------------------------------------------------------------------------------------------


def test_key_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    previous = os.umask(0)
    try:
        key = load_key(tmp_path / "key")
    finally:
        os.umask(previous)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["key"]
    assert load_key(tmp_path / "key") == key
    assert load_key(tmp_path / "another") != key
    for mode in (0o640, 0o604, 0o660, 0o610):
        (tmp_path / "key").chmod(mode)
        with pytest.raises(TraceError, match=f"mode {mode:04o}.*chmod 600") as refused:
            load_key(tmp_path / "key")
        assert key.hex() not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"zz" * 32, b"00" * 33, b"\xff" * 64, b"00" * 32 + b"\nmore"])
def test_files_that_are_no_keys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(TraceError, match="expected a key"):
        load_key(tmp_path / "key")
    with pytest.raises(TraceError, match="name a key file"):
        load_key(tmp_path)


def test_outputs_of_no_format_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="suffix"):
        anonymise("absent.jsonl", tmp_path / "out.csv", KEY)


def test_a_manifest_of_what_was_there_before_goes(tmp_path: Path) -> None:
    source, output = tmp_path / "source.npz", tmp_path / "shared.jsonl"
    hand_trace([[0, 1], [0]], [29, 14]).save(source)
    assert main(["trace", "convert", str(source), str(output), "--source", SESSION]) == 0
    anonymise(str(source), output, KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared.jsonl", "source.npz"]
    assert load(str(output)).n_requests == 2


def test_priorities_below_zero_come_back(tmp_path: Path) -> None:
    trace = hand_trace([[0, 1], [0]], [29, 14], priority=[-5, 2])
    trace.save(tmp_path / "source.npz")
    anonymise(str(tmp_path / "source.npz"), tmp_path / "shared.jsonl", KEY)
    back = load(str(tmp_path / "shared.jsonl"))
    assert back.priority is not None
    assert np.array_equal(back.priority, trace.priority)


@pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
def test_a_key_of_the_wrong_length_names_nothing(key: bytes, tmp_path: Path) -> None:
    hand_trace([[0, 1], [0]], [29, 14]).save(tmp_path / "source.npz")
    for spec in (str(tmp_path / "source.npz"), log(tmp_path, "openai_chat")):
        with pytest.raises(TraceError, match="expected 32"):
            anonymise(spec, tmp_path / "shared.jsonl", key)
