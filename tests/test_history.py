"""The record of a run: a real run of the engine, ingested, asked, exported; and logs that are broken in every way."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import extra

from sim.cli import main
from sim.history import export, ingest, opened, query, summarise
from sim.history.lineage import lineage
from sim.history.summary import Summary

ROOT = Path(__file__).parent.parent
FENCE = "`" * 3
EVALUATOR = """
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
from openevolve.evaluation_result import EvaluationResult

from sim.policy.language import PolicyRejected
from sim.policy.program import Policy


def evaluate(path):
    metrics = dict.fromkeys(("combined_score", "complexity_nodes", "evictions_per_access", "valid"), 0.0)
    try:
        policy = Policy.from_source(Path(path).read_text())
    except PolicyRejected as error:
        text = f"rejected at stage gate. Repair this first:\\n- line 3: {{error}}. Fix: do not"
        return EvaluationResult(metrics | {{"combined_score": -1.0}}, {{"rejection": text}})
    nodes = float(policy.nodes)
    score = sum(1 / (1 + abs(literal.value)) for literal in policy.literals) / 7 - nodes / 1000
    metrics |= {{"combined_score": score, "complexity_nodes": nodes, "evictions_per_access": score / 2, "valid": 1.0}}
    if "-block" in policy.source:
        text = "stopped after the first cell (trace chat, capacity 9 blocks): 3 hit tokens, LRU 8, optimum 9"
        return EvaluationResult(metrics | {{"combined_score": -0.9}}, {{"weakest_cell": text}})
    return EvaluationResult(metrics, {{"cells": f"trace gap_closed\\nchat {{score:+.5f}}"}})
