"""What every engine here shares: the command line, the evaluator, the model, the report.

    python examples/engines/run_gepa.py --config examples/openai.yaml --iterations 100 --output out

`--config` is one of this repository's OpenEvolve configurations: its model, endpoint, key, contract (system message)
and `max_iterations` hold for every engine, so runs compare at an equal number of proposals. The default, `config.yaml`,
is the keyless operator. Scores are those of `evaluator.py`: candidates run in its isolated child, one at a time, so
pools and timeouts of the engines add nothing and are set wide. `$KVEVOLVE_PANEL` names the panel.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from evaluator import evaluate
from sim.engine_config import read_config
from sim.policy.language import MAX_SOURCE_BYTES
from sim.search.endpoint import RUN_DIR_VARIABLE, ensure_endpoint
from sim.search.invocation import Invocation
from sim.search.system_message import system_message

SCORED: dict[str, tuple[dict[str, float], dict[str, str]]] = {}
"""Every distinct text scored in this process."""
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Run:
    """What to run: the seed policy, a budget of proposals, a model behind an OpenAI-compatible URL, where to write."""

    program: Path
    iterations: int
    seed: int
    model: str
    api_base: str
    api_key: str
    system_message: str
    output: Path


def start(engine: str) -> Run:
    """Read the command line and the configuration; start the keyless endpoint if that names it."""
    parser = argparse.ArgumentParser(description=f"Evolve a policy with {engine}.")
    parser.add_argument("--program", type=Path, default=ROOT / "initial_program.py", help="seed policy")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yaml", help="an OpenEvolve configuration")
    parser.add_argument("--iterations", type=int, help="proposals; default: the configuration's max_iterations")
    folder = Path("evolve_output") / time.strftime(f"{engine}-%Y%m%d-%H%M%S")
    parser.add_argument("--output", type=Path, default=folder, help="new folder of the results")
    options = parser.parse_args()
    try:
        config = read_config(options.config)
    except ValueError as error:
        parser.error(f"--config: {error}")
    models = Invocation(config).models()
    if not models:
        parser.error(f"{options.config} names no model; fix: llm.models, as in {ROOT / 'config.yaml'}")
    key = str(config["llm"].get("api_key") or "${OPENAI_API_KEY}")
    key = os.environ.get(key[2:-1], "") if key.startswith("${") else key
    if not key:
        parser.error(f"{options.config}: llm.api_key names a variable of the environment that is not set")
    iterations = options.iterations or int(config.get("max_iterations") or 100)
    if iterations < 1:
        parser.error(f"{iterations} iterations; give at least 1")
    output = options.output.absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        parser.error(f"--output: {output} is not empty, and some engines would go on with the run in it; give another")
    output.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_DIR_VARIABLE] = str(output)
    ensure_endpoint(options.config)
    return Run(
        program=options.program.absolute(),
        iterations=iterations,
        seed=int(config.get("random_seed") or 42),
        model=models[0][0],
        api_base=models[0][1],
        api_key=key,
        system_message=(config.get("prompt") or {}).get("system_message") or system_message(),
        output=output,
    )


def evaluate_path(path: str | Path) -> tuple[dict[str, float], dict[str, str]]:
    """Score the policy in a file; never raises for anything the file contains.

    Returns:
        Metrics, floats, `combined_score` and `valid` among them; artifacts, text for the writer of the policy.
    """
    found: Any = evaluate(str(path))
    if isinstance(found, dict):
        return {name: value for name, value in found.items() if name != "artifacts"}, found["artifacts"]
    return found.metrics, found.artifacts


def evaluate_text(source: str) -> tuple[dict[str, float], dict[str, str]]:
    """Score the text of a policy like `evaluate_path`, each distinct text once, one at a time."""
    with _ONE_AT_A_TIME:
        if source not in SCORED:
            with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8", errors="replace", newline="") as file:
                file.write(source[: MAX_SOURCE_BYTES + 1])  # one too many is refused as the whole would be
                file.flush()
                SCORED[source] = evaluate_path(file.name)
        return SCORED[source]


def by_trace(metrics: dict[str, float], artifacts: dict[str, str]) -> dict[str, float]:
    """Return the mean share of the gap closed per trace, to three digits, -1 at least; empty for a refused policy."""
    shares: dict[str, list[float]] = {}
    for line in artifacts.get("cells", "").splitlines()[1:] if metrics["valid"] else ():
        trace, *_, closed = line.split(maxsplit=5)
        if not closed.startswith("not scored"):
            shares.setdefault(trace, []).append(max(float(closed), -1.0))
    return {trace: sum(values) / len(values) for trace, values in shares.items()}


def feedback(artifacts: dict[str, str]) -> str:
    """Return the artifacts as one text."""
    return "\n\n".join(f"{name}\n{text}" for name, text in artifacts.items())


@cache
def client(api_base: str, api_key: str) -> Any:
    """Return an OpenAI client."""
    import openai

    return openai.OpenAI(base_url=api_base, api_key=api_key, timeout=600, max_retries=2)


def finish(run: Run, source: str) -> None:
    """Write the best policy and say what it scores."""
    metrics, _ = evaluate_text(source)
    valid = sum(bool(found["valid"]) for found, _ in SCORED.values())
    (run.output / "best_policy.py").write_text(source.rstrip() + "\n", encoding="utf-8")
    (run.output / "best_metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    print(f"scored here: {len(SCORED)} policies, {valid} valid")
    print(f"best policy: {run.output / 'best_policy.py'}, training score {metrics['combined_score']:+.4f}")
