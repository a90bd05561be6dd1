"""The choice at the end of a run: best on validation first, and with the gate the first that it passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim import choice
from sim.choice import JUDGED, Ranked
from sim.policy.program import Policy
from sim.promotion.verdict import RULES, Check, Verdict
from sim.rundir import RunDir


def candidates(count: int) -> list[Ranked]:
    sources = (f"def priority(block, cache):\n    return block.last_access + {i + 1}\n" for i in range(count))
    return [Ranked(Policy.from_source(text, f"evolved_{i + 1}"), 0.5 - i / 10) for i, text in enumerate(sources)]


def verdict(policy: Policy, passes: bool) -> Verdict:
    checks = tuple(Check(rule, passes or rule != "capacity", {}, "words") for rule in RULES)
    return Verdict(policy.name, "ab", 7, "p", "fp", checks, (1, 2))


def scored(run: RunDir, *terms: str) -> None:
    """Store programs as the engine does, the first the best."""
    place = run.new_database() / "programs"
    place.mkdir(parents=True)
    for i, term in enumerate(terms):
        code = f"def priority(block, cache):\n    return {term}\n"
        metrics = {"valid": 1.0, "combined_score": 0.9 - i / 10}
        told = {"id": str(i), "timestamp": i, "code": code, "metrics": metrics, "metadata": {"island": 0}}
        (place / f"{i}.json").write_text(json.dumps(told))


def test_finalists_behave_differently(tmp_path: Path) -> None:
    run, seed = RunDir(tmp_path), candidates(1)[0].policy
    assert choice.finalists(run, seed) == [seed]
    scored(run, "block.last_access", "1 + 2 * block.last_access", "1 / (block.seen - block.seen)", "-block.last_access")
    found = choice.finalists(run, seed)
    assert [policy.name for policy in found] == ["evolved_1", "evolved_2"]
    assert "return block.last_access" in found[0].source
    assert "return -block.last_access" in found[1].source


@pytest.mark.parametrize(("sound", "chosen", "judged"), [(0, 0, 1), (2, 2, 3), (9, 0, JUDGED)])
def test_the_gate_tries_the_best_until_one_passes(tmp_path: Path, monkeypatch, sound, chosen, judged) -> None:
    found, said = candidates(6), []
    names = [item.policy.name for item in found]
    monkeypatch.setattr(choice, "judge", lambda policy, *_: verdict(policy, names.index(policy.name) == sound))
    run = RunDir(tmp_path)
    best, verdicts = choice.passing(found, run, "auto", said.append)
    assert best is found[chosen]
    assert [item.policy for item in verdicts] == names[:judged]
    refused = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()] if sound else []
    assert [line["policy"] for line in refused] == [name for i, name in enumerate(names[:judged]) if i != sound]
    assert all(line["reasons"] == {"capacity": "words"} for line in refused)
    assert json.loads(run.verdict.read_text())["policy"] == names[chosen]
    text = choice.told(verdicts, best)
    assert text.count("refused: capacity") == len(refused)
    assert ("passed" in text) is (sound < JUDGED)
    assert any("judging evolved_1, +0.5000" in line for line in said)
