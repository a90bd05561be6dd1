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

from sim import engine_run, journal, jsonlines
from sim.cli import main
from sim.history import STORE, opened, summarise
from sim.rundir import RunDir, keyless, new_run_dir, renew_config, resolve_config

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
    assert run.seed_policy.read_bytes() == (ROOT / "initial_program.py").read_bytes()
    assert max(evaluated(run).values()) == 1, "something was evaluated again"
    assert set(before) <= {code for code, _ in run.programs()}, "an evaluation was lost"
    iterations = {program["iteration_found"] for program in run.stored()}
    assert max(iterations) == 12
    assert len(iterations) >= len(before)
    calls = [entry["call"] for entry in jsonlines.read(run.root / "operator.jsonl")]
    assert calls.count(1) == 1, "the operator began anew"


def test_a_resumed_run_has_its_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    resolve_config(ROOT / "config.yaml", run, iterations=7, seed=3)
    assert renew_config(run, 7, 3)["max_iterations"] == 7
    for asked in ((8, None), (None, 4)):
        with pytest.raises(ValueError, match=r"was begun with .*; fix: change it in .*config\.yaml"):
            renew_config(run, *asked)
    for option, value in (("--program", "initial_program.py"), ("--config", "config.yaml")):
        assert main(["evolve", "--resume", str(run.root), option, str(ROOT / value)]) == 1
        assert "a run that is resumed has its own" in capsys.readouterr().err
    with pytest.raises(ValueError, match="seed -1; fix: "):
        resolve_config(ROOT / "config.yaml", run, None, -1)


class Stopped:
    """An engine that ends when it is interrupted."""

    returncode = 130

    def __init__(self, *_: object, **__: object) -> None:
        self.signals: list[int] = []

    def poll(self) -> int:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


def test_an_interrupt_before_the_first_child_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = RunDir(tmp_path), []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_run.subprocess, "Popen", Stopped)
    monkeypatch.setattr(engine_run, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine_run.run_engine(ROOT, ROOT, run, 5, said.append, None, 0)
    run.trace.write_text(json.dumps({"iteration": 1, "child_metrics": {}}) + "\n")
    assert not engine_run.run_engine(ROOT, ROOT, run, 5, said.append, None, 0)
    assert len(said) == 2


def test_runs_that_begin_in_one_second_have_directories_of_their_own(tmp_path: Path) -> None:
    made = [new_run_dir(tmp_path / "out") for _ in range(5)]
    assert len({run.root for run in made}) == 5


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
