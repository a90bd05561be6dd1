"""Ablation: arms, curves from logs, statistics, resuming, and one real run of the engine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import extra

from sim import cli
from sim.ablation import curve as curves
from sim.ablation import runs as running
from sim.ablation import study, summary
from sim.ablation.arms import arms
from sim.ablation.curve import Point, best_at
from sim.ablation.runs import BEGUN, RESULT, Finished, Interrupted, Plan, finished, perform
from sim.marks import load_marks
from sim.policy.program import Policy
from sim.rundir import RunDir
from sim.search.service import MODELS
from workloads import panel as panels
from workloads.panel import load_panel

ROOT = Path(__file__).resolve().parent.parent
PANEL = """\
format: kvevolve-panel/1
name: tiny-v1
capacities: [5%, 600]
splits:
  train:
    - {name: chat, source: 'synthetic:chat?seed=11', options: {requests: 300}}
  validation:
    - {name: chat2, source: 'synthetic:chat?seed=12', options: {requests: 300}}
"""
SEED_POLICY = "# EVOLVE-BLOCK-START\ndef priority(block, cache):\n    return block.last_access\n# EVOLVE-BLOCK-END\n"
BETTER = "def priority(block, cache):\n    return block.last_access + {} * block.seen\n"


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("panel") / "tiny.yaml"
    path.write_text(PANEL)
    return str(path)


@pytest.fixture
def plan(panel: str, tmp_path: Path) -> Plan:
    program = tmp_path / "program.py"
    program.write_text(SEED_POLICY)
    return Plan(program, ROOT / "evaluator.py", panel, load_marks(load_panel("train", panel)), 4)


def write_lines(path: Path, entries: list[dict]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def child(number: int, score: float, code: str) -> dict:
    metrics = {"valid": 1.0, "combined_score": score}
    return {"iteration": number, "timestamp": 100.0 + number, "child_metrics": metrics, "child_code": code,
            "metadata": {"iteration_time": 0.5}}  # fmt: skip


def store(run: RunDir, entry: dict) -> None:
    """Store a child as the engine does."""
    folder = run.databases / "1" / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    program = {"id": str(entry["iteration"]), "timestamp": entry["timestamp"], "code": entry["child_code"]}
    program |= {"metrics": entry["child_metrics"], "metadata": {"island": 0}}
    (folder / f"{program['id']}.json").write_text(json.dumps(program))


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_arms_by_name_and_by_file(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("llm: {models: [{name: big}]}\nearly_stopping_patience: 3\nprompt: {template_dir: mine}\n")
    found = arms(f"random, full,a=full,cma-linear,cma:lru_frequency,{mine},other={mine}", ROOT / "config.yaml")
    assert [arm.name for arm in found] == ["random", "full", "a", "cma-linear", "cma-lru_frequency", "mine", "other"]
    assert found[0].settings()["llm"]["models"] == [{"name": "kvevolve-random", "weight": 1.0}]
    assert found[1].settings()["llm"]["models"][0]["name"] == "kvevolve-gp"
    assert found[3].policy.name == "log_linear.py"
    assert "early_stopping_patience" not in found[5].settings(), "it would end runs at different evaluations"
    assert found[5].settings()["prompt"]["template_dir"] == str(tmp_path / "mine"), "the config moves into the run"
    assert [arm.iterations for arm in arms("full@200,b=random@7", ROOT / "config.yaml")] == [200, 7]
    assert found[0].digest != found[1].digest == found[2].digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no arms"),
        ("nosuch", "unknown arm 'nosuch'"),
        ("full,full", "arm full is there twice"),
        ("cma:nosuch", "no such policy"),
        ("full@0", "no number of iterations"),
        ("full@x", "no number of iterations"),
        ("missing.yaml", "not a readable YAML config"),
        ("../up=full", "becomes a folder"),
        ("..=full", "becomes a folder"),
        ("a b=full", "becomes a folder"),
        ("list.yaml", "expected a mapping"),
        ("binary.yaml", "not a readable YAML config"),
    ],
)
def test_bad_arms_are_told(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- a\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=told):
        arms(text, ROOT / "config.yaml")


def test_a_model_the_operator_does_not_have_is_refused_instead_of_replaced(monkeypatch):
    monkeypatch.setattr("sim.ablation.arms.MODELS", tuple(name for name in MODELS if name != "kvevolve-plain"))
    with pytest.raises(ValueError, match="no model kvevolve-plain"):
        arms("random,plain", ROOT / "config.yaml")


# ---- curves ----------------------------------------------------------------------------------------------------------


def test_a_curve_counts_evaluations_tuning_and_money(tmp_path):
    run = RunDir(tmp_path)
    scored = {"valid": 1.0, "combined_score": 0.1}
    write_lines(
        tmp_path / "evaluations.jsonl",
        [
            {"time": 1.0, "metrics": {"valid": 0.0, "combined_score": -1.0}, "cpu_seconds": 0.5, "refs": 0},
            {"time": 2.0, "metrics": scored, "cpu_seconds": 2.0, "refs": 1000},
            {"time": 5.0, "metrics": {**scored, "combined_score": 0.3}, "cpu_seconds": 2.0, "refs": 1000},
            {"time": 6.0, "metrics": scored, "cpu_seconds": 2.0, "refs": 1000, "cached": True},
        ],
    )
    tuning = {"passes": 80.0, "refs": 8000, "cpu_seconds": 15.0}
    ends = {"screened": {"count": 2, "seconds": 1.0}, "refs screened": {"count": 500}}
    ends |= {"settled": {"count": 2, "seconds": 4.0}, "refs settled": {"count": 1500}}
    write_lines(
        tmp_path / "operator.jsonl", [{"time": 2.5, "seconds": 1.0, "tuning": tuning, "ends": ends}, {"time": 0.5}]
    )
    write_lines(tmp_path / "llm.jsonl", [{"time": 4.0, "seconds": 0.5, "cost_usd": 0.25, "polish": {"evaluations": 2}}])
    with (tmp_path / "llm.jsonl").open("a") as file:
        file.write('{"time": 9.0, "cost_usd": 99')
    found = curves.read(run, 1000)
    assert found[-1] == Point(evaluations=16.0, cpu_s=28.5, refs=14000.0, usd=0.25, best=0.3)
    assert [point.best for point in found] == [None, None, 0.1, 0.1, 0.1, 0.3, 0.3]
    assert best_at(found, "evaluations", 2) == 0.1
    assert best_at(found, "evaluations", 14) == 0.1, "tuning, ten passes by what it replayed, and polish come first"
    assert best_at(found, "evaluations", 15) == 0.3
    assert best_at(found, "usd", 0.0) == 0.1
    assert best_at(found, "cpu_s", 0.1) is None


def test_without_a_journal_the_trace_serves(tmp_path):
    run = RunDir(tmp_path)
    write_lines(run.trace, [child(1, 0.2, "a"), child(2, 0.1, "b"), child(3, 0.4, "c")])
    assert [(p.evaluations, p.cpu_s, p.refs, p.best) for p in curves.read(run, 7)] == [
        (1.0, 0.5, 7.0, 0.2),
        (2.0, 1.0, 14.0, 0.2),
        (3.0, 1.5, 21.0, 0.4),
    ]


# ---- statistics ------------------------------------------------------------------------------------------------------


def made(arm: str, seed: int, scores: list[float], validation: float = 0.0) -> Finished:
    points = tuple(Point(i + 1.0, 2.0 * (i + 1), 10.0 * (i + 1), 0.0, max(scores[: i + 1])) for i in range(len(scores)))
    return Finished(arm, seed, points, points[-1].best or 0.0, validation, 5.0, 6.0)


def test_paired_differences_pair_by_seed():
    base = {1: 0.1, 2: 0.5, 3: 0.9}
    found = summary.paired({seed: value + 0.01 for seed, value in base.items()}, base)
    assert found is not None
    assert (found["mean"], found["low"], found["high"], found["seeds"]) == pytest.approx((0.01, 0.01, 0.01, 3))
    assert summary.paired({1: 0.0}, {2: 0.0}) is None
    wide = summary.paired({1: 0.0, 2: 1.0, 9: 5.0}, {1: 0.0, 2: 0.0, 3: 0.0})
    assert wide is not None
    assert (wide["mean"], wide["low"], wide["high"], wide["seeds"]) == (0.5, 0.0, 1.0, 2)


def test_summary_compares_at_what_the_cheapest_run_had_spent():
    runs = {
        "a": [made("a", 1, [0.1, 0.2, 0.3], 0.05), made("a", 2, [0.2, 0.2, 0.5], 0.07)],
        "b": [made("b", 1, [0.3, 0.3], 0.01), made("b", 2, [0.4, 0.6], 0.02)],
    }
    found = summary.summarise(runs)
    assert found["equal"]["evaluations"]["limit"] == 2.0
    assert found["equal"]["evaluations"]["arms"]["a"]["mean"] == pytest.approx(0.2)
    assert found["equal"]["evaluations"]["arms"]["b"]["difference"]["mean"] == pytest.approx(0.25)
    assert "usd" not in found["equal"]
    assert found["arms"]["a"]["train"]["mean"] == pytest.approx(0.4)
    assert found["arms"]["a"]["train"]["sd"] == pytest.approx(np.std([0.3, 0.5], ddof=1))
    assert found["arms"]["b"]["validation"]["difference"]["mean"] == pytest.approx(-0.045)
    json.dumps(found)
    text = summary.describe(found)
    assert "difference to a" in text
    assert "only 2 seed(s)" in text


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take the engine's place: every run stores two children."""
    seeds: list[int] = []

    def fake(job, run, say) -> bool:
        seeds.append(job.seed)
        os.environ["KVEVOLVE_PANEL"] = "changed"
        children = [child(1, 0.1, BETTER.format(job.seed)), child(2, 0.2, BETTER.format(10 + job.seed))]
        write_lines(run.trace, children)
        for entry in children:
            store(run, entry)
        return True

    monkeypatch.setattr(running, "search", fake)
    return seeds


