"""The evaluator: every path returns every metric, what is refused is explained, and a score is a fact."""

from __future__ import annotations

import importlib.util
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from conftest import in_ci
from openevolve.config import PromptConfig
from openevolve.evaluation_result import EvaluationResult
from openevolve.prompt.sampler import PromptSampler

from sim.evaluation import LIMITS, METRICS, Evaluation, Evaluator, training_evaluator
from sim.fitness import TrainingObjective
from sim.isolation import Limits
from sim.marks import load_marks
from sim.policy.language import MAX_SOURCE_BYTES
from sim.policy.program import Policy
from sim.registry import BASELINES, policies
from sim.score import LOWEST, NODE_CHARGE, REJECTED
from workloads import TraceError
from workloads.panel import load_panel

ROOT = Path(__file__).parent.parent
SEED = ROOT / "initial_program.py"
LRU = "def priority(block, cache):\n    return block.released\n"
BETTER = "def priority(block, cache):\n    return block.last_access - 0.5 * min(block.gap, 2000.0)\n"
ARTIFACT_BYTES = 8192


def real_traces() -> bool:
    try:
        return load_panel("train", "real").real
    except TraceError:
        return False


@pytest.fixture(scope="module", params=["synthetic", "real"])
def evaluator(request) -> Iterator[Evaluator]:
    if request.param == "real" and not real_traces():
        (pytest.fail if in_ci() else pytest.skip)("no real traces: set $KVEVOLVE_TRACES")
    running = Evaluator("train", request.param, replace(LIMITS, wall_s=300.0))  # CPU time limits it, however busy
    yield running
    running.close()


@pytest.fixture
def evaluate(evaluator, tmp_path) -> Callable[..., Evaluation]:
    def run(source: str | bytes, **options: bool) -> Evaluation:
        path = tmp_path / "candidate.py"
        path.write_bytes(source.encode() if isinstance(source, str) else source)
        return check(evaluator.evaluate(path, **options))

    return run


@pytest.fixture(scope="module")
def seed(evaluator) -> Evaluation:
    return check(evaluator.evaluate(SEED))


@pytest.fixture(scope="module")
def better_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("better") / "better.py"
    path.write_text(BETTER)
    return path


@pytest.fixture(scope="module")
def better(evaluator, better_path) -> Evaluation:
    return check(evaluator.evaluate(better_path))


def check(found: Evaluation) -> Evaluation:
    """Whatever came of a candidate: every metric, plain finite floats, small texts the engine leaves alone."""
    assert tuple(found.metrics) == METRICS
    for name, value in found.metrics.items():
        assert type(value) is float, name
        assert math.isfinite(value), name
    assert REJECTED <= found.metrics["combined_score"] <= 1.0
    assert found.metrics["valid"] in (0.0, 1.0)
    assert (found.metrics["combined_score"] == REJECTED) == (found.metrics["valid"] == 0.0)
    assert found.artifacts
    assert all(type(name) is type(text) is str and text for name, text in found.artifacts.items())
    assert sum(len(text.encode()) for text in found.artifacts.values()) < ARTIFACT_BYTES
    assert found.isolation
    json.dumps([found.metrics, found.artifacts], allow_nan=False)
    return found


def refused(found: Evaluation, stage: str, *words: str) -> None:
    assert found.stage == stage
    assert found.metrics["combined_score"] == REJECTED
    assert found.score is None
    text = found.artifacts["rejection"]
    assert text.startswith(f"rejected at stage {stage}. Repair this first:\n- ")
    for word in words:
        assert word in text
    assert "`" * 3 not in text


# ---- what runs -------------------------------------------------------------------------------------------------------


def test_the_seed_scores_like_lru(evaluator, seed):
    found = seed
    nodes = Policy.from_file(SEED).nodes
    assert found.stage == "panel"
    assert found.hit_tokens == [mark.lru for mark in evaluator.marks.marks]
    assert found.metrics["train_gap_closed"] == found.metrics["worst_trace"] == 0.0
    assert found.metrics["combined_score"] == pytest.approx(-NODE_CHARGE * nodes, rel=0.01)
    assert found.metrics["complexity_nodes"] == nodes
    assert found.metrics["admitted_fraction"] == 1.0
    assert found.metrics["valid"] == 1.0
    assert 0.0 < found.metrics["evictions_per_access"] < 1.0


