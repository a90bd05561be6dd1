"""Results of panels: what counts after a warm-up, which panel they cite, and that another's are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sim import cli, evolve, worker
from sim.against import differences, read_earlier
from sim.bounds import optimum
from sim.comparison import compare
from sim.evaluation import Evaluator
from sim.fitness import TrainingObjective
from sim.policy.program import Policy
from sim.rundir import RunDir
from sim.simulation import simulate
from workloads import load_panel

ROOT = Path(__file__).resolve().parent.parent
POLICY = "def priority(block, cache):\n    return block.last_access - 0.5 * min(block.gap, 2000.0)\n"
TINY = """\
format: kvevolve-panel/1
name: tiny-v1
capacities: [5%, 600]
warmup: 40%
splits:
  train:
    - {name: chat, source: 'synthetic:chat?seed=11', options: {requests: 300}}
    - {name: rag, source: 'synthetic:rag?seed=11', options: {requests: 300}, weight: 3}
  validation:
    - {name: chat2, source: 'synthetic:chat?seed=12', options: {requests: 300}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("panel") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def evaluator(tiny: str) -> Iterator[Evaluator]:
    running = Evaluator("train", tiny)
    yield running
    running.close()


def counted(hits: np.ndarray, first: int) -> int:
    return int(np.maximum(hits[first:], 0).sum())


def test_what_follows_the_warmup_counts(tiny: str) -> None:
    found = compare([Policy.from_source(POLICY, "mine"), "lru"], "train", tiny)
    panel = found.marks.panel
    assert {cell.first_counted for cell in panel.cells} == {120}
    for cell, scored, lru in zip(panel.cells, *found.cells, strict=True):
        trace = panel.traces[cell.trace_name]
        own = simulate(trace, Policy.from_source(POLICY, "mine"), cell.capacity_blocks)
        native = simulate(trace, "vllm", cell.capacity_blocks)
        assert scored.hit_tokens == counted(own.hit_blocks_per_request, 120) * trace.block_tokens < own.hit_tokens
        assert lru.hit_tokens == scored.lru_hit_tokens
        assert scored.lru_hit_tokens == counted(native.hit_blocks_per_request, 120) * trace.block_tokens
        assert scored.optimum_hit_tokens == optimum(trace, cell.capacity_blocks, 120).hit_tokens
        assert scored.prompt_tokens == int(trace.input_tokens[120:].sum())
        assert scored.weight == (3.0 if cell.trace_name == "rag" else 1.0)


def test_evaluator_objective_and_comparison_agree_after_a_warmup(tiny: str, mine: Path, evaluator: Evaluator) -> None:
    scored = evaluator.evaluate(mine)
    compared = compare([mine], "train", tiny)
    assert scored.metrics["combined_score"] == compared.scores[0].combined
    assert scored.hit_tokens == [cell.hit_tokens for cell in compared.cells[0]]
    objective = TrainingObjective(evaluator.marks)
    assert objective.score(Policy.from_source(POLICY, "mine")) == compared.scores[0].combined
    assert "hit tokens lost" in scored.artifacts["costliest_evictions"]


def test_a_candidates_process_refuses_a_panel_that_changed(tiny: str, tmp_path: Path) -> None:
    before = load_panel("train", tiny).fingerprint
    changed = tmp_path / "tiny.yaml"
    changed.write_text(TINY.replace("600", "700"))
    with pytest.raises(ValueError, match=r"is [0-9a-f]{12} now and was [0-9a-f]{12} when the evaluator"):
        worker.load("train", str(changed), before)


def run(*arguments: str) -> int:
    return cli.main(arguments)


def test_compare_against_an_earlier_result(
    tiny: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("compare", str(mine), "lru", "--panel", "train", "--traces", tiny)
    assert run(*base, "--json") == 0
    before = tmp_path / "before.json"
    before.write_text(capsys.readouterr().out)
    content = json.loads(before.read_text())
    assert (content["panel"], content["split"], len(content["fingerprint"])) == ("tiny-v1", "train", 64)

    assert run(*base, "--against", str(before), "--json") == 0
    same = json.loads(capsys.readouterr().out)["against"]
    assert all(change["same_source"] for change in same["policies"].values())
    assert not any(change["cells_that_differ"] for change in same["policies"].values())

    mine.write_text(POLICY.replace("0.5", "2.5"))
    assert run(*base, "--against", str(before)) == 0
    text = capsys.readouterr().out
    assert "changed" in text
    assert "mine: rag" in text
    earlier = read_earlier(before)
    changed = differences(compare([mine, "mru"], "train", tiny), earlier)
    assert (changed["only_before"], changed["only_now"]) == (["lru"], ["mru"])
    first = changed["policies"]["mine"]["cells_that_differ"][0]
    assert first["before"] in earlier.policies["mine"]["hit_tokens"]
    assert first["now"] != first["before"]

    provenance = tmp_path / "provenance.json"
    provenance.write_text(json.dumps({"panel": "tiny-v1", "validation": content}))
    assert read_earlier(provenance).policies == earlier.policies


@pytest.mark.parametrize("change", [("600", "601"), ("40%", "41%"), ("weight: 3", "weight: 4"), ("tiny-v1", "tiny-v2")])
def test_results_of_another_panel_are_refused(
    change: tuple[str, str], tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = load_panel("train", tiny)
    result = tmp_path / "result.json"
    result.write_text(
        json.dumps({"panel": panel.name, "split": "train", "fingerprint": panel.fingerprint, "policies": {}})
    )
    other = tmp_path / "other.yaml"
    other.write_text(TINY.replace(*change))
    assert run("compare", "lru", "--panel", "train", "--traces", str(other), "--against", str(result)) == 1
    told = capsys.readouterr().err
    assert "the numbers do not compare; fix: " in told
    assert panel.fingerprint[:12] in told


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"panel": "x", "split": "train", "fingerprint": "0", "policies": {"a": {}}}',
    ],
)
def test_what_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.json: holds no comparison .*; fix: "):
        read_earlier(tmp_path / "r.json")
    with pytest.raises(ValueError, match="No such file"):
        read_earlier(tmp_path / "absent.json")


