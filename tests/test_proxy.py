"""The proxy in front of a model: answers, repair, polish, errors, accounts and caps, the record."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fake_model import Say, diff, full, serving
from openevolve.config import Config
from openevolve.prompt.sampler import PromptSampler
from openevolve.utils.code_utils import apply_diff, parse_full_rewrite

from sim.policy.program import Policy
from sim.search.llm.objective import IsolatedObjective, Refused
from sim.search.llm.proxy import Proxy
from sim.search.llm.settings import LlmSettings
from sim.search.llm.upstream import UpstreamError

KEY = "sk-very-secret-0123456789"
PROGRAM = '''"""A seed."""

# EVOLVE-BLOCK-START
def priority(block, cache):
    return block.released + 300.0 * min(block.seen, 3)
# EVOLVE-BLOCK-END
'''
LINE = "    return block.released + 300.0 * min(block.seen, 3)"
BETTER = "    return block.last_access - 0.5 * min(block.gap, 40.0)"
PRICES = {"m": {"input": 2.0, "output": 8.0}}
GOOD = diff(LINE, BETTER)
BAD = diff(LINE, "    return block.freshness")


class NearSixty:
    """Likes literals near 60."""

    def score(self, policy: Policy) -> float:
        return self.of_literals(policy)([literal.value for literal in policy.literals])

    def of_literals(self, policy: Policy):
        return lambda values: -sum(abs(value - 60.0) for value in values) / 100


class Refusing(NearSixty):
    def score(self, policy: Policy) -> float:
        raise Refused("rejected at stage run")


def request(program: str = PROGRAM, mode: str = "diff", **more: object) -> dict:
    user = PromptSampler(Config().prompt).build_prompt(
        current_program=program, program_metrics={"combined_score": 0.5}, diff_based_evolution=mode == "diff"
    )["user"]
    messages = [{"role": "system", "content": "contract"}, {"role": "user", "content": user}]
    return {"model": "m", "messages": messages, "max_tokens": 500, "temperature": 0.7, **more}


def proxy(folder: Path, url: str, **values: object) -> Proxy:
    known = {"upstream": url, "polish_evaluations": 0, "retries": 0, "polish_seconds": 1e6}
    known |= {"objective": f"{__name__}:NearSixty"}
    return Proxy(LlmSettings.from_mapping(known | values), folder)


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "llm.jsonl").read_text().splitlines()]


def text(reply: dict) -> str:
    return reply["choices"][0]["message"]["content"]


def ask(served: Proxy, body: dict | None = None) -> str:
    return text(served.complete(body or request(), f"Bearer {KEY}"))


def test_an_answer_passes_through_and_is_recorded_without_the_key(tmp_path):
    with serving(Say(GOOD), Say(f"your key {KEY} is fine")) as model:
        served = proxy(tmp_path, model.url)
        assert ask(served) == GOOD
        other = {"model": "m", "messages": [{"role": "user", "content": f"my key is {KEY}"}]}
        assert ask(served, other) == f"your key {KEY} is fine"
    assert model.keys == [f"Bearer {KEY}"] * 2
    first, second = entries(tmp_path)
    assert first["body"] == model.bodies[0] == request(stream=False)
    assert (first["call"], first["outcome"], first["response"], first["model"]) == (1, "answered", GOOD, "m")
    assert first["usage"] == {"prompt_tokens": 1000, "completion_tokens": 100}
    assert first["cost_usd"] is None
    assert first["polish"] is None
    assert second["response"] == "your key [API key] is fine"
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize(("mode", "bad", "good"), [("diff", BAD, GOOD), ("rewrite", "no code", full(PROGRAM + "#"))])
def test_a_refused_program_goes_back_once_with_the_findings(tmp_path, mode, bad, good):
    with serving(Say(bad), Say(good)) as model:
        assert ask(proxy(tmp_path, model.url), request(mode=mode)) == good
    *before, refused, told = model.bodies[1]["messages"]
    assert before == model.bodies[0]["messages"]
    assert refused == {"role": "assistant", "content": bad}
    assert ("block.freshness" if mode == "diff" else "no code block") in told["content"]
    (entry,) = entries(tmp_path)
    assert entry["repair"]["refused"] == bad
    assert entry["usage"] == {"prompt_tokens": 2000, "completion_tokens": 200}, "both requests are paid for"


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (diff("    return nothing like it", BETTER), "no SEARCH matches"),
        ("<<<<<<< SEARCH\nx\n=======\n=======\ny\n>>>>>>> REPLACE", "delimiter"),
        ("I would rather not.", "no SEARCH/REPLACE block"),
        (diff(LINE, LINE), "unchanged"),
        (diff("", BETTER), "empty"),
        (diff(LINE, "    import os"), "Fix"),
    ],
)
def test_what_cannot_be_repaired_is_answered_as_it_came(tmp_path, answer, finding):
    with serving(Say(answer)) as model:
        assert ask(proxy(tmp_path, model.url)) == answer
        assert len(model.bodies) == 2
        assert ask(proxy(tmp_path / "no", model.url, repair=False)) == answer
        assert len(model.bodies) == 3
    (entry,) = entries(tmp_path)
    assert finding in str(entry["repair"]["findings"])
    assert entry["repair"]["still"] == entry["repair"]["findings"]


def test_a_failed_repair_leaves_the_first_answer(tmp_path):
    with serving(Say(BAD), Say("out of order", status=500)) as model:
        assert ask(proxy(tmp_path, model.url)) == BAD
    (entry,) = entries(tmp_path)
    assert entry["outcome"] == "answered"
    assert "out of order" in entry["repair"]["error"]


@pytest.mark.parametrize("mode", ["diff", "rewrite"])
def test_constants_are_tuned_and_the_answer_keeps_its_form(tmp_path, mode):
    child = PROGRAM.replace(LINE, BETTER)
    with serving(Say(GOOD if mode == "diff" else full(child))) as model:
        served = proxy(tmp_path, model.url, polish_evaluations=40, polish_total=60)
        answer = ask(served, request(mode=mode))
        tuned = apply_diff(PROGRAM, answer) if mode == "diff" else parse_full_rewrite(answer)
        ask(served, request(mode=mode))
    facts = entries(tmp_path)[0]["polish"]
    assert facts["score"] > facts["start_score"]
    assert facts["evaluations"] <= 40
    policy = Policy.from_source(tuned)
    assert NearSixty().score(policy) == pytest.approx(facts["score"])
    assert [literal.value for literal in policy.literals] != [0.5, 40.0]
    assert entries(tmp_path)[0]["proposal"] == (GOOD if mode == "diff" else full(child))
    assert entries(tmp_path)[1]["polish"] is None, "the same program again is not tuned twice"
    assert Proxy(served.settings, tmp_path).polisher.left == 60 - facts["evaluations"], "a restart keeps the budget"


def test_a_program_that_cannot_be_scored_is_left_to_the_evaluator(tmp_path):
    with serving(Say(GOOD)) as model:
        served = proxy(tmp_path, model.url, polish_evaluations=40, objective=f"{__name__}:Refusing")
        assert ask(served) == GOOD
    assert entries(tmp_path)[0]["polish"] == {"evaluations": 1, "failed": "rejected at stage run"}


def test_a_request_about_no_program_passes_through(tmp_path):
    with serving(Say("NOVEL")) as model:
        served = proxy(tmp_path, model.url, polish_evaluations=40)
        assert ask(served, {"model": "m", "messages": [{"role": "user", "content": "NOVEL or NOT_NOVEL?"}]}) == "NOVEL"


# ---- the endpoint's manners ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("say", "status", "message"),
    [
        (Say("bad key", status=401), 401, "llm.api_key"),
        (Say("unknown model", status=404), 404, "llm.models"),
        (Say("context too long", status=400), 400, "400: context too long"),
        (Say("only stream mode", status=400), 400, "kvevolve.llm.stream: true"),
        (Say("overloaded", status=503), 503, "after 1 attempts"),
        (Say("", status=302, headers={"Location": "http://127.0.0.1:1/"}), 502, "redirected|cannot be reached"),
        (Say(raw=b"<html>welcome</html>"), 502, "no JSON but"),
        (Say(raw=b'{"error": {"message": "quota"}}'), 502, "but an error: quota"),
        (Say(raw=b'{"choices": []}'), 502, "no chat completion"),
        (Say(raw=b"[]"), 502, "no chat completion"),
        (Say(raw=b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}'), 502, "max_tokens"),
        (Say(raw=b"data: {\n\n"), 502, "stream is no JSON"),
        (Say(raw=b'data: {"error": {"message": "lost"}}\n\n'), 502, "stream off: lost"),
        (Say(raw=b"x", headers={"Content-Length": "9999"}), 502, "broke the connection off|no JSON"),
        (Say(GOOD, wait_s=1.5), 504, "timeout_s"),
    ],
)
def test_errors_of_the_endpoint_are_told_in_words(tmp_path, say, status, message):
    with serving(say) as model:
        served = proxy(tmp_path, model.url, timeout_s=0.7)
        with pytest.raises(UpstreamError, match=message) as caught:
            ask(served)
    assert caught.value.status == status
    (entry,) = entries(tmp_path)
    assert (entry["outcome"], entry["response"]) == ("error", None)


def test_an_endpoint_that_is_not_there(tmp_path):
    with serving() as model:
        url = model.url
    with pytest.raises(UpstreamError, match="cannot be reached"):
        ask(proxy(tmp_path, url))


def test_a_key_an_error_quotes_is_struck_out(tmp_path, capsys):
    with (
        serving(Say(f"Incorrect API key provided: {KEY}", status=401)) as model,
        pytest.raises(UpstreamError, match=r"provided: \[API key\]") as caught,
    ):
        ask(proxy(tmp_path, model.url))
    assert KEY not in str(caught.value) + capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} >= {"llm.jsonl", "stop.json"}
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_streams_is_understood(tmp_path, stream):
    with serving(Say(GOOD, stream=True)) as model:
        assert ask(proxy(tmp_path, model.url, stream=stream)) == GOOD
    assert model.bodies[0]["stream"] is stream
    assert entries(tmp_path)[0]["usage"] == {"prompt_tokens": 1000, "completion_tokens": 100}


def test_busy_endpoints_are_asked_again_after_the_pause_they_name(tmp_path):
    busy = Say("slow down", status=429, headers={"Retry-After": "0.2"})
    with serving(busy, Say("", status=500, headers={"retry-after-ms": "5"}), Say(GOOD)) as model:
        began = time.monotonic()
        assert ask(proxy(tmp_path, model.url, retries=2)) == GOOD
        assert time.monotonic() - began >= 0.2
    assert len(model.bodies) == 3
    assert entries(tmp_path)[0]["usage"]["prompt_tokens"] == 1000, "refusals cost nothing"


def test_a_pause_beyond_the_patience_is_not_waited_for(tmp_path):
    with (
        serving(Say("slow down", status=429, headers={"Retry-After": "3600"})) as model,
        pytest.raises(UpstreamError, match=r"slow down.*in 3600 s"),
    ):
        ask(proxy(tmp_path, model.url, retries=3, patience_s=5))
    assert len(model.bodies) == 1


# ---- tuning in isolation --------------------------------------------------------------------------------------------


def test_the_isolated_objective_scores_as_the_evaluator_does_and_survives_what_spins():
    from sim.evaluation import Evaluator
    from sim.isolation import Limits

    evaluator = Evaluator("train", "synthetic", Limits(wall_s=60.0, cpu_s=2.0, memory_bytes=1 << 30))
    try:
        objective = IsolatedObjective(evaluator)
        policy = Policy.from_source(PROGRAM.replace(LINE, BETTER))
        wanted = evaluator.evaluate_source(policy.source, advice=False).metrics["combined_score"]
        assert objective.of_literals(policy)([0.5, 40.0]) == objective.score(policy) == wanted
        spin = "def spin0(x):\n    return x\n"
        for k in range(1, 9):
            loop = f"for i in range(64):\n        y += spin{k - 1}(x + i)"
            spin += f"def spin{k}(x):\n    y = 0.0\n    {loop}\n    return y\n"
        spin += "def priority(block, cache):\n    return spin8(block.released)\n"
        with pytest.raises(Refused, match="time"):
            objective.score(Policy.from_source(spin))
        assert objective.score(policy) == wanted
    finally:
        evaluator.close()
