"""Replay: which recorded answer is given, and real runs of the engine: recorded, ended by a cap, replayed, by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_model import Say, diff, full, serving
from test_proxy import KEY, LINE, PRICES, PROGRAM, request

from sim.search import prompt as prompts
from sim.search.endpoint import EndpointError, ensure_endpoint
from sim.search.llm import record
from sim.search.llm.ending import reason
from sim.search.llm.proxy import Proxy, Refused
from sim.search.llm.replay import Replay, UsedUp
from sim.search.llm.settings import LlmSettings

ROOT = Path(__file__).resolve().parent.parent


def child(number: int) -> str:
    return f"    return block.released + {number}.0 * min(block.seen, 3)"


def entry(call: int, response: str, body: dict | None = None, **more: object) -> dict[str, Any]:
    body = body or request()
    return {
        "call": call,
        "request": record.digest(body),
        "body": body,
        "response": response,
        "outcome": "answered",
    } | more


OTHER = PROGRAM.replace(LINE, "    return block.last_access")


def given(replay: Replay, body: dict) -> tuple[int, str]:
    found = replay.answer(record.digest(body), prompts.read(body["messages"][-1]["content"]))
    return found.call, found.match


def test_exact_answers_come_in_the_order_of_their_request():
    entries = [entry(3, diff(LINE, child(3))), entry(1, diff(LINE, child(1))), entry(2, "x", request(seed=1))]
    replay = Replay([*entries, entry(4, "", outcome="error"), entry(5, "", outcome="capped")])
    assert [given(replay, request()) for _ in range(2)] == [(1, "exact"), (3, "exact")]
    assert given(replay, request(seed=1)) == (2, "exact")
    with pytest.raises(UsedUp, match="3 answers replayed, 3 exact, 0 applied, 0 carried, 0 left"):
        given(replay, request())


def test_another_request_gets_what_applies_then_what_can_be_carried_over():
    bad, same = diff(LINE, "    return block.freshness"), diff(LINE, LINE)
    entries = [entry(1, "no program"), entry(2, bad), entry(3, same), entry(4, diff(LINE, child(4)))]
    entries += [entry(5, diff(LINE, child(5)))]
    replay = Replay(entries)
    assert given(replay, request(seed=9)) == (4, "applied")
    body = request(OTHER, seed=9)
    found = replay.answer(record.digest(body), prompts.read(body["messages"][-1]["content"]))
    assert (found.call, found.match) == (5, "carried")
    from openevolve.utils.code_utils import apply_diff

    assert apply_diff(OTHER, found.text).strip() == PROGRAM.replace(LINE, child(5)).strip()
    with pytest.raises(UsedUp, match="1 applied, 1 carried, 3 left that fit nowhere"):
        given(replay, body)


def test_whole_programs_fit_anywhere_and_other_requests_only_exactly():
    whole = entry(1, full(PROGRAM.replace(LINE, child(1))), request(mode="rewrite"))
    other = {"model": "m", "messages": [{"role": "user", "content": "NOVEL or NOT_NOVEL?"}]}
    replay = Replay([whole, entry(2, "NOVEL", other)])
    assert given(replay, request(OTHER, mode="rewrite")) == (1, "applied")
    assert given(replay, other) == (2, "exact")
    with pytest.raises(UsedUp, match="shows no program"):
        given(replay, other)


def test_a_replay_needs_no_endpoint_costs_nothing_and_can_be_replayed(tmp_path):
    recording = tmp_path / "a" / "llm.jsonl"
    recording.parent.mkdir()
    recording.write_text(json.dumps(entry(1, diff(LINE, child(1)), cost_usd=3.0)) + "\n")
    for folder in ("b", "c"):
        served = Proxy(LlmSettings(replay=str(recording), cap_tokens=1), tmp_path / folder)
        assert child(1) in served.complete(request())["choices"][0]["message"]["content"]
        with pytest.raises(Refused, match="used up"):
            served.complete(request())
        assert "used up" in reason(tmp_path / folder)
        recording = tmp_path / folder / "llm.jsonl"
        first = record.read(recording)[0]
        assert (first["outcome"], first["match"], first["of"], first["cost_usd"]) == ("replayed", "exact", 1, 0.0)
        assert record.used(record.read(recording)).tokens == 0


# ---- the engine ------------------------------------------------------------------------------------------------------

EVALUATOR = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sim.search.endpoint import ensure_endpoint
ENDPOINT = ensure_endpoint()
from sim.policy.program import Policy


def evaluate(path):
    policy = Policy.from_file(path)
    score = 0.2 + sum(literal.value for literal in policy.literals) % 97 / 300
    return {{"combined_score": score, "complexity_nodes": float(policy.nodes), "evictions_per_access": score / 2}}
"""

