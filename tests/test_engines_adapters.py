"""The adapters in examples/engines: each engine runs for real, a few proposals of the keyless endpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import extra

from sim.policy.program import Policy

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ROOT / "examples" / "engines"
ITERATIONS = 5
PANEL = {
    "format": "kvevolve-panel/1",
    "name": "tiny-v1",
    "about": "Two small traces.",
    "capacities": ["5%", "10%"],
    "splits": {
        split: [
            {"name": f"{kind}_{split}", "source": f"synthetic:{kind}?seed={seed}", "options": {"requests": 300}}
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
        "kvevolve": {"search": {"tune_fraction": 0.0}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(place: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script of examples/engines on the small panel."""
    variables = {k: v for k, v in os.environ.items() if "API" not in k and "proxy" not in k.lower()}
    variables |= {"KVEVOLVE_PANEL": str(place / "panel.yaml"), "KVEVOLVE_ADVICE": "0"}
    command = [sys.executable, str(ENGINES / script), *options]
    return subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, timeout=400)


def evolve(place: Path, engine: str) -> tuple[Path, list[str]]:
    """Run an engine; return its output folder and the policies proposed."""
    options = ("--config", "config.yaml", "--iterations", str(ITERATIONS), "--output", "out")
    done = run(place, f"run_{engine}.py", *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "best policy:" in done.stdout
    calls = [json.loads(line) for line in (place / "out" / "operator.jsonl").read_text().splitlines()]
    assert not [call["error"] for call in calls if "error" in call]
    return place / "out", [call["source"].strip() for call in calls if call["kind"] == "policy"]


def check_best(output: Path, proposed: list[str]) -> None:
    """The best policy is the seed or a proposal, valid, and scores what its metrics say."""
    best = Policy.from_file(output / "best_policy.py")
    assert best.source.strip() in {(ROOT / "initial_program.py").read_text().strip(), *proposed}
    metrics = json.loads((output / "best_metrics.json").read_text())
    assert metrics["valid"] == 1.0
    assert metrics["combined_score"] >= -0.01, "the seed is LRU: 0 less the charge for its size"


def skydiscover_scores(output: Path) -> dict[str, float]:
    stored = (json.loads(path.read_text()) for path in output.glob("checkpoints/*/programs/*.json"))
    return {program["solution"].strip(): program["metrics"]["combined_score"] for program in stored}


def gepa_scores(output: Path) -> dict[str, float]:
    log = (output / "run_log.txt").read_text()
    assert log.count("Proposed new text") == ITERATIONS
    return {}


@pytest.mark.parametrize(("engine", "module"), [("skydiscover", "skydiscover"), ("gepa", "gepa"), ("levi", "levi")])
def test_an_engine_evolves_policies(place: Path, engine: str, module: str) -> None:
    if not importlib.util.find_spec(module):
        extra(module)
    output, proposed = evolve(place, engine)
    assert len(set(proposed)) >= ITERATIONS - 1
    check_best(output, proposed)
