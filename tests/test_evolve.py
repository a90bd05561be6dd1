"""The main job end to end, on synthetic traffic: evolve, tune, choose, report, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sim import journal, jsonlines
from sim.history import STORE, opened, summarise
from sim.rundir import RunDir, keyless, resolve_config

ROOT = Path(__file__).resolve().parent.parent
TINY = """
format: kvevolve-panel/1
name: tiny-v1
capacities: [5%, 20%]
splits:
  train: [{name: chat_train, source: "synthetic:chat?seed=1&requests=300"}]
  validation: [{name: chat_validation, source: "synthetic:chat?seed=2&requests=300"}]
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return a folder for runs, beside a panel."""
    (tmp_path / "panel.yaml").write_text(TINY)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def command(output: Path, *more: str) -> list[str]:
    panel = str(output.parent / "panel.yaml")
    arguments = ["evolve", "--traces", panel, "--iterations", "6", "--tune-evaluations", "6", "--seed", "1"]
    return [sys.executable, "-m", "sim.cli", *arguments, "--output", str(output), *more]


def only_run(output: Path) -> RunDir:
    (root,) = output.iterdir()
    return RunDir(root)


def test_evolve_reports_and_records(output: Path) -> None:
    done = subprocess.run(command(output), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stderr
    for part in ("TRAINING", "VALIDATION", "DIFF OF THE BEST POLICY", "optimum", "outputs:", "kvevolve history"):
        assert part in done.stdout
    run = only_run(output)
    provenance = json.loads(run.provenance.read_text())
    assert provenance["seed"] == 1
    assert provenance["iterations"] == 6
    assert provenance["versions"]["openevolve"] != "not installed"
    assert 0 < len(run.children()) == provenance["stored_children"]
    assert all(set(child["child_metrics"]) >= {"combined_score", "valid"} for child in run.children())
    from sim.policy.program import Policy

    best = Policy.from_file(run.best_policy)
    assert best.functions["priority"]
    assert run.report.read_text().strip() == done.stdout.strip()
    assert provenance["train"]["valid"] == 1.0
    trained = max(child["child_metrics"]["combined_score"] for child in run.children())
    assert provenance["train"]["combined_score"] >= trained - 0.2
    with opened(run.root / STORE) as store:
        found = summarise(store, run.root)
    assert found.state == "finished"
    assert found.iterations["stored"] == sum(found.outcomes.values()) == 6
    assert all(maker.name != "unknown" for maker in found.makers)


def evaluated(run: RunDir) -> dict[str, int]:
    """Return how often each source was evaluated, not answered from the journal."""
    return Counter(entry["source"] for entry in journal.entries(run.root) if not entry["cached"])


def killed_after(evaluations: int, output: Path, *more: str) -> RunDir:
    """Start a run, kill its whole process group with SIGKILL once so many were evaluated, and return it."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = subprocess.Popen(command(output, *more), cwd=ROOT, start_new_session=True, **quiet)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and started.poll() is None:
        runs = list(output.iterdir())
        if runs and len(evaluated(RunDir(runs[0]))) >= evaluations:
            break
        time.sleep(0.05)
    assert started.poll() is None, "the run ended before it could be killed"
    os.killpg(started.pid, signal.SIGKILL)
    started.wait(60)
    return only_run(output)


def test_a_run_killed_at_once_loses_no_evaluation(output: Path) -> None:
    more = ("--iterations", "12", "--tune-evaluations", "0")
    run = killed_after(4, output, *more)
    before = evaluated(run)
    done = subprocess.run(
        command(output, *more, "--resume", str(run.root)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after iteration" in done.stderr
    assert max(evaluated(run).values()) == 1, "something was evaluated again"
    assert set(before) <= {code for code, _ in run.programs()}, "an evaluation was lost"
    iterations = {program["iteration_found"] for program in run.stored()}
    assert max(iterations) == 12
    assert len(iterations) >= len(before)
    calls = [entry["call"] for entry in jsonlines.read(run.root / "operator.jsonl")]
    assert calls.count(1) == 1, "the operator began anew"


def test_config_resolution(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    config = resolve_config(ROOT / "config.yaml", run, iterations=7, seed=3)
    assert keyless(config)
    assert config["max_iterations"] == 7
    assert 7 % config["checkpoint_interval"] == 0
    assert config["llm"]["api_base"] != "http://127.0.0.1:18571/v1"
    assert config["database"]["db_path"] == str(run.databases / "1")
    hosted = resolve_config(ROOT / "examples/ollama.yaml", run, None, None)
    assert not keyless(hosted)
    assert "11434" in json.dumps(hosted["llm"])
    bad = tmp_path / "bad.yaml"
    bad.write_text("- just a list\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        resolve_config(bad, run, None, None)