TOY = """
class Objective:
    def score(self, policy):
        return self.of_literals(policy)([literal.value for literal in policy.literals])

    def of_literals(self, policy):
        return lambda values: -sum(abs(value - 50) for value in values)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(iterations: int, llm: dict, proxied: dict | None) -> dict[str, Any]:
    models = [{"name": "m", "weight": 1.0}]
    base = f"http://127.0.0.1:{free_port()}/v1"
    return {
        "max_iterations": iterations,
        "checkpoint_interval": iterations,
        "language": "python",
        "llm": {"api_base": base, "api_key": KEY, "models": models, "timeout": 10_000, "retries": 0, **llm},
        "prompt": {"template_dir": str(ROOT / "sim" / "search" / "prompts")},
        "database": {"num_islands": 1, "feature_dimensions": ["complexity_nodes", "evictions_per_access"]},
        "evaluator": {"cascade_evaluation": False, "max_retries": 0, "parallel_evaluations": 1},
        "evolution_trace": {"enabled": True, "include_code": True},
        "kvevolve": {"llm": proxied} if proxied else {},
    }


def start(folder: Path, settings: dict) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    for name, text in (("initial_program.py", PROGRAM), ("evaluator.py", EVALUATOR), ("toy.py", TOY)):
        (folder / name).write_text(text)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [Path(sys.executable).parent / "openevolve-run", "initial_program.py", "evaluator.py"]
    variables = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"PYTHONPATH": str(folder)}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*command, "--config", "config.yaml", "-o", "out"], cwd=folder, env=variables, text=True, **streams
    )


def finish(process: subprocess.Popen[str]) -> str:
    log = process.communicate(timeout=300)[1]
    assert process.returncode == 0, log[-3000:]
    return log


def sources(folder: Path) -> list[str]:
    lines = (folder / "out" / "evolution_trace.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["child_code"].strip() for line in lines)


def rewrite(number: int) -> Say:
    """Answer with the number in the place of that of the shown parent."""

    def text(prompt: str) -> str:
        shown = prompts.read(prompt)
        assert shown is not None
        line = next(line for line in shown.parent.splitlines() if "return" in line)
        return diff(line, f"    return block.released + {number}.0 * min(block.seen, 3)")

    return Say(text)


def test_a_run_is_recorded_ends_at_its_cap_and_is_replayed_without_the_model(tmp_path):
    cost = (1000 * 2.0 + 100 * 8.0) / 1e6
    proxied = {"cap_usd": 3 * cost + 0.05, "prices": PRICES, "objective": "toy:Objective", "polish_evaluations": 20}
    with serving(*(rewrite(n) for n in (400, 500, 600, 700, 800, 900))) as model:
        settings = config(50, {"max_tokens": 500}, {"upstream": model.url, **proxied})
        log = finish(start(tmp_path / "first", settings))
    run = tmp_path / "first" / "out"
    recorded = record.read(run / "llm.jsonl")
    answered = [found for found in recorded if found["outcome"] == "answered"]
    assert len(answered) == len(model.bodies) > 3
    assert recorded[-1]["outcome"] == "capped"
    assert len(recorded) == len(answered) + 1, "the run ends, it does not go through its iterations"
    assert "the run ends early: the cap of" in log
    assert "cap_usd" in reason(run)
    assert sum(found["cost_usd"] for found in recorded) <= proxied["cap_usd"]
    assert any(found["polish"]["score"] > found["polish"]["start_score"] for found in answered if found["polish"])
    children = sources(tmp_path / "first")
    assert len(children) == len(answered), "every paid answer is stored"
    assert (run / "best" / "best_program.py").exists()
    assert all(KEY not in path.read_text(errors="replace") for path in run.glob("llm*"))

    replayed = config(50, {"max_tokens": 500}, {"replay": "../first/out/llm.jsonl"})
    finish(start(tmp_path / "second", replayed))
    again = record.read(tmp_path / "second" / "out" / "llm.jsonl")
    assert [found["outcome"] for found in again] == ["replayed"] * len(answered) + ["capped"]
    assert again[0]["match"] == "exact"
    assert {found["of"] for found in again[:-1]} == {found["call"] for found in answered}, "each answer once"
    assert sources(tmp_path / "second") == children


def test_a_person_answers_the_tasks(tmp_path):
    """`examples/manual.yaml`, fewer iterations; a script in the person's place."""
    settings = yaml.safe_load((ROOT / "examples" / "manual.yaml").read_text())
    settings |= {"max_iterations": 2, "checkpoint_interval": 2}
    settings["prompt"]["template_dir"] = str(ROOT / "sim" / "search" / "prompts")
    process = start(tmp_path, settings)
    queue, seen = tmp_path / "out" / "manual_tasks_queue", []

    def person() -> None:
        while process.poll() is None:
            for task in queue.glob("*.json") if queue.exists() else ():
                reply = task.with_suffix(".answer.json")
                if task.name.endswith(".answer.json") or reply.exists():
                    continue
                asked = json.loads(task.read_text())
                seen.append(asked["display_prompt"])
                text = rewrite(500 + len(seen)).text
                reply.write_text(json.dumps({"answer": text(asked["messages"][-1]["content"])}))
            time.sleep(0.05)

    answering = threading.Thread(target=person)
    answering.start()
    finish(process)
    answering.join()
    assert len(seen) == len(sources(tmp_path)) == 2
    assert "block.last_access" in seen[0], "the contract is in the task"
    assert "# Current Program" in seen[0]