def test_a_study_resumes_and_never_reads_the_test_split(plan, engine, tmp_path, monkeypatch):
    read: list[str] = []
    original = panels.load_panel

    def noted(split, *rest, **options):
        read.append(split)
        return original(split, *rest, **options)

    for module in ("sim.comparison", "workloads.panel"):
        monkeypatch.setattr(f"{module}.load_panel", noted)
    chosen = arms("full,b=full,cma-linear", ROOT / "config.yaml")
    out = tmp_path / "out"
    first = study.ablate(plan, chosen, [1, 2], out, lambda text: None)
    assert sorted(engine) == [1, 1, 2, 2]
    assert set(read) == {"validation"}
    assert {name: [run.seed for run in found] for name, found in first.runs.items()} == {
        "full": [1, 2],
        "b": [1, 2],
        "cma-linear": [1, 2],
    }
    assert Policy.from_file(out / "b" / "seed-2" / "best_policy.py").source == BETTER.format(12)
    linear = first.runs["cma-linear"][0]
    assert linear.curve[-1].evaluations <= plan.iterations
    assert linear.train >= linear.curve[0].best
    assert os.environ.get("KVEVOLVE_PANEL") != "changed"
    said: list[str] = []
    again = study.ablate(plan, chosen, [1, 2, 3], out, said.append)
    assert sorted(engine) == [1, 1, 2, 2, 3, 3]
    assert again.runs["b"][:2] == first.runs["b"]
    assert json.loads((out / study.JSON).read_text())["arms"]["b"]["seeds"] == [1, 2, 3]
    assert "cma-linear" in (out / study.TEXT).read_text()


