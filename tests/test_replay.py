"""Replay: which recorded answer is given, and real runs of the engine: recorded, ended by a cap, replayed, by hand."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import yaml
from fake_model import Say, diff, full, serving
from test_proxy import KEY, LINE, PRICES, PROGRAM, request

from sim.cli import command
from sim.cli import replay as replay_verb
from sim.rundir import RunDir, resolve_config
from sim.search import prompt as prompts
from sim.search.endpoint import EndpointError, ensure_endpoint
from sim.search.llm import record
from sim.search.llm.ending import reason
from sim.search.llm.proxy import Proxy, Refused
from sim.search.llm.replay import Replay, UsedUp
from sim.search.llm.server import PORT, serve
from sim.search.llm.settings import LlmSettings
from sim.search.settings import BadSettings

ROOT = Path(__file__).resolve().parent.parent


def child(number: int) -> str:
    return f"    return block.released + {number}.0 * min(block.seen, 3)"


def entry(call: int, response: str, body: dict | None = None, **more: object) -> dict[str, Any]:
    body = body or request()
    facts = {"call": call, "request": record.digest(body), "body": body, "response": response}
    return facts | {"outcome": "answered"} | more


OTHER = PROGRAM.replace(LINE, "    return block.last_access")


def given(replay: Replay, body: dict) -> tuple[int, str]:
    found = replay.answer(record.digest(body), prompts.read(body["messages"][-1]["content"]))
    return found.call, found.match


def test_exact_answers_come_in_the_order_of_their_request():
    entries = [entry(3, diff(LINE, child(3))), entry(1, diff(LINE, child(1))), entry(2, "x", request(seed=1))]
    replay = Replay([*entries, entry(4, "", outcome="error"), entry(5, "", outcome="capped")])
    assert [given(replay, request()) for _ in range(2)] == [(1, "exact"), (3, "exact")]
    assert given(replay, request(seed=1)) == (2, "exact")
    with pytest.raises(UsedUp, match="used up: 3 exact, 0 applied, 0 carried, 0 left"):
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
        told = "2 calls: 1 capped, 1 replayed (1 exact); 0 tokens, 0.0000 USD"
        assert record.summary(record.read(recording)) == told


# ---- the engine ------------------------------------------------------------------------------------------------------

EVALUATOR = f"""
import json
import sys
sys.path.insert(0, {str(ROOT)!r})
from sim.search.endpoint import ensure_endpoint
ENDPOINT = ensure_endpoint()
from sim.policy.program import Policy


def evaluate(path):
    policy = Policy.from_file(path)
    with open("scored.jsonl", "a") as file:
        print(json.dumps(policy.source.strip()), file=file)
    score = 0.2 + sum(literal.value for literal in policy.literals) % 97 / 300
    facts = {{"complexity_nodes": float(policy.nodes), "evictions_per_access": score / 2}}
    return facts | {{"combined_score": score, "capacity_tilt": score / 3, "refused_share": 0.0}}
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
    command = [Path(sys.executable).parent / "openevolve-run", "initial_program.py", "evaluator.py", "-o", "out"]
    command += ["--config", "config.yaml"]
    variables = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"PYTHONPATH": str(folder)}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=variables, text=True, **streams)


def finish(process: subprocess.Popen[str]) -> str:
    log = process.communicate(timeout=300)[1]
    assert process.returncode == 0, log[-3000:]
    return log


def children(folder: Path) -> list[str]:
    """Return every program the engine scored, but for the seed."""
    lines = (folder / "scored.jsonl").read_text().splitlines()
    return sorted(json.loads(line) for line in lines[1:])


NUMBERS = itertools.count(400, 100)


def another_number(prompt: str) -> str:
    """Answer with a constant that was never there."""
    shown = prompts.read(prompt)
    assert shown is not None
    line = next(line for line in shown.parent.splitlines() if "return" in line)
    return diff(line, child(next(NUMBERS)))


