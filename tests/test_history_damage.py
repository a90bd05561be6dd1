"""The record of a run from logs that are broken in every way, and stores that are none."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from conftest import extra

from sim.cli import main
from sim.history import export, ingest, opened, summarise
from sim.history.summary import Summary

HALF = b'{"call": 99, "time": 5.0, "kind": "pol'
WHOLE = b'{"call": 100, "time": 6.0, "kind": "policy", "source": "z = 1"}'


def summary(run: Path) -> Summary:
    with opened(ingest(run).store) as connection:
        return summarise(connection, run)


@pytest.mark.parametrize(
    ("damage", "reason", "kept"),
    [
        (HALF + b"\n", "not JSON", 0),
        (HALF + WHOLE + b"\n", "the record at its end was read", 1),
        (b"\x00" * 100 + b"\n", "not JSON", 0),
        (b"\xff\xfe\n", "not JSON", 0),
        (b"[1, 2]\n", "a list, not a record", 0),
        (b"[" * 100_000 + b"\n", "nested too deeply", 0),
        (b'{"a": ' * 100_000 + b"\n", "nested too deeply", 0),
        (b'{"call": "one"}\n', "call is 'one', not a whole number", 0),
        (b'{"call": 99999999999999999999}\n', "not a whole number", 0),
        (b'{"time": true}\n', "time is True, not a number", 0),
        (b'{"source": 3}\n', "source is 3, not a text", 0),
        (b'{"source": "\\ud800"}\n', "no Unicode", 0),
        (b'{"moves": "field"}\n', "not a list", 0),
        (b'{"tuning": 7, "source": "q = 1"}\n', "tuning is 7, not a mapping", 0),
        (b'{"source": "(((("}\n', "", 1),
        (b'{"source": "' + b"(" * 5000 + b'"}\n', "", 1),
        (b'{"source": "x\\u0000"}\n', "", 1),
        (b'{"time": NaN, "source": ""}\n', "", 1),
        (b"\n\n", "", 0),
        (HALF, "", 0),
    ],
)
def test_damaged_lines_are_named_and_cost_nothing_else(tmp_path: Path, damage: bytes, reason: str, kept: int) -> None:
    (tmp_path / "operator.jsonl").write_bytes(WHOLE + b"\n" + damage)
    found = summary(tmp_path)
    assert sum(found.outcomes.values()) == 1 + kept
    assert [(log, line) for log, line, _ in found.damage] == [("operator.jsonl", 2)] * bool(reason)
    assert all(reason in why for _, _, why in found.damage)
    assert ("NOT READ" in str(found)) is bool(reason)
    with (tmp_path / "operator.jsonl").open("ab") as file:
        file.write(b"\n" + WHOLE.replace(b"100", b"101") + b"\n")
    assert summary(tmp_path).outcomes["pending"] == 2 + kept


@pytest.mark.parametrize("name", ["evolution_trace.jsonl", "llm.jsonl", "evaluations.jsonl"])
def test_records_of_a_wrong_shape_are_refused_one_by_one(tmp_path: Path, name: str) -> None:
    bad: list[dict] = [
        {"child_id": 5, "call": "x", "time": []},
        {"child_id": "a", "child_metrics": [], "usage": 3, "metrics": "x"},
        {"child_id": "a", "child_code": {}, "body": {"messages": [1]}, "hit_tokens": {"a": 1}},
        {"child_id": "b", "prompt": {"user": 4}, "body": {"messages": {}}, "artifacts": []},
        {"child_id": "c", "metadata": "m", "polish": 4, "source": 7},
        {"child_id": "d", "child_metrics": {"combined_score": "high"}, "metrics": {"combined_score": "high"},
         "response": 4},
    ]  # fmt: skip
    good = {"child_id": "e", "child_metrics": {"combined_score": float("nan"), "valid": True}, "artifacts": {"x": None}}
    (tmp_path / name).write_text("".join(json.dumps(entry) + "\n" for entry in [*bad, good]))
    found = summary(tmp_path)
    assert [line for _, line, _ in found.damage] == [1, 2, 3, 4, 5, 6]
    json.dumps(found.to_dict(), allow_nan=False)
    assert str(found)
    with opened(tmp_path / "history.sqlite") as connection:
        export(connection, tmp_path / "all.jsonl")
    if "trace" in name:
        assert (tmp_path / "all.jsonl").read_text() == json.dumps(good) + "\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not a database, but long enough to be one" * 9, "damaged or no store"), (None, "no store")],
)
def test_files_that_are_no_store_are_left_alone(tmp_path: Path, content: bytes | None, reason: str) -> None:
    (tmp_path / "operator.jsonl").write_bytes(WHOLE + b"\n")
    store = tmp_path / "history.sqlite"
    if content is None:
        connection = sqlite3.connect(store)
        connection.execute("CREATE TABLE mine (a)")
        connection.close()
        content = store.read_bytes()
    store.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        ingest(tmp_path)
    assert store.read_bytes() == content


def test_folders_without_a_run_are_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(tmp_path / "nowhere")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert main(["history", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_of_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    extra("matplotlib")
    from sim.history_figures import draw

    (tmp_path / "operator.jsonl").write_bytes(WHOLE + b"\n")
    assert [path.stem for path in draw(summary(tmp_path), tmp_path)] == ["proposals"]


def test_children_that_are_their_own_ancestors(tmp_path: Path) -> None:
    families = [("a", "b"), ("b", "a"), ("a", "b"), ("c", "c")]
    lines = [
        {"child_id": child, "parent_id": parent, "timestamp": n, "child_metrics": {"combined_score": float(n)},
         "child_code": f"x = {n}"}
        for n, (child, parent) in enumerate(families, 1)
    ] + [{"child_id": "d", "parent_id": "c", "island_id": "first"}]  # fmt: skip
    (tmp_path / "evolution_trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = summary(tmp_path)
    assert found.curve[-1].score == 4.0
    assert [step.child_id for step in found.steps] == ["c"]
    assert [line for _, line, _ in found.damage] == [5]


def test_an_iteration_lost_for_want_of_an_answer_is_counted_once(tmp_path: Path) -> None:
    said = "LLM generation failed: Error code: 422 - {'error': {'message': 'no policy passes the gate here'}}"
    (tmp_path / "openevolve.log").write_text(
        "2026-01-01 10:00:00,000 - INFO - Starting process-based evolution from iteration 1 for 2 iterations\n"
        f"2026-01-01 10:00:09,000 - WARNING - Iteration 1 error: {said}\n"
        "2026-01-01 10:00:19,000 - WARNING - Iteration 2 error: No valid diffs found in response\n"
        "2026-13-77 10:00:19,000 - WARNING - Iteration 3 error: at no time at all\n"
    )
    entry = {"call": 1, "time": 1.0, "error": "NoChild: no policy passes the gate here"}
    (tmp_path / "operator.jsonl").write_text(json.dumps(entry) + "\n")
    found = summary(tmp_path)
    assert {name: count for name, count in found.outcomes.items() if count} == {"error": 1, "no valid diff": 1}
    assert found.rejections[0][1] == said.replace("422", "#")
    assert found.iterations["lost"] == 2