"""
"""Scores numbers in the text; what it returns has the form of `sim.evaluation`, which takes far longer to start."""
BETTER = "def priority(block, cache):\n    return block.last_access - 0.5 * min(block.gap, 2000.0)\n"
BROKEN = "import os\ndef priority(block, cache):\n    return 1.0\n"
SCRIPT = [
    ("program", BETTER),
    ("same", ""),
    ("raw", "I would rather not."),
    ("program", BROKEN),
    ("program", BETTER.replace("def", "# the same again\ndef", 1)),
    ("program", "def priority(block, cache):\n    return -block.last_access\n"),
    ("program", BETTER.replace("0.5", "0.25")),
    ("program", BETTER.replace("2000.0", "60.0")),
]


class Model:
    """An OpenAI-compatible endpoint on loopback that answers from `SCRIPT` and keeps the log of a proxy."""

    def __init__(self, log: Path) -> None:
        self.log, self.calls = log, 0
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = model.answer(body)
                usage = {"prompt_tokens": 100 + model.calls, "completion_tokens": 7, "total_tokens": 0}
                model.keep(body, text, usage)
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                answer = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage}
                data = json.dumps(answer | {"choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, body: dict) -> str:
        kind, code = SCRIPT[min(self.calls, len(SCRIPT) - 1)]
        self.calls += 1
        if kind == "raw":
            return code
        parent = body["messages"][-1]["content"].rpartition("# Current Program\n")[2]
        parent = parent.partition(f"{FENCE}python\n")[2].partition(FENCE)[0].rstrip("\n")
        child = parent if kind == "same" else f"# EVOLVE-BLOCK-START\n{code}# EVOLVE-BLOCK-END"
        return f"<<<<<<< SEARCH\n{parent}\n=======\n{child}\n>>>>>>> REPLACE"

    def keep(self, body: dict, text: str, usage: dict) -> None:
        entry = {"call": self.calls, "time": time.time(), "request": f"r{self.calls}", "model": body["model"]}
        entry |= {"body": body, "response": text, "usage": usage, "cost_usd": 0.001, "seconds": 0.0}
        with self.log.open("a") as file:
            file.write(json.dumps(entry | {"outcome": "answered", "polish": None}) + "\n")


@pytest.fixture(scope="module")
def engine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run OpenEvolve once for all tests of this file; they copy its folder before they change it."""
    place = tmp_path_factory.mktemp("history")
    out = place / "out"
    out.mkdir()
    (place / "evaluator.py").write_text(EVALUATOR.format(root=str(ROOT)))
    model = Model(out / "llm.jsonl")
    settings = {
        "max_iterations": len(SCRIPT),
        "checkpoint_interval": len(SCRIPT),
        "language": "python",
        "llm": {
            "api_base": f"http://127.0.0.1:{model.server.server_port}/v1",
            "api_key": "none",
            "models": [{"name": "scripted", "weight": 1.0}],
            "retries": 0,
        },
        "prompt": {"num_top_programs": 1, "num_diverse_programs": 0},
        "database": {
            "num_islands": 1,
            "feature_dimensions": ["complexity_nodes", "evictions_per_access"],
            "feature_bins": 4,
            "archive_size": 4,
        },
        "evaluator": {"cascade_evaluation": False, "max_retries": 0, "parallel_evaluations": 1},
        "evolution_trace": {"enabled": True, "include_code": True, "include_prompts": True, "buffer_size": 1},
    }
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    variables = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_") and "proxy" not in k.lower()}
    command = [sys.executable, "-m", "openevolve.cli", str(ROOT / "initial_program.py"), str(place / "evaluator.py")]
    command += ["--config", str(out / "config.yaml"), "--output", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    model.server.shutdown()
    model.server.server_close()
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture
def run(engine_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may break."""
    return Path(shutil.copytree(engine_run, tmp_path / "run"))


def summary(run: Path) -> Summary:
    with opened(ingest(run).store) as connection:
        return summarise(connection, run)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def exported(run: Path) -> list[str]:
    with opened(ingest(run).store) as connection:
        export(connection, run / "all.jsonl")
    return lines(run / "all.jsonl")


def rows(run: Path, sql: str) -> list[tuple]:
    return query(run / "history.sqlite", sql).rows


def content(run: Path) -> dict[str, list[tuple]]:
    """Return all that a store holds, but row numbers and what depends on when files were written."""
    skipped = {"id", "proposal_id", "evaluation_id", "stamp"}
    with opened(run / "history.sqlite") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for name in tables:
            cursor = connection.execute(f"SELECT * FROM {name}")
            kept = [i for i, column in enumerate(cursor.description) if column[0] not in skipped or name == "children"]
            kept = [i for i in kept if cursor.description[i][0] != "evaluation_id"]
            found[name] = sorted((tuple(row[i] for i in kept) for row in cursor), key=repr)
        return found


def test_a_real_run_is_recorded_whole(run: Path) -> None:
    found = summary(run)
    assert found.state == "ended"
    assert {name: count for name, count in found.outcomes.items() if count} == {
        "stored": 3,
        "rejected": 2,
        "duplicate": 1,
        "no valid diff": 2,
    }
    assert found.acceptance == 3 / 8
    reasons = {reason for _, reason, _ in found.rejections}
    assert {"Diff did not change the parent program", "No valid diffs found in response"} <= reasons
    assert any(stage == "gate" for stage, _, _ in found.rejections)
    assert found.iterations == {"planned": 8, "stored": 6, "lost": 2, "sessions": 1}
    assert found.cost["prompt_tokens"] == sum(range(101, 109))
    assert found.cost["usd"] == pytest.approx(0.008)
    assert found.evaluations["total"] == 7
    assert found.diversity["programs"] == 6
    assert found.diversity["texts"] == 7
    assert found.grid is not None
    assert found.grid.bins == (4, 4)
    assert sum(found.grid.union().values()) == pytest.approx(sum(found.grid.islands[0].cells.values()))
    assert found.steps[0].by == "seed"
    assert found.steps[-1].score == found.curve[-1].score == max(score for _, score in found.trials)
    assert found.steps[-1].score == pytest.approx(found.steps[0].score + sum(step.gain for step in found.steps[1:]))
    assert "-    return block.last_access" in found.steps[1].diff
    assert not found.damage
    json.dumps(found.to_dict(), allow_nan=False)
    assert "No valid diffs found in response" in str(found)


def test_every_call_is_linked_to_what_became_of_it(run: Path) -> None:
    ingest(run)
    found = rows(run, "SELECT call, outcome, iteration, child_id NOTNULL, stage FROM proposals ORDER BY call")
    assert [row[:4] for row in found] == [
        (1, "stored", 1, 1),
        (2, "no valid diff", 2, 0),
        (3, "no valid diff", 3, 0),
        (4, "rejected", 4, 1),
        (5, "duplicate", 5, 1),
        (6, "rejected", 6, 1),
        (7, "stored", 7, 1),
        (8, "stored", 8, 1),
    ]
    assert [row[4] for row in found][3] == "gate"
    sql = "SELECT s.text, u.text, a.text FROM proposals p JOIN texts s ON s.sha = p.system_sha"
    texts = rows(run, f"{sql} JOIN texts u ON u.sha = p.prompt_sha JOIN texts a ON a.sha = p.answer_sha ORDER BY call")
    logged = [json.loads(line) for line in lines(run / "llm.jsonl")]
    assert [(entry["body"]["messages"][0]["content"], entry["body"]["messages"][1]["content"], entry["response"])
            for entry in logged] == texts  # fmt: skip


def of_engine(found: list[str]) -> list[str]:
    """Return the lines of an export that the engine wrote; it leaves out children whose parent was dropped."""
    return [line for line in found if "kvevolve" not in json.loads(line)["metadata"]]


def test_the_export_is_the_engines_file_byte_for_byte(run: Path) -> None:
    from openevolve.evolution_trace import EvolutionTrace
    from openevolve.utils.trace_export_utils import load_traces

    found = exported(run)
    assert of_engine(found) == lines(run / "evolution_trace.jsonl")
    assert len(found) == len([EvolutionTrace(**record) for record in load_traces(run / "all.jsonl")]) == 6


@pytest.mark.parametrize("lost", ["trace", "trace and checkpoint"])
def test_children_the_engine_left_out_are_found(run: Path, lost: str) -> None:
    trace = run / "evolution_trace.jsonl"
    whole = lines(trace)
    trace.write_text("".join(f"{line}\n" for line in whole[1:-1]))
    if "checkpoint" in lost:
        shutil.rmtree(run / "checkpoints")
        shutil.rmtree(run / "best")
    found = exported(run)
    assert len(found) == 6
    assert of_engine(found) == whole[1:-1]
    got = {json.loads(line)["child_id"]: json.loads(line) for line in found}
    for line in (whole[0], whole[-1]):
        wanted = json.loads(line)
        record = got[wanted["child_id"]]
        assert record["metadata"]["kvevolve"]["found_in"] in ("checkpoint", "parent", "log")
        same = ["iteration", "parent_id", "child_code"]
        same += ["parent_code"] if "parent_code" in record else []  # the log has no text of the seed
        assert [record[key] for key in same] == [wanted[key] for key in same]
        assert set(record) <= set(wanted)
        for metrics in ("child_metrics", "parent_metrics"):
            assert record[metrics] == pytest.approx(wanted[metrics], abs=6e-5)
    numbers = summary(run)
    assert numbers.outcomes["stored"] == 3
    assert numbers.steps[0].by == "seed"
    assert numbers.steps[-1].score == pytest.approx(max(score for _, score in numbers.trials))


def test_reading_while_the_run_writes_gives_the_same_as_reading_at_the_end(run: Path, tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.mkdir()
    logs = [path for path in run.rglob("*") if path.suffix in (".jsonl", ".log")]
    for share in (0.0, 0.23, 0.5, 0.77):
        for path in logs:
            target = live / path.relative_to(run)
            target.parent.mkdir(exist_ok=True)
            whole = path.read_bytes()
            target.write_bytes(whole[: int(share * len(whole))])
        ingest(live)
    shutil.copytree(run, live, dirs_exist_ok=True)
    assert not ingest(live).rebuilt
    assert ingest(live).lines == 0
    ingest(run)
    assert content(live) == content(run)


def test_two_readers_at_once(run: Path) -> None:
    code = "import sys; from pathlib import Path; from sim.history import ingest; ingest(Path(sys.argv[1]))"
    started = [subprocess.Popen([sys.executable, "-c", code, str(run)], cwd=ROOT) for _ in range(2)]
    assert [process.wait(120) for process in started] == [0, 0]
    before = content(run)
    (run / "history.sqlite").unlink()
    ingest(run)
    assert content(run) == before


def test_a_reader_that_is_killed_leaves_the_store_as_it_was(run: Path) -> None:
    trace = run / "evolution_trace.jsonl"
    whole = trace.read_bytes()
    trace.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    ingest(run)
    before = content(run)
    trace.write_bytes(whole)
    code = (
        "import os, sys; from pathlib import Path; import sim.history\n"
        "sys.modules['sim.history.ingest'].link = lambda connection: os._exit(9)\n"
        "sim.history.ingest(Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, check=False)
    assert killed.returncode == 9
    assert content(run) == before
    ingest(run)
    assert of_engine(exported(run)) == lines(trace)


def test_the_log_alone_gives_what_it_can(run: Path) -> None:
    for path in (run / "evolution_trace.jsonl", run / "llm.jsonl", run / "config.yaml"):
        path.unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "best")
    found = summary(run)
    assert found.outcomes["no valid diff"] == 2
    assert found.outcomes["stored"] + found.outcomes["rejected"] == 6
    assert found.cost["prompt_tokens"] == 102 + 103, "of the lost iterations, as the log has them"
    assert found.curve[-1].score > found.curve[0].score
    for record in map(json.loads, exported(run)):
        assert "child_code" not in record


def test_the_operators_log(run: Path) -> None:
    """As `sim.search.service` writes it: moves, tunings, failures, a score of minus infinity."""
    (run / "llm.jsonl").unlink()
    children = [json.loads(line) for line in exported(run)]
    entries = [
        {"call": n, "time": child["timestamp"] - 0.01, "kind": "policy", "model": "kvevolve-gp", "mode": "diff",
         "source": child["child_code"], "nodes": child["child_metrics"]["complexity_nodes"], "attempts": 1,
         "moves": ["leader", "field"], "novel": True, "fitness": 0.1, "request": "r", "repeat": 1, "seconds": 0.1}
        for n, child in enumerate(children, 1)
    ]  # fmt: skip
    entries[-1]["tuning"] = {"of": "child", "evaluations": 20, "start_score": float("-inf"), "score": 0.2, "left": 4}
    entries[-2]["tuning"] = {"skipped": "budget of the run is spent"}
    for entry in entries:
        entry["ends"] = {"gate": {"count": 3, "seconds": 0.5}, "probed": {"count": 1, "seconds": 0.25}}
    entries.append({"call": 7, "time": 1.0, "request": "x", "error": "NoChild: nothing passes", "seconds": 0.0})
    entries.append({"call": 8, "time": 2e9, "kind": "policy", "source": "def priority(block, cache):\n    return 1\n"})
    entries.append({"call": 9, "time": 2.0, "kind": "novelty", "model": "kvevolve-gp"})
    (run / "operator.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    found = summary(run)
    assert {name: count for name, count in found.outcomes.items() if count} == {
        "stored": 3, "rejected": 2, "duplicate": 1, "no valid diff": 2, "error": 1, "pending": 1, "other": 1,
    }  # fmt: skip
    assert found.evaluations["tuning"] == 20
    assert found.evaluations["total"] == 27
    made = {maker.name: maker for maker in found.makers}
    assert made["leader"].proposals == made["field"].proposals == 6
    assert made["constants tuned"].proposals == 1
    assert found.steps[-1].by.startswith("leader, field")
    assert found.operator == {"gate": {"count": 18, "seconds": 3.0}, "probed": {"count": 6, "seconds": 1.5}}
    assert rows(run, "SELECT start_score FROM tunings WHERE evaluations") == [(None,)]
    assert ("error", "NoChild: nothing passes", 1) in found.rejections


def test_steps_of_the_operator_start_from_what_it_varied(run: Path) -> None:
    """It may vary another program than the engine's parent; its log may name it."""
    (run / "llm.jsonl").unlink()
    children = {child["iteration"]: child for child in map(json.loads, exported(run))}
    last, other = children[8], children[7]
    entry = {"call": 1, "time": last["timestamp"] - 0.01, "kind": "policy", "moves": ["leader", "constant"]}
    entry["source"] = last["child_code"]
    (run / "operator.jsonl").write_text(json.dumps(entry) + "\n")
    ingest(run)
    with opened(run / "history.sqlite") as connection:
        nearest = lineage(connection, last["child_id"])
        mark = connection.execute(
            "SELECT fingerprint FROM programs JOIN children USING (sha) WHERE id = ?", (other["child_id"],)
        ).fetchone()[0]
    changed = [line for line in nearest[-1].diff.splitlines() if line.startswith(("+", "-"))]
    assert len(changed) == 2, "one line became another"
    assert nearest[-2].iteration in (1, 5), "the same but for one number; the best is the first choice of equals"
    (run / "operator.jsonl").write_text(json.dumps(entry | {"base": mark}) + "\n")
    ingest(run)
    with opened(run / "history.sqlite") as connection:
        named = lineage(connection, last["child_id"])
    assert named[-2].child_id == other["child_id"]
    assert named[-1].gain == pytest.approx(
        last["child_metrics"]["combined_score"] - other["child_metrics"]["combined_score"]
    )


def test_programs_of_the_engines_database_are_known_at_once(run: Path) -> None:
    """With `database.db_path` the engine writes every program it stores; a kill leaves no checkpoint."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    shutil.copytree(checkpoint / "programs", run / "database" / "1" / "programs")
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "best")
    (run / "evolution_trace.jsonl").unlink()
    half = next((run / "database" / "1" / "programs").iterdir())
    whole = half.read_text()
    half.write_text(whole[:50])
    assert [log for log, _, _ in summary(run).damage] == ["programs"]
    half.write_text(whole)
    found = summary(run)
    assert not found.damage
    assert found.steps[0].by == "seed"
    assert found.steps[0].diff.startswith('"""Seed policy')
    assert sum(found.outcomes[name] for name in ("stored", "rejected", "duplicate")) == 6
    exact = rows(run, "SELECT score FROM children WHERE origin = 'database'")
    assert len(exact) >= 4
    assert all(round(score, 4) != score for (score,) in exact if score > 0)


def test_the_journal_of_evaluations_brings_costs(run: Path) -> None:
    children = [json.loads(line) for line in exported(run)]
    entries = [
        {"time": child["timestamp"] - 0.001, "source": child["child_code"], "source_sha": "", "panel": "p",
         "metrics": child["child_metrics"], "artifacts": child["artifacts"], "stage": "panel", "seconds": 0.5,
         "cpu_seconds": 0.25, "refs": 1000, "hit_tokens": [1, n % 2], "cached": n == 3}
        for n, child in enumerate(children)
    ]  # fmt: skip
    unstored = entries[0] | {"source": "x = 1\n", "time": entries[0]["time"] + 1000}
    other = entries[0] | {"source": "y = 1\n", "panel": "q", "metrics": {"combined_score": 99.0, "valid": 1.0}}
    text = "".join(json.dumps(entry) + "\n" for entry in [*entries, unstored, other])
    (run / "evaluations.jsonl").write_text(text)
    (run / "panel.json").write_text(json.dumps({"which": "p", "name": "p-v1", "fingerprint": "p"}))
    found = summary(run)
    assert found.evaluations["total"] == 7, "six children less one answered by the journal, the seed, one not stored"
    assert found.evaluations["cached"] == 1
    assert (found.cost["cpu_s"], found.cost["evaluation_s"], found.cost["refs"]) == (8 * 0.25, 8 * 0.5, 8000)
    assert found.curve[-1].score < 99
    assert found.diversity["behaviours"] == 3, "two of the journal, one of the seed"


def test_checkpoints_being_written_are_read_the_next_time(run: Path) -> None:
    (checkpoint,) = (run / "checkpoints").iterdir()
    metadata = (checkpoint / "metadata.json").read_text()
    program = next((checkpoint / "programs").iterdir())
    whole = program.read_text()
    (checkpoint / "metadata.json").write_text(metadata[: len(metadata) // 2])
    program.write_text(whole[:40])
    found = summary(run)
    assert found.grid is None
    assert [log for log, _, _ in found.damage] == ["programs"] * 2
    (checkpoint / "metadata.json").write_text(metadata)
    program.write_text(whole)
    found = summary(run)
    assert found.grid is not None
    assert not found.damage


def test_a_replaced_log_is_read_anew(run: Path) -> None:
    ingest(run)
    entry = {"call": 1, "time": 1.0, "body": {}, "response": "", "outcome": "error"}
    (run / "llm.jsonl").write_text(json.dumps(entry) + "\n")
    assert ingest(run).rebuilt
    fresh = content(run)
    (run / "history.sqlite").unlink()
    ingest(run)
    assert content(run) == fresh


def marked(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_stores_of_other_versions(run: Path) -> None:
    store = ingest(run).store
    before = content(run)
    marked(store, 0)
    ingest(run)
    assert content(run) == before, "an older one is made anew"
    marked(store, 99)
    with pytest.raises(ValueError, match="has version 99, and this kvevolve knows"):
        ingest(run)
    marked(store, 0)
    for path in run.rglob("*.jsonl"):
        path.unlink()
    shutil.rmtree(run / "logs")
    with pytest.raises(ValueError, match="older version 0"):
        ingest(run)


def test_a_store_outlives_its_logs(run: Path) -> None:
    before = summary(run).to_dict()
    for path in run.iterdir():
        if path.name != "history.sqlite":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert summary(run).to_dict() == before


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("DELETE FROM children", "fix: give one SELECT"),
        ("DROP TABLE children", "fix: give one SELECT"),
        ("ATTACH 'x.db' AS x", "fix: give one SELECT"),
        ("PRAGMA user_version = 3", "fix: give one SELECT"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("", "asks for nothing"),
        ("selec", "syntax error"),
    ],
)
def test_only_questions_are_answered(run: Path, sql: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    ingest(run)
    before = content(run)
    with pytest.raises(ValueError, match=reason):
        query(run / "history.sqlite", sql)
    assert content(run) == before
    assert not (run / "x.db").exists()


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(run), "--json", "--export", str(tmp_path / "t.jsonl")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["proposals"]["stored"] == 3
    assert len(lines(tmp_path / "t.jsonl")) == 6
    assert main(["history", str(run)]) == 0
    assert "THE WAY TO THE WINNER" in capsys.readouterr().out
    sql = "SELECT outcome, count(*) AS n FROM proposals GROUP BY 1 ORDER BY 1"
    assert main(["history", str(run), "--sql", sql, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"outcome": "duplicate", "n": 1}
    assert main(["history", str(run), "--sql", "SELECT x'00ff' AS b, NULL"]) == 0
    assert "00ff" in capsys.readouterr().out
    assert main(["history", str(run), "--sql", "SELECT nowhere"]) == 1
    assert "no such column" in capsys.readouterr().err


def test_figures(run: Path, tmp_path: Path) -> None:
    extra("matplotlib")
    from sim.history_figures import draw

    paths = draw(summary(run), tmp_path)
    assert [path.stem for path in paths] == ["best_so_far", "proposals", "cells", "lineage"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