def test_a_good_policy_is_told_where_it_stands(better, evaluator):
    found = better
    assert found.stage == "panel"
    assert found.metrics["combined_score"] > 0.0
    assert set(found.artifacts) == {"cells", "weakest_cell", "rank_among_baselines", "costliest_evictions"}
    assert len(found.artifacts["cells"].splitlines()) == 1 + len(evaluator.panel.cells)
    assert "THIS POLICY" in found.artifacts["rank_among_baselines"]
    assert "hit tokens lost" in found.artifacts["costliest_evictions"]
    assert "held" not in " ".join(found.artifacts.values()), "nothing about held-out traces"
    sampler = PromptSampler(PromptConfig())
    for text in found.artifacts.values():
        assert sampler._apply_security_filter(text) == text


def test_advice_changes_no_metric(evaluate, better):
    silent = evaluate(BETTER, advice=False)
    assert better.metrics == silent.metrics
    assert "costliest_evictions" not in silent.artifacts


def test_score_equals_the_tuners_objective(evaluator):
    """The operator tunes constants against `TrainingObjective`: one formula, one clock origin, to the last bit."""
    objective = TrainingObjective(evaluator.marks)
    shipped = policies()
    for path in [shipped["lru_frequency"]] if evaluator.panel.real else [shipped[name] for name in BASELINES]:
        found = check(evaluator.evaluate(path, advice=False))
        policy = Policy.from_file(path)
        if found.stage == "panel":
            assert objective.score(policy) == found.metrics["combined_score"], path.stem
            if path.stem in ("lru_frequency", "lru_depth"):
                values = [item.value for item in policy.literals]
                assert objective.of_literals(policy)(values) == objective.score(policy)
            assert evaluator.baselines[path.stem].combined == found.metrics["combined_score"], path.stem
        else:
            assert found.stage == "smoke"
            assert found.metrics["combined_score"] == LOWEST


def test_far_below_lru_is_stopped_after_the_smoke_cell(evaluate):
    found = evaluate(LRU + "def admit(block, request, cache):\n    return False\n")
    assert found.stage == "smoke"
    assert (found.metrics["combined_score"], found.metrics["valid"]) == (LOWEST, 1.0)
    assert found.metrics["admitted_fraction"] == 0.0
    assert "stopped after the first cell" in found.artifacts["weakest_cell"]
    assert "0 hit tokens" in found.artifacts["weakest_cell"]


# ---- what is refused -------------------------------------------------------------------------------------------------

