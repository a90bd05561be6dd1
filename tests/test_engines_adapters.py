"""The adapters in examples/engines: each engine runs for real, a few proposals of the keyless endpoint."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import extra

from sim.feedback import describe_cells
from sim.policy.language import MAX_SOURCE_BYTES
from sim.policy.program import Policy
from sim.score import REJECTED, Cell, score

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ROOT / "examples" / "engines"
ITERATIONS = 4
PANEL = {
    "format": "kvevolve-panel/1",
    "name": "tiny-v1",
    "about": "Two small traces.",
    "capacities": ["5%", "10%"],
    "splits": {
        split: [
            {"name": f"{kind}_{split}", "source": f"synthetic:{kind}?seed={seed}", "options": {"requests": 200}}
            for kind in ("chat", "rag")
        ]
        for seed, split in enumerate(("train", "validation", "test"))
    },
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a small panel and a keyless configuration on a free port."""
    (tmp_path / "panel.yaml").write_text(yaml.safe_dump(PANEL))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "random_seed": 1,
        "llm": {"api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none", "models": [{"name": "kvevolve-gp"}]},
        "kvevolve": {"search": {"tune_fraction": 0.0, "screen_children": 0}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(place: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script of examples/engines on the small panel."""
    variables = {k: v for k, v in os.environ.items() if "API" not in k and "proxy" not in k.lower()}
    variables |= {"KVEVOLVE_PANEL": str(place / "panel.yaml"), "KVEVOLVE_ADVICE": "0"}
    command = [sys.executable, str(ENGINES / script), *options]
    return subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, timeout=400)


def evolve(place: Path, engine: str) -> tuple[Path, list[str], str]:
    """Run an engine; return its output folder, the policies proposed and what it printed."""
    options = ("--config", "config.yaml", "--iterations", str(ITERATIONS), "--output", "out")
    done = run(place, f"run_{engine}.py", *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "best policy:" in done.stdout
    calls = [json.loads(line) for line in (place / "out" / "operator.jsonl").read_text().splitlines()]
    assert not [call["error"] for call in calls if "error" in call]
    return place / "out", [call["source"].strip() for call in calls if call["kind"] == "policy"], done.stdout


def check_best(output: Path, proposed: list[str]) -> None:
    """The best policy is the seed or a proposal, valid, and no worse than the seed."""
    best = Policy.from_file(output / "best_policy.py")
    assert best.source.strip() in {(ROOT / "initial_program.py").read_text().strip(), *proposed}
    metrics = json.loads((output / "best_metrics.json").read_text())
    assert metrics["valid"] == 1.0
    assert metrics["combined_score"] >= -0.001, "the seed is LRU: 0 less the charge for its size"


@pytest.mark.parametrize("engine", ["skydiscover", "gepa", "levi"])
def test_an_engine_evolves_policies(place: Path, engine: str) -> None:
    if not importlib.util.find_spec(engine):
        extra(engine)
    output, proposed, told = evolve(place, engine)
    assert len(set(proposed)) >= ITERATIONS
    scored, valid = map(int, re.search(r"scored here: (\d+) policies, (\d+) valid", told).groups())
    assert scored >= ITERATIONS, "the seed and its children; LEVI may stop one short of its budget"
    assert valid >= 2
    check_best(output, proposed)


def test_shinkaevolve_evolves_policies(place: Path) -> None:
    pytest.importorskip("shinka", reason="needs an environment of its own: see examples/engines/run_shinka.py")
    output, proposed, _ = evolve(place, "shinka")
    correct = [json.loads(path.read_text())["correct"] for path in output.glob("gen_*/results/correct.json")]
    assert len(correct) == ITERATIONS + 1
    assert sum(correct) >= 2
    check_best(output, proposed)


def shinka_results(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    metrics, correct = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "correct"))
    assert set(metrics) == {"combined_score", "public", "private", "text_feedback"}
    assert set(correct) == {"correct", "error"}
    assert metrics["combined_score"] == metrics["public"]["combined_score"]
    return metrics, correct


def test_shinka_job_scores_a_policy(place: Path) -> None:
    program = str(ROOT / "initial_program.py")
    done = run(place, "shinka_evaluate.py", "--program_path", program, "--results_dir", str(place / "results"))
    assert done.returncode == 0, done.stderr
    metrics, correct = shinka_results(place / "results")
    assert metrics["public"]["valid"] == 1.0
    assert "gap_closed" in metrics["text_feedback"]
    assert correct == {"correct": True, "error": None}


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ENGINES))
    module = importlib.import_module("common")
    monkeypatch.setattr(module, "SCORED", {})
    return module


def test_shinka_job_says_why_a_policy_is_refused(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = {"combined_score": REJECTED, "valid": 0.0, "artifacts": {"rejection": "no imports"}}
    monkeypatch.setattr(common, "evaluate", lambda path: refused)
    monkeypatch.setattr(sys, "argv", ["", "--program_path", "p.py", "--results_dir", str(tmp_path / "results")])
    importlib.import_module("shinka_evaluate").main()
    metrics, correct = shinka_results(tmp_path / "results")
    assert metrics["combined_score"] == REJECTED
    assert metrics["text_feedback"] == "rejection\nno imports"
    assert correct == {"correct": False, "error": "no imports"}


@pytest.mark.parametrize("source", ["", "\0", "\ud800", "x" * 10**6, "é" * 15_000, "a = 1\r\n\tb = 2"])
def test_any_text_reaches_the_evaluator_once(common: ModuleType, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    seen: list[bytes] = []

    def evaluate(path: str) -> dict[str, Any]:
        seen.append(Path(path).read_bytes())
        return {"combined_score": 0.5, "valid": 1.0, "artifacts": {"cells": ""}}

    monkeypatch.setattr(common, "evaluate", evaluate)
    for _ in range(3):
        assert common.evaluate_text(source) == ({"combined_score": 0.5, "valid": 1.0}, {"cells": ""})
    (given,) = seen
    whole = source.encode(errors="replace")
    assert given == whole or min(len(given), len(whole)) > MAX_SOURCE_BYTES, "too long stays too long"


def test_scores_by_trace(common: ModuleType) -> None:
    def cell(trace: str, fraction: float, hit: int) -> Cell:
        return Cell(trace, fraction, 100, 1000, 100, 300, hit)

    cells = [cell("a", 0.1, 200), cell("a", 0.2, 300), cell("b", 0.1, 100), Cell("b", 0.2, 100, 1000, 100, 101, 90)]
    artifacts = {"cells": describe_cells(cells)}
    assert common.by_trace({"valid": 1.0}, artifacts) == score(cells, 0).by_trace == {"a": 0.75, "b": 0.0}
    assert common.by_trace({"valid": 0.0}, {"rejection": "no"}) == {}


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ("llm: {}\n", [], "names no model"),
        ("- 1\n", [], "expected a mapping"),
        ("llm: {models: [{name: m}], api_key: '${KVEVOLVE_NOT_SET}'}\n", [], "environment that is not set"),
        ("llm: {models: [{name: m}], api_key: k}\n", ["--iterations", "-1"], "at least 1"),
        ("llm: {models: [\n", [], "--config:"),
        ("llm: {models: [{name: m}], api_key: k}\n", ["--output", "."], "is not empty"),
    ],
)
def test_bad_configurations_are_refused_by_name(
    common: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    config: str,
    options: list[str],
    said: str,
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_x.py", "--config", str(path), "--output", "out", *options])
    with pytest.raises(SystemExit):
        common.start("x")
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