@pytest.mark.parametrize(
    ("llm", "proxied", "message"),
    [
        ({"timeout": 60}, {}, r"llm.timeout is 60 s.*Fix: llm.timeout: 660"),
        ({"api_base": "https://api.openai.com/v1"}, {}, r"Fix: llm.api_base: http://127.0.0.1:18572/v1"),
        (
            {"models": [{"name": "a"}, {"name": "b", "api_base": "http://127.0.0.1:1/v1"}]},
            {},
            "no api_base in llm.models",
        ),
        ({}, {"cap_usd": 1.0, "prices": {"other": {"input": 1, "output": 1}}}, "'m' has no price"),
    ],
)
def test_configurations_that_would_lose_money_are_refused(tmp_path, llm, proxied, message):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(3, llm, {"upstream": "https://api.example/v1", **proxied})))
    with pytest.raises((EndpointError, ValueError), match=message):
        ensure_endpoint(path)


def test_a_proxy_in_front_of_itself_does_not_start(tmp_path, capfd):
    settings = config(3, {}, {"upstream": "http://127.0.0.1:1/v1"})
    settings["kvevolve"]["llm"]["upstream"] = settings["llm"]["api_base"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(EndpointError, match="did not start"):
        ensure_endpoint(tmp_path / "config.yaml")
    assert "the proxy itself" in capfd.readouterr().err