def test_a_run_that_was_cut_short_is_begun_anew(plan, engine, tmp_path, monkeypatch):
    (arm,) = arms("full", ROOT / "config.yaml")
    root = tmp_path / "run"
    complete = running.search
    monkeypatch.setattr(running, "search", lambda job, run, say: False)
    with pytest.raises(Interrupted):
        perform(plan, arm, 1, root, lambda text: None)
    assert (root / BEGUN).exists()
    assert finished(root, plan.facts(arm, 1)) is None
    (root / "left over").write_text("x")
    monkeypatch.setattr(running, "search", complete)
    assert perform(plan, arm, 1, root, lambda text: None).train == 0.2
    assert not (root / "left over").exists()


def test_what_is_not_of_this_ablation_is_left_alone(plan, engine, tmp_path):
    (arm,) = arms("full", ROOT / "config.yaml")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no run of an ablation"):
        perform(plan, arm, 1, strange, lambda text: None)
    assert (strange / "thesis.txt").exists()
    root = tmp_path / "run"
    perform(plan, arm, 1, root, lambda text: None)
    longer = Plan(plan.program, plan.evaluator, plan.panel, plan.marks, 99)
    with pytest.raises(ValueError, match="a run with another iterations"):
        finished(root, longer.facts(arm, 1))
    for broken in ("", "[]", '{"facts": {}}', '{"facts": {}, "curve": []}', (root / RESULT).read_text()[:-40]):
        (root / RESULT).write_text(broken)
        with pytest.raises(ValueError, match="unreadable"):
            finished(root, plan.facts(arm, 1))


def test_the_figure_is_drawn(tmp_path):
    extra("matplotlib")
    from sim.ablation.figure import draw

    path = tmp_path / "f.png"
    draw({"a": [made("a", 1, [0.1, 0.4]), made("a", 2, [0.2])], "b": [made("b", 1, [0.1, 0.2])]}, path, "title")
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seeds", "x"], "write 1..5"),
        (["--seeds", "1,1"], "distinct"),
        (["--seeds", "5..1"], "distinct"),
        (["--iterations", "0"], "at least 1"),
        (["--arms", "nosuch"], "unknown arm"),
        (["--program", "/nonexistent.py"], "does not exist"),
        (["--figure", "x.nonsense"], "no such figure format"),
    ],
)
def test_the_verb_refuses_what_makes_no_sense(options, told, tmp_path, capsys):
    extra("matplotlib")
    assert cli.main(["ablate", "--arms", "full", "--output", str(tmp_path / "out"), *options]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_random_search_for_real(panel, tmp_path, capsys, monkeypatch):
    extra("cmaes")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["evaluator"]["parallel_evaluations"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    more = ["--config", str(tmp_path / "config.yaml"), "--traces", panel, "--output", str(tmp_path / "out")]
    more += ["--arms", "random", "--seeds", "1", "--iterations", "2"]
    started = time.time()
    assert cli.main(["ablate", *more, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["arms"]["random"]["seeds"] == [1]
    root = tmp_path / "out" / "random" / "seed-1"
    record = json.loads((root / RESULT).read_text())
    assert record["train"] == max(point["best"] for point in record["curve"] if point["best"] is not None)
    models = {json.loads(line)["model"] for line in (root / "operator.jsonl").read_text().splitlines()}
    assert models == {"kvevolve-random"}
    assert Policy.from_file(root / "best_policy.py")
    assert cli.main(["ablate", *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert (root / RESULT).stat().st_mtime >= started
