"""The main job end to end, on synthetic traffic: evolve, tune, choose, report, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.history import STORE, opened, summarise
from sim.rundir import RunDir, keyless, resolve_config

ROOT = Path(__file__).resolve().parent.parent


def command(output: Path, *more: str) -> list[str]:
    arguments = ["evolve", "--traces", "synthetic", "--iterations", "6", "--tune-evaluations", "6", "--seed", "1"]
    return [sys.executable, "-m", "sim.cli", *arguments, "--output", str(output), *more]


def only_run(output: Path) -> RunDir:
    (root,) = output.iterdir()
    return RunDir(root)


def test_evolve_reports_and_records(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stderr
    for part in ("TRAINING", "VALIDATION", "DIFF OF THE BEST POLICY", "optimum", "outputs:", "kvevolve history"):
        assert part in done.stdout
    run = only_run(tmp_path)
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


def test_a_killed_run_resumes(tmp_path: Path) -> None:
    more = ("--iterations", "30")
    started = subprocess.Popen(command(tmp_path, *more), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and started.poll() is None:
        runs = list(tmp_path.iterdir())
        if runs and RunDir(runs[0]).latest_checkpoint() is not None:
            break
        time.sleep(0.2)
    assert started.poll() is None, "the run ended before it could be killed"
    os.kill(started.pid, signal.SIGINT)
    assert started.wait(120) in (0, 130)
    run = only_run(tmp_path)
    before = run.latest_checkpoint()
    assert before is not None
    assert int(before.name[11:]) < 30
    done = subprocess.run(
        command(tmp_path, *more, "--resume", str(run.root)), cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after iteration" in done.stderr
    after = run.latest_checkpoint()
    assert after is not None
    assert int(after.name[11:]) == 30


def test_config_resolution(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    config = resolve_config(ROOT / "config.yaml", run, iterations=7, seed=3)
    assert keyless(config)
    assert config["max_iterations"] == 7
    assert 7 % config["checkpoint_interval"] == 0
    assert config["llm"]["api_base"] != "http://127.0.0.1:18571/v1"
    hosted = resolve_config(ROOT / "examples/ollama.yaml", run, None, None)
    assert not keyless(hosted)
    assert "11434" in json.dumps(hosted["llm"])
    bad = tmp_path / "bad.yaml"
    bad.write_text("- just a list\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        resolve_config(bad, run, None, None)