BODY = "def priority(block, cache):\n    return "
REFUSED = {
    "empty": ("", "gate", "line 1", "define `def priority(block, cache):`"),
    "blank": ("\n\n  \n", "gate", "line 1", "define `def priority"),
    "comment only": ("# nothing\n", "gate", "no function `priority`"),
    "syntax": (BODY + "(block.hits\n", "gate", "line 2", "syntax error"),
    "indentation": ("def priority(block, cache):\nreturn 1\n", "gate", "line 2", "syntax error"),
    "tabs": ("def priority(block, cache):\n\tx = 1\n        return x\n", "gate", "line 3", "syntax error"),
    "merge marker": (f"<<<<<<< SEARCH\n{LRU}=======\n", "gate", "line 1", "syntax error"),
    "NUL": (LRU + "\0", "gate", "line 1", "null bytes"),
    "NUL first": ("\0" + LRU, "gate", "line 1"),
    "not UTF-8": (b"# ok\n# \xff\xfe\n" + LRU.encode(), "gate", "line 2: byte 7 is not UTF-8", "save the file"),
    "UTF-16": (LRU.encode("utf-16"), "gate", "line 1: byte 0 is not UTF-8"),
    "byte order mark": ("\ufeff" + LRU, "gate", "line 1"),
    "too large": (LRU + "#" * MAX_SOURCE_BYTES, "gate", f"exceeds {MAX_SOURCE_BYTES} bytes", "shorten"),
    "parentheses": (BODY + "(" * 5000 + "1" + ")" * 5000 + "\n", "gate", "line 2", "nested parentheses"),
    "long sum": (BODY + "1" + "+1" * 9000 + "\n", "gate", "line 1", "simpler"),
    "many nodes": (BODY + "block.hits" + " + 1.0" * 300 + "\n", "gate", "more than 500", "simplify"),
    "unary tower": (BODY + "-" * 450 + "block.hits\n", "gate", "line 1", "split"),
    "loop tower": (
        "def priority(block, cache):\n"
        + "".join("    " + " " * i + f"for i{i} in range(1):\n" for i in range(25))
        + " " * 40
        + "x = 1.0\n    return 1.0\n",
        "compile",
        "too many statically nested blocks",
    ),
    "huge literal": (BODY + "1" + "0" * 400 + "\n", "gate", "line 2", "finite number"),
    "hexadecimal": (BODY + "0x" + "f" * 6000 + "\n", "gate", "line"),
    "infinite literal": (BODY + "1e999\n", "gate", "line 2", "finite number"),
    "unknown field": (BODY + "block.hitz\n", "gate", "line 2", "did you mean block.hits?"),
    "unknown name": (BODY + "blocks\n", "gate", "line 2", "did you mean `block`?"),
    "parameters": ("def priority(b, c):\n    return 1.0\n", "gate", "line 1", "def priority(block, cache):"),
    "no return": ("def priority(block, cache):\n    x = 1.0\n", "gate", "can end without returning"),
    "twice": (LRU + LRU, "gate", "line 3", "defined twice"),
    "type": (BODY + "abs(True) + float(True)\n", "compile", "line 1", "use float arithmetic"),
    "NaN": (BODY + "0.0 / (block.hits - block.hits)\n", "run", "line 1", "not finite", "guard"),
    "infinity": (BODY + "math.exp(1e9)\n", "run", "line 1", "not finite", "guard"),
    "NaN later": (BODY + "math.log(block.hits)\n", "run", "line 1", "not finite", "guard"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_line_and_the_fix(name, evaluate):
    source, stage, *words = REFUSED[name]
    found = evaluate(source)
    refused(found, stage, "line ", *words)
    assert "Fix: " in found.artifacts["rejection"] or stage == "run"


def test_missing_file_and_folder(evaluator, tmp_path):
    refused(check(evaluator.evaluate(tmp_path / "absent.py")), "gate", "line 1", "No such file", "Fix:")
    refused(check(evaluator.evaluate(tmp_path)), "gate", "line 1", "directory", "Fix:")


def test_largest_file_is_accepted(evaluate):
    source = LRU + "#" * (MAX_SOURCE_BYTES - len(LRU))
    assert len(source) == MAX_SOURCE_BYTES
    assert evaluate(source, advice=False).stage == "panel"


def test_many_or_long_findings_are_cut(evaluate):
    """What is refused may be quoted, and goes into a prompt: 8 KB at most (see `check`)."""
    many = evaluate("a = x\n" * 3000)
    refused(many, "gate", "line 1:", "and 2988 more")
    refused(evaluate(BODY + "a" * 15_000 + "\n"), "gate", "line 2", "may be undefined", "Fix:")
    refused(evaluate(BODY + "'" + "`" * 12_000 + "'\n"), "gate", "line 2", "use a finite number")


def test_endless_native_loop_is_killed_and_explained(evaluator, evaluate):
    loop = "".join(
        f"def h{k}(x):\n    y = 0.0\n    for i in range(64):\n        y += h{k - 1}(x + i)\n    return y\n"
        for k in range(1, 9)
    )
    usual, evaluator.limits = evaluator.limits, Limits(wall_s=1.0, cpu_s=1.0)
    try:
        found = evaluate(f"def h0(x):\n    return x\n{loop}{BODY}h8(block.hits)\n")
    finally:
        evaluator.limits = usual
    assert found.stage in ("timeout", "cpu")
    refused(found, found.stage, "make priority and admit cheaper")
    assert evaluate(LRU, advice=False).stage == "panel", "the next candidate is none the worse"


# ---- the same candidate, the same score ------------------------------------------------------------------------------

FRESH = """
import sys
sys.path.insert(0, sys.argv[1])
from sim.evaluation import Evaluator
evaluator = Evaluator("train", sys.argv[2])
for path in sys.argv[3:]:
    print(repr(sorted(evaluator.evaluate(path).metrics.items())))
evaluator.close()
"""


def _metrics(evaluator: Evaluator, paths: list[Path]) -> list[str]:
    return [repr(sorted(check(evaluator.evaluate(path)).metrics.items())) for path in paths]


def _in_fork(evaluator: Evaluator, paths: list[Path], answers) -> None:
    answers.put(_metrics(evaluator, paths))


def test_same_metrics_in_any_process(evaluator, better, better_path, tmp_path):
    """Byte for byte: here twice, in a fork that shares the zygote, in a fresh process whatever its hash seed."""
    paths = [better_path, policies()["gdsf"], tmp_path / "refused.py"]
    paths[2].write_text("import os\n")
    here = _metrics(evaluator, paths)
    assert here[0] == repr(sorted(better.metrics.items()))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    fork = context.Process(target=_in_fork, args=(evaluator, paths, answers))
    fork.start()
    assert answers.get() == here
    fork.join()
    panel = evaluator.panel.name.rpartition("-v")[0]
    command = [sys.executable, "-c", FRESH, str(ROOT), panel, *map(str, paths)]
    environment = os.environ | {"PYTHONHASHSEED": "12345" if evaluator.panel.real else "0"}
    fresh = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert fresh.stdout.splitlines() == here


def test_where_the_file_lies_does_not_matter(evaluator, seed, tmp_path):
    other = tmp_path / "sub folder" / "ünïcode.txt"
    other.parent.mkdir()
    other.write_bytes(SEED.read_bytes())
    assert evaluator.evaluate(other).metrics == seed.metrics


# ---- the engine's entry ----------------------------------------------------------------------------------------------


def entry() -> ModuleType:
    """Execute evaluator.py as the engine does: by path, under a name of its own, perhaps many times."""
    spec = importlib.util.spec_from_file_location("evaluation_module", ROOT / "evaluator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    before = os.environ.get("KVEVOLVE_PANEL")
    os.environ["KVEVOLVE_PANEL"] = "synthetic"
    training_evaluator.cache_clear()
    loaded = entry()
    yield loaded
    training_evaluator().close()
    training_evaluator.cache_clear()
    if before is None:
        del os.environ["KVEVOLVE_PANEL"]
    else:
        os.environ["KVEVOLVE_PANEL"] = before


@pytest.fixture(scope="module")
def result(module) -> EvaluationResult:
    return module.evaluate(str(SEED))


def test_entry_returns_the_engines_class_where_the_engine_runs(result):
    found = result
    assert type(found) is EvaluationResult
    assert tuple(found.metrics) == METRICS
    assert all(type(value) is float for value in found.metrics.values())
    assert all(type(text) is str for text in found.artifacts.values())
    assert found.artifacts["isolation"].startswith("fork")


def test_entry_returns_a_dict_elsewhere(module, result, monkeypatch):
    monkeypatch.delitem(sys.modules, "openevolve.evaluation_result")
    found = module.evaluate(str(SEED))
    assert type(found) is dict
    assert found.pop("artifacts") == result.artifacts
    assert found == result.metrics


def test_entry_refuses_like_the_evaluator(module, tmp_path):
    candidate = tmp_path / "candidate.py"
    candidate.write_text("import os\n")
    found = module.evaluate(str(candidate))
    assert found.metrics["combined_score"] == REJECTED
    assert set(found.metrics) == set(METRICS)
    assert "line 1: imports are not allowed" in found.artifacts["rejection"]


def test_entry_may_be_executed_for_every_candidate(result):
    """The engine does so with `cascade_evaluation: true`: the path does not grow, the zygote stays."""
    path, zygote = list(sys.path), training_evaluator().zygote.pid
    again = entry()
    assert again.evaluate(str(SEED)).metrics == result.metrics
    assert sys.path == path
    assert training_evaluator().zygote.pid == zygote


def test_marks_match_the_panel_of_the_zygote(evaluator):
    """Both processes load the panel themselves: they must mean the same one."""
    assert load_marks(load_panel("train", evaluator.panel.which)).marks == evaluator.marks.marks
