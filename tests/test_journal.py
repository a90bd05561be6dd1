"""The journal of evaluations: lines of many writers, torn tails, and answers from memory."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import journal, jsonlines, scoring
from sim.code_digest import code_digest, digest_of
from sim.evaluation import METRICS, Evaluation
from sim.journal import FILE, Journal, Line, by_other_code, entries, sha
from sim.panel_facts import PanelFacts


def line(source: str = "a = 1\n", panel: str = "p", advice: bool = False, stage: str = "panel") -> Line:
    return Line(source, panel, advice, {"combined_score": 0.5}, {"cells": "…"}, stage, 1.0, 0.9, 7, (3, 4))


def write_many(run_dir: str, writer: int) -> None:
    journal = Journal(Path(run_dir))
    for number in range(40):
        journal.append(line(f"# {writer} {number}\n" + "x = 1\n" * 500))


def test_processes_append_at_once_and_no_line_is_lost(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_many, args=(str(tmp_path), writer)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = {entry["source"].splitlines()[0] for entry in entries(tmp_path)}
    assert found == {f"# {writer} {number}" for writer in range(4) for number in range(40)}


@settings(max_examples=40)
@given(st.floats(0.0, 1.0))
def test_a_torn_tail_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("torn")
    journal = Journal(folder)
    for source in ("one", "two", "three"):
        journal.append(line(source))
    whole = (folder / FILE).read_bytes()
    kept = round(share * len(whole))
    (folder / FILE).write_bytes(whole[:kept])
    left = whole[:kept].count(b"\n")
    Journal(folder).append(line("four"))
    ended = whole[kept : kept + 1] == b"\n"  # only the line's end was missing, and is written anew
    sources = [entry["source"] for entry in entries(folder)]
    assert sources == [*["one", "two", "three"][: left + ended], "four"]
    assert Journal(folder).find("four", "p", False) is not None


def test_garbage_is_left_out(tmp_path: Path) -> None:
    wrong = [
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        b"null",
        b'{"source_sha": 3}',
        b"[" * 5000,
        b'{"stage": []}',
        b'{"source": "x"',
    ]
    (tmp_path / FILE).write_bytes(b"\n".join(wrong) + b"\n\n")
    journal = Journal(tmp_path)
    assert entries(tmp_path) == []
    assert journal.find("x", "p", False) is None
    journal.append(line("x"))
    assert journal.find("x", "p", False) is not None


def test_mend_ends_a_torn_line_once(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    jsonlines.mend(log)
    assert not log.exists()
    log.write_bytes(b'{"a": 1}\n{"a":')
    for _ in range(2):
        jsonlines.mend(log)
        assert log.read_bytes() == b'{"a": 1}\n{"a":\n'
    assert jsonlines.read(log) == [{"a": 1}]


@pytest.mark.parametrize(
    ("written", "asked", "known"),
    [
        (line(), ("a = 1\n", "p", False), True),
        (line(), ("a = 1\n", "another panel", False), False),
        (line(), ("a = 2\n", "p", False), False),
        (line(), ("a = 1\n", "p", True), False),
        (line(advice=True), ("a = 1\n", "p", False), True),
        (line(stage="gate"), ("a = 1\n", "p", False), True),
        (line(stage="timeout"), ("a = 1\n", "p", False), False),
        (line(stage="memory"), ("a = 1\n", "p", False), False),
    ],
)
def test_what_would_come_out_the_same_is_found(tmp_path: Path, written: Line, asked: tuple, known: bool) -> None:
    reader = Journal(tmp_path)
    assert reader.find(*asked) is None
    Journal(tmp_path).append(written)
    assert (reader.find(*asked) is not None) is known


def test_other_code_answers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not by_other_code(tmp_path)
    Journal(tmp_path).append(line())
    assert not by_other_code(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "code_digest", lambda: "0" * 16)
        assert by_other_code(tmp_path)
        assert Journal(tmp_path).find("a = 1\n", "p", False) is None
    entry = json.loads((tmp_path / FILE).read_bytes())
    del entry["code"]  # as a version before this one wrote it
    (tmp_path / FILE).write_text(json.dumps(entry) + "\n")
    assert by_other_code(tmp_path)
    assert Journal(tmp_path).find("a = 1\n", "p", False) is None


def test_the_digest_is_of_every_source(tmp_path: Path) -> None:
    for package in ("sim", "workloads"):
        (tmp_path / package / "deep").mkdir(parents=True)
    file = tmp_path / "workloads" / "deep" / "a.py"
    file.write_text("x = 1\n")
    first = digest_of(tmp_path)
    (tmp_path / "sim" / "notes.txt").write_text("no source")
    (tmp_path / "sim" / "incumbents" / "new").mkdir(parents=True)
    (tmp_path / "sim" / "incumbents" / "new" / "policy.py").write_text("x = 3\n")
    assert digest_of(tmp_path) == first
    file.write_text("x = 2\n")
    second = digest_of(tmp_path)
    file.rename(tmp_path / "sim" / "deep" / "a.py")
    assert len({first, second, digest_of(tmp_path)}) == 3


class Counting:
    """Stands in for the way to an evaluator; counts what reaches it."""

    facts = PanelFacts("tiny-v1", "train", "f" * 64, {"panel": 7, "smoke": 2})

    def __init__(self) -> None:
        self.asked: list[str] = []

    def evaluate_source(self, source: str, advice: bool = True) -> Evaluation:
        self.asked.append(source)
        metrics = dict.fromkeys(METRICS, 0.25)
        return Evaluation(metrics, {"cells": "x"}, "panel", "fork", None, [1, 2], seconds=2.0, cpu_seconds=1.5)


def test_a_source_is_evaluated_once_and_answered_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Counting()
    monkeypatch.setattr(scoring.broker, "connected", lambda: there)
    monkeypatch.setenv("KVEVOLVE_RUN_DIR", str(tmp_path / "run"))
    candidate = tmp_path / "candidate.py"
    candidate.write_text("a = 1\n")
    first, again = scoring.score_file(candidate, advice=False), scoring.score_file(candidate, advice=False)
    assert first == again
    assert there.asked == ["a = 1\n"]
    scoring.score_file(candidate, advice=True)
    assert len(there.asked) == 2
    found = entries(tmp_path / "run")
    assert [entry["cached"] for entry in found] == [False, True, False]
    assert found[0] | {"time": 0} == {
        "time": 0,
        "code": code_digest(),
        "source_sha": sha("a = 1\n"),
        "source": "a = 1\n",
        "panel": "f" * 64,
        "advice": False,
        "metrics": first.metrics,
        "artifacts": {"cells": "x", "isolation": "fork", "panel": "tiny-v1 train, fingerprint ffffffffffff"},
        "stage": "panel",
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "refs": 7,
        "hit_tokens": [1, 2],
        "cached": False,
    }
    assert found[1]["cpu_seconds"] == 0.0
    assert found[1]["hit_tokens"] == [1, 2]


def test_files_that_are_no_text_are_told_and_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring.broker, "connected", Counting)
    monkeypatch.setenv("KVEVOLVE_RUN_DIR", str(tmp_path))
    (tmp_path / "bad.py").write_bytes(b"\xff\xff")
    assert "not UTF-8" in scoring.score_file(tmp_path / "bad.py").artifacts["rejection"]
    (told,) = (json.loads(text) for text in (tmp_path / FILE).read_text().splitlines())
    assert told["source"] is None
    assert told["stage"] == "gate"
    assert entries(tmp_path) == []


def test_a_full_disk_costs_the_line_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    Journal(tmp_path / "run").append(line())
    assert "not in the journal" in caplog.text
