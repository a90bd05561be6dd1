"""The real `openevolve-run` against a scripted endpoint on loopback that answers with nasty candidates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from sim.evaluation import METRICS
from sim.score import REJECTED

ROOT = Path(__file__).parent.parent
ENGINE = Path(sys.executable).with_name("openevolve-run")
DEADLINE_S = 120.0  # far above what any run takes; a hang ends here, as a failure

pytestmark = pytest.mark.skipif(not ENGINE.exists(), reason="openevolve-run is not installed beside this interpreter")

LRU = "def priority(block, cache):\n    return block.released\n"
BETTER = "def priority(block, cache):\n    return block.last_access - 0.5 * min(block.gap, 2000.0)\n"
SPINNING = "def spin0(x):\n    return x\n"
for _k in range(1, 9):
    _loop = f"for i in range(64):\n        y += spin{_k - 1}(x + i)"
    SPINNING += f"def spin{_k}(x):\n    y = 0.0\n    {_loop}\n    return y\n"
SPINNING += "def priority(block, cache):\n    return spin8(block.released)\n"
"""64 ** 8 steps of native code: for all practical purposes an infinite loop that holds every lock it can."""

FENCE = "`" * 3


def evolve_block(code: str) -> str:
    return f"# EVOLVE-BLOCK-START\n{code}# EVOLVE-BLOCK-END\n"


def in_block(code: str) -> str:
    return f'"""A policy."""\n\n{evolve_block(code)}'


NASTY = {
    "infinite while": in_block("def priority(block, cache):\n    while True:\n        pass\n"),
    "os._exit": in_block("import os\nos._exit(0)\n"),
    "import in function": in_block("def priority(block, cache):\n    import os\n    return os._exit(3)\n"),
    "sys.exit": in_block("import sys\nsys.exit(3)\n"),
    "KeyboardInterrupt": in_block("raise KeyboardInterrupt\n"),
    "exception": in_block("def priority(block, cache):\n    raise ValueError('no')\n"),
    "not finite": in_block("def priority(block, cache):\n    return 0.0 / (block.hits - block.hits)\n"),
    "infinite": in_block("def priority(block, cache):\n    return math.exp(1e6 + block.released)\n"),
    "syntax error": in_block("def priority(block, cache:\n    return 1.0\n"),
    "does not compile": in_block("def priority(block, cache):\n    return float(block.hits > 1.0) + float(True)\n"),
    "huge file": in_block("# " + "x" * 25_000 + "\n" + LRU),
    "frozen code": f"import os\nos.system('true')\n{evolve_block(LRU)}",
    "frozen hook": f"def on_hit(block, request, cache):\n    block.hits += 9.0\n\n{evolve_block(LRU)}",
    "no policy": in_block("pass\n"),
    "nothing": "#\n",
}
"""Programs that must be stored as rejected children."""


@dataclass
class Stub:
    """An OpenAI-compatible endpoint that answers from a script, then with the last entry for ever."""

    script: Sequence[tuple[str, str]]
    prompts: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, prompt: str) -> str:
        with self.lock:
            kind, text = self.script[min(len(self.prompts), len(self.script) - 1)]
            self.prompts.append(prompt)
        if kind == "raw":
            return text
        if kind == "full":
            return f"{FENCE}python\n{text}{FENCE}"
        parent = prompt.rpartition("# Current Program\n")[2].partition(f"{FENCE}python\n")[2].partition(FENCE)[0]
        replacement = parent.rstrip("\n") if kind == "no-op" else text.rstrip("\n")
        search = parent.rstrip("\n")
        return f"<<<<<<< SEARCH\n{search}\n=======\n{replacement}\n>>>>>>> REPLACE"


@pytest.fixture
def serve() -> Iterator:
    servers: list[ThreadingHTTPServer] = []

    def start(*script: tuple[str, str]) -> tuple[Stub, str]:
        stub = Stub(script)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = {"role": "assistant", "content": stub.answer(body["messages"][-1]["content"])}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                answer = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
                data = json.dumps(answer | {"choices": [choice], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return stub, f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def config(url: str, iterations: int, **more: object) -> dict[str, object]:
    return {
        "max_iterations": iterations,
        "checkpoint_interval": iterations,
        "max_code_length": 60_000,
        "language": "python",
        "llm": {"api_base": url, "api_key": "none", "models": [{"name": "scripted", "weight": 1.0}], "retries": 0},
        "prompt": {"artifact_security_filter": True, "num_top_programs": 1, "num_diverse_programs": 0},
        "database": {"num_islands": 1, "feature_dimensions": ["complexity_nodes", "evictions_per_access"]},
        "evaluator": {"cascade_evaluation": False, "max_retries": 0, "parallel_evaluations": 1},
        "evolution_trace": {"enabled": True, "include_code": True, "include_prompts": False},
        **more,
    }


def start(
    place: Path, program: str, *options: str, evaluator: Path = ROOT / "evaluator.py", **environment: str
) -> subprocess.Popen[str]:
    """Start `openevolve-run` in a folder of its own, on the small panel unless told otherwise."""
    (place / "initial_program.py").write_text(program)
    variables = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_") and "proxy" not in k.lower()}
    variables |= {"KVEVOLVE_PANEL": "synthetic"} | environment
    command = [str(ENGINE), "initial_program.py", str(evaluator), "--output", "out", *options]
    with (place / "log").open("w") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=place, env=variables, text=True, **streams)


def finish(process: subprocess.Popen[str], place: Path) -> str:
    """Wait for a run and return its output; it must end by itself and say that all went well."""
    try:
        code = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"openevolve-run hangs:\n{(place / 'log').read_text()[-4000:]}")
    output = (place / "log").read_text()
    assert code == 0, output[-4000:]
    assert "Maximum iterations reached" in output or "Evolution complete" in output
    assert "BrokenProcessPool" not in output
    return output


def run(place: Path, program: str, settings: dict[str, object], evaluator: Path = ROOT / "evaluator.py") -> str:
    (place / "config.yaml").write_text(yaml.safe_dump(settings))
    return finish(start(place, program, "--config", "config.yaml", evaluator=evaluator), place)


def stored(place: Path) -> list[dict]:
    """Return every program of the last checkpoint."""
    newest = max((place / "out" / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("_")[2]))
    return [json.loads(path.read_text()) for path in sorted((newest / "programs").glob("*.json"))]


def best(place: Path) -> tuple[str, dict]:
    folder = place / "out" / "best"
    return (folder / "best_program.py").read_text(), json.loads((folder / "best_program_info.json").read_text())


def check_metrics(metrics: dict) -> None:
    assert set(METRICS) <= set(metrics)
    assert {name: type(metrics[name]) for name in METRICS} == dict.fromkeys(METRICS, float)


def test_nasty_candidates_end_as_scored_rejections_and_the_improvement_wins(tmp_path, serve):
    script = [("program", code) for code in NASTY.values()]
    script[3:3] = [("no-op", ""), ("raw", "I would rather not."), ("raw", "<<<<<<< SEARCH\nx\n=======\n=======\ny\n")]
    script[9:9] = [("program", in_block(BETTER))]
    stub, url = serve(*script)
    output = run(tmp_path, (ROOT / "initial_program.py").read_text(), config(url, len(script)))

    assert len(stub.prompts) >= len(script), "every iteration asked for a candidate"
    assert len(re.findall(r"Iteration \d+ error", output)) == 3, "only those without a change are lost"
    programs = stored(tmp_path)
    by_code = {program["code"].strip(): program for program in programs}
    for program in programs:
        check_metrics(program["metrics"])
    for name, code in NASTY.items():
        assert code.strip() in by_code, f"{name} is stored"
        metrics = by_code[code.strip()]["metrics"]
        assert (metrics["combined_score"], metrics["valid"]) == (REJECTED, 0.0), name
    code, info = best(tmp_path)
    assert code.strip() == in_block(BETTER).strip()
    check_metrics(info["metrics"])
    seed = next(program for program in programs if program["parent_id"] is None)
    assert seed["metrics"]["valid"] == 1.0
    assert info["metrics"]["combined_score"] > seed["metrics"]["combined_score"]
    for heading in ("### cells", "### weakest_cell", "### rank_among_baselines", "### costliest_evictions"):
        assert heading in stub.prompts[0]
    assert "hit tokens lost" in stub.prompts[0]
    assert "REDACTED" not in stub.prompts[0]
    children = [json.loads(line) for line in (tmp_path / "out" / "evolution_trace.jsonl").read_text().splitlines()]
    assert len(children) == len(NASTY) + 1
    for child in children:
        check_metrics(child["child_metrics"])


def test_native_endless_loops_are_killed_in_the_initial_program_too(tmp_path, serve):
    """The evaluator of this package with shorter limits: at its own, each loop would take half a minute."""
    (tmp_path / "hasty.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from evaluator import evaluate\nfrom sim.evaluation import training_evaluator\n"
        "from sim.isolation import Limits\ntraining_evaluator().limits = Limits(wall_s=60.0, cpu_s=2.0)\n"
    )
    stub, url = serve(("program", in_block(SPINNING + "# again\n")), ("program", in_block(BETTER)))
    run(tmp_path, in_block(SPINNING), config(url, 2), evaluator=tmp_path / "hasty.py")
    programs = stored(tmp_path)
    assert len(programs) == 3
    for program in programs:
        check_metrics(program["metrics"])
        looping = "spin8" in program["code"]
        assert (program["metrics"]["combined_score"] == REJECTED) is looping
        assert program["metrics"]["valid"] == float(not looping)
    assert "wall time" in stub.prompts[0] or "CPU time" in stub.prompts[0], "the model learns why"
    assert best(tmp_path)[0].strip() == in_block(BETTER).strip()


def test_engine_defaults_with_a_model_on_the_command_line(tmp_path, serve):
    """No configuration file: the engine runs the evaluator file anew for every candidate, and brings own features."""
    stub, url = serve(("program", in_block(LRU)), ("program", NASTY["os._exit"]), ("program", in_block(BETTER)))
    broken = in_block("def priority(block, cache):\n    return block.freshness\n")
    options = ("--iterations", "3", "--primary-model", "scripted", "--api-base", url)
    finish(start(tmp_path, broken, *options, OPENAI_API_KEY="none"), tmp_path)
    assert len(stub.prompts) == 3
    assert best(tmp_path)[0].strip() == in_block(BETTER).strip()
    check_metrics(best(tmp_path)[1]["metrics"])
    first = stub.prompts[0]
    assert "rejected at stage gate" in first
    assert "line 5: `block.freshness` does not exist. Fix:" in first
    assert "REDACTED" not in first


def test_bare_form_scores_the_seed_and_says_that_the_engine_has_no_model(tmp_path, serve):
    """OpenEvolve 0.4.0 has no default model and keeps OPENAI_API_BASE from none: no request is ever sent."""
    stub, url = serve(("program", in_block(BETTER)))
    seed = (ROOT / "initial_program.py").read_text()
    process = start(tmp_path, seed, "--iterations", "3", OPENAI_API_KEY="none", OPENAI_API_BASE=url)
    output = finish(process, tmp_path)
    code, info = best(tmp_path)
    check_metrics(info["metrics"])
    assert info["metrics"]["valid"] == 1.0
    if stub.prompts:  # an engine that has a default model
        assert code.strip() == in_block(BETTER).strip()
    else:
        assert code == seed
        assert "--primary-model" in output, "the way out is named"