def test_a_run_is_recorded_ends_at_its_cap_and_is_replayed_without_the_model(tmp_path):
    proxied = {"cap_usd": 0.034, "prices": PRICES, "objective": "toy:Objective", "polish_evaluations": 20}
    with serving(Say(another_number)) as model:
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
    assert len(children(tmp_path / "first")) == len(answered), "every paid answer is scored"
    assert (run / "best" / "best_program.py").exists()
    assert all(KEY not in path.read_text(errors="replace") for path in run.glob("llm*"))

    replayed = config(50, {"max_tokens": 500}, {"replay": "../first/out/llm.jsonl"})
    finish(start(tmp_path / "second", replayed))
    again = record.read(tmp_path / "second" / "out" / "llm.jsonl")
    assert [found["outcome"] for found in again] == ["replayed"] * len(answered) + ["capped"]
    assert again[0]["match"] == "exact"
    assert {found["of"] for found in again[:-1]} == {found["call"] for found in answered}, "each answer once"
    assert children(tmp_path / "second") == children(tmp_path / "first"), "the same programs"


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
                reply.write_text(json.dumps({"answer": another_number(asked["messages"][-1]["content"])}))
            time.sleep(0.05)

    answering = threading.Thread(target=person)
    answering.start()
    finish(process)
    answering.join()
    assert len(seen) == len(children(tmp_path)) == 2
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
            "no api_base in",
        ),
        ({}, {"cap_usd": 1.0, "prices": {"other": {"input": 1, "output": 1}}}, "'m' has no price"),
    ],
)
def test_configurations_that_would_lose_money_are_refused(tmp_path, llm, proxied, message):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(3, llm, {"upstream": "https://api.example/v1", **proxied})))
    with pytest.raises((EndpointError, ValueError), match=message):
        ensure_endpoint(path)


def test_a_proxy_in_front_of_itself_does_not_start(tmp_path):
    settings = LlmSettings(upstream=f"http://localhost:{PORT}/v1")
    with pytest.raises(BadSettings, match="the proxy itself"):
        serve(PORT, settings, tmp_path)


def test_a_replay_needs_neither_key_nor_vendor(tmp_path):
    recorded = config(3, {"max_tokens": 500}, {"upstream": "https://api.example/v1", "cap_usd": 1.0, "prices": PRICES})
    recorded["llm"]["models"][0] |= {"api_base": "https://api.example/v1", "api_key": KEY}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recorded))
    offline = replay_verb.offline(tmp_path / "config.yaml", tmp_path / "llm.jsonl")
    assert KEY not in str(offline)
    assert "api.example" not in str(offline)
    settings = LlmSettings.from_mapping(offline["kvevolve"]["llm"])
    assert (settings.replay, settings.upstream) == (str(tmp_path / "llm.jsonl"), "")
    assert offline["llm"]["max_tokens"] == 500
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    (tmp_path / "offline.yaml").write_text(yaml.safe_dump(offline))
    resolved = resolve_config(tmp_path / "offline.yaml", run, None, None)
    assert resolved["llm"]["api_base"] != offline["llm"]["api_base"], "runs share no proxy"


def test_paths_of_a_config_are_relative_to_it(tmp_path):
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    resolved = resolve_config(ROOT / "examples" / "proxy.yaml", run, 10, None)
    assert resolved["prompt"]["template_dir"] == str(ROOT / "sim" / "search" / "prompts")
    assert urlsplit(resolved["llm"]["api_base"]).port != PORT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "nowhere"], "name a run directory or its llm.jsonl"),
        (["replay", "."], "holds no call"),
        (["proxy", "--config", "config.yaml"], "no section kvevolve.llm"),
        (["proxy", "--upstream", "https://a/v1", "--price", "m=3"], "write MODEL=INPUT,OUTPUT"),
        (["proxy", "--upstream", "https://a/v1", "--cap-usd", "3"], "needs prices"),
        (["proxy", "--replay", "config.yaml"], "line 1: no entry of a recording"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("llm.jsonl").touch()
    Path("config.yaml").write_text("llm: {}\n")
    assert command.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_the_proxy_by_hand(tmp_path):
    port = free_port()
    with serving(Say(diff(LINE, child(7)))) as model:
        arguments = ["proxy", "--upstream", model.url, "--port", str(port), "--polish", "0", "--price", "m=2,8"]
        line = [sys.executable, "-m", "sim.cli", *arguments, "--run-dir", str(tmp_path)]
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "0 tokens, 0.0000 USD used so far" in process.stdout.readline()
            assert f"http://127.0.0.1:{port}/v1" in process.stdout.readline()
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=2)
            body = request()
            answer = client.chat.completions.create(**body)
            assert child(7) in (answer.choices[0].message.content or "")
            assert answer.usage is not None
            assert answer.usage.total_tokens == 1100
            with pytest.raises(openai.BadRequestError, match="`n` must be 1"):
                client.chat.completions.create(**body, n=2)
            process.terminate()
    assert record.read(tmp_path / "llm.jsonl")[0]["cost_usd"] == pytest.approx(0.0028)
    assert model.keys == [f"Bearer {KEY}"]