class _Started(Exception):
    """The engine would have run."""


@pytest.fixture
def resume(
    tiny: str, tmp_path: Path, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Go on with a run; return the panel it would have gone on with."""
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text("max_iterations: 3\n")
    kept = {name: os.environ.get(name) for name in ("KVEVOLVE_PANEL", "KVEVOLVE_RUN_DIR", "KVEVOLVE_ADVICE")}

    def stop(*_: object) -> None:
        raise _Started

    def go(which: str = "auto", resumed: bool = True, engine: Callable[..., None] = stop) -> str:
        job = evolve.Job(ROOT / "initial_program.py", ROOT / "evaluator.py", ROOT / "config.yaml", panel=which)
        monkeypatch.setattr(evolve, "run_engine", engine)
        with pytest.raises(_Started):
            evolve.evolve(job, run, lambda _: None, resume=resumed)
        return os.environ["KVEVOLVE_PANEL"]

    monkeypatch.setattr(evolve, "Evaluator", lambda split, which: _Loaded(evaluator, load_panel(split, which)))
    yield go
    for name, value in kept.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


class _Loaded:
    """An evaluator that shares the one process of this file, whatever panel it is asked for."""

    def __init__(self, running: Evaluator, panel: object) -> None:
        self.panel, self.evaluate = panel, running.evaluate


def test_a_run_goes_on_with_its_own_panel_only(resume: Callable[..., str], tiny: str, tmp_path: Path) -> None:
    assert resume(tiny, resumed=False) == tiny
    stored = json.loads((tmp_path / "run" / "panel.json").read_text())
    assert stored == {"which": tiny, "name": "tiny-v1", "fingerprint": load_panel("train", tiny).fingerprint}
    assert resume() == tiny  # auto: the one it was started on
    assert resume(tiny) == tiny
    with pytest.raises(ValueError, match=r"was evolved on panel tiny-v1, fingerprint .* scores would not compare"):
        resume("synthetic")
    text = Path(tiny).read_text()
    try:
        with pytest.raises(ValueError, match="scores would not compare"):  # while the engine ran
            resume(engine=lambda *_: Path(tiny).write_text(text.replace("40%", "50%")))
        with pytest.raises(ValueError, match="scores would not compare"):
            resume()
        Path(tiny).write_text(text.partition("  validation:")[0])
        with pytest.raises(ValueError, match="has no split 'validation'"):
            resume()
    finally:
        Path(tiny).write_text(text)
    (tmp_path / "run" / "panel.json").unlink()
    with pytest.raises(ValueError, match="does not say which panel"):
        resume()


def test_the_command_line_takes_files_and_lists_panels(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("panel", "validation", "--traces", tiny) == 0
    assert "panel tiny-v1 / validation: SYNTHETIC" in capsys.readouterr().out
    assert run("panel", "--list") == 0
    assert "real-v1 " in capsys.readouterr().out
    assert run("panel", "--traces", tiny + "x.yaml") == 1
    assert "No such file" in capsys.readouterr().err
    assert run("compare", "lru", "--panel", "test", "--traces", tiny) == 1
    assert "has no split 'test'" in capsys.readouterr().err


def test_memory_as_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    trace = "synthetic:chat?seed=1&requests=300"  # blocks of 16 tokens: 2 MiB each for Llama 3.1 8B
    assert run("run", trace, "--capacity", "1GiB", "--model", "llama-3.1-8b", "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["capacity_blocks"] == 2**30 // (131_072 * found["block_tokens"])
    assert "1GiB is" in printed.err
    blocks = found["capacity_blocks"]
    assert run("sweep", trace, "--capacities", "1GiB..2GiB,10%", "--points", "2", "--model", "131072", "--json") == 0
    assert {blocks, 2 * blocks} < set(json.loads(capsys.readouterr().out)["capacities"])
    assert run("explain", "lru", trace, "--capacity", "1GiB", "--model", "llama-3.1-8b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["capacity_blocks"] == blocks
    for verb in (("run", trace), ("explain", "lru", trace), ("sweep", trace), ("bounds", trace)):
        option = "--capacities" if verb[0] in ("sweep", "bounds") else "--capacity"
        assert run(*verb, option, "1GiB") == 1
        assert "blocks in memory depend on the model - fix: name it" in capsys.readouterr().err
