"""The proxy in front of a model: answers, repair, polish, errors, accounts and caps, the record."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from fake_model import FENCE, Say, diff, full, serving
from openevolve.config import Config
from openevolve.prompt.sampler import PromptSampler
from openevolve.utils.code_utils import apply_diff, parse_full_rewrite

from sim.policy.program import Policy
from sim.search import system_message
from sim.search.llm import record
from sim.search.llm.accounts import Accounts, CapReached, Usage
from sim.search.llm.ending import reason
from sim.search.llm.objective import IsolatedObjective, Refused
from sim.search.llm.proxy import Proxy
from sim.search.llm.proxy import Refused as Ended
from sim.search.llm.record import BadRecording, Record
from sim.search.llm.settings import LlmSettings
from sim.search.llm.upstream import UpstreamError
from sim.search.service import BadRequest
from sim.search.settings import BadSettings

KEY = "sk-very-secret-0123456789"
PROGRAM = '''"""A seed."""

# EVOLVE-BLOCK-START
def priority(block, cache):
    return block.released + 300.0 * min(block.seen, 3)
# EVOLVE-BLOCK-END
'''
LINE = "    return block.released + 300.0 * min(block.seen, 3)"
BETTER = "    return block.last_access - 0.5 * min(block.gap, 40.0)"
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


# ---- accounts and caps -----------------------------------------------------------------------------------------------

PRICES = {"m": {"input": 2.0, "output": 8.0}}
COST = (1000 * 2.0 + 100 * 8.0) / 1e6


def test_costs_are_counted_and_a_cap_holds_over_a_restart(tmp_path):
    with serving(Say(GOOD)) as model:
        served = proxy(tmp_path, model.url, prices=PRICES, cap_usd=4.5 * COST + 0.01)
        worst = 0.0
        for n in range(3):
            ask(served, request(seed=n))
            worst = max(worst, served.accounts.used.cost_usd)
        assert worst == pytest.approx(3 * COST)
        again = proxy(tmp_path, model.url, prices=PRICES, cap_usd=3 * COST + 0.0001)
        with pytest.raises(Ended, match=r"cap of 0\.01 USD \(cap_usd\) is reached: 0\.0084 are spent"):
            ask(again)
        with pytest.raises(Ended):
            ask(again)
    assert len(model.bodies) == 3, "nothing was sent that could have broken the cap"
    assert "cap_usd" in reason(tmp_path)
    assert [entry["outcome"] for entry in entries(tmp_path)] == ["answered"] * 3 + ["capped"]
    assert [entry["call"] for entry in entries(tmp_path)] == [1, 2, 3, 4]
    assert entries(tmp_path)[0]["cost_usd"] == pytest.approx(COST)
    proxy(tmp_path, model.url)
    assert reason(tmp_path) == "", "a run that goes on has not been ended"


def answers(served: Proxy) -> bool:
    try:
        return bool(ask(served))
    except Ended:
        return False


def test_missing_usage_counts_as_the_worst_case(tmp_path):
    with serving(Say(GOOD, usage=None)) as model:
        served = proxy(tmp_path, model.url, cap_tokens=10_000)
        ask(served)
        bytes_sent = sum(len(message["content"]) for message in request()["messages"])
        assert served.accounts.used.tokens >= bytes_sent + 500
        answered = next(n for n in range(9) if not answers(served))
    assert answered <= 3
    assert "cap of 10,000 tokens" in reason(tmp_path)
    assert entries(tmp_path)[0]["reported"] is False
    assert sum(entry["usage"]["prompt_tokens"] for entry in entries(tmp_path)) <= 10_000


def test_a_timeout_may_be_billed_and_is_counted(tmp_path):
    with serving(Say(GOOD, wait_s=1.0)) as model:
        served = proxy(tmp_path, model.url, timeout_s=0.3)
        with pytest.raises(UpstreamError):
            ask(served)
    assert served.accounts.used.tokens > 500


def test_a_request_that_was_sent_before_a_kill_is_counted(tmp_path):
    killed = Record(tmp_path)
    killed.sending(killed.number(), "abc", "m", Usage(700, 50, 0.5))
    killed.sending(1, "abc", "m", Usage(900, 50, 0.5))
    with (tmp_path / "llm.jsonl").open("ab") as file:
        file.write(b'{"call": 1, "request": "abc", "usa')
    found = Record(tmp_path)
    assert record.used(found.entries) == Usage(1600, 100, 1.0)
    assert "the proxy ended" in entries(tmp_path)[0]["error"]
    assert found.number() == 2
    assert len(Record(tmp_path).entries) == 1, "counted once"


def test_concurrent_requests_wait_for_each_other_under_a_cap_and_never_break_it(tmp_path):
    settings = LlmSettings(upstream="http://127.0.0.1:1/v1", cap_tokens=1000)
    accounts, worst, peak, capped = Accounts(settings, Usage()), Usage(200, 100), [0], []

    def work() -> None:
        for _ in range(8):
            try:
                accounts.reserve(worst)
            except CapReached:
                capped.append(1)
                continue
            time.sleep(0.001)
            accounts.settle(worst, Usage(50, 10))
            peak[0] = max(peak[0], accounts.used.tokens)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert accounts.used.tokens <= 1000
    assert accounts.used.tokens == 12 * 60, "as many as fit: the next could take 300"
    assert len(capped) == 32 - 12


@pytest.mark.parametrize(
    ("more", "message"),
    [({"max_tokens": None}, "llm.max_tokens"), ({"n": 2}, "`n` must be 1"), ({"stream": True}, "stream")],
)
def test_requests_that_could_break_a_cap_are_refused(tmp_path, more, message):
    with serving(Say(GOOD)) as model, pytest.raises(BadRequest, match=message):
        ask(proxy(tmp_path, model.url, cap_tokens=100_000), request(**more))
    assert not model.bodies


def test_a_model_without_a_price_ends_a_run_with_a_cap_in_usd(tmp_path):
    with serving(Say(GOOD)) as model:
        served = proxy(tmp_path, model.url, cap_usd=1.0, prices=PRICES)
        with pytest.raises(BadSettings, match=r"'other' has no price. Fix: prices: {other:"):
            ask(served, request(model="other"))
    assert not model.bodies
    assert "has no price" in reason(tmp_path)


@pytest.mark.parametrize(("say", "sent"), [(Say("bad key", status=401), 1), (Say("oops", status=400), 3)])
def test_hopeless_endpoints_end_the_run(tmp_path, say, sent):
    with serving(say) as model:
        served = proxy(tmp_path, model.url, max_failures=3)
        for _ in range(6):
            with pytest.raises((UpstreamError, Ended)):
                ask(served)
    assert len(model.bodies) == sent
    assert str(say.text) in reason(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either upstream"),
        ({"upstream": "https://a/v1", "replay": "x"}, "either upstream"),
        ({"upstream": "a.example"}, "give a base URL"),
        ({"upstream": "https://me:secret@a.example/v1"}, "llm.api_key"),
        ({"upstream": "https://a/v1", "cap_tokns": 3}, "did you mean cap_tokens"),
        ({"upstream": "https://a/v1", "cap_usd": 3}, "needs prices"),
        ({"upstream": "https://a/v1", "cap_usd": -1}, "negative"),
        ({"upstream": "https://a/v1", "cap_tokens": "many"}, "whole number"),
        ({"upstream": "https://a/v1", "repair": 1}, "true or false"),
        ({"upstream": "https://a/v1", "timeout_s": float("nan")}, "above 0"),
        ({"upstream": "https://a/v1", "prices": {"m": 3}}, "input: USD"),
        ({"upstream": "https://a/v1", "prices": {"m": {"input": "x", "output": 1}}}, "give a number"),
        ({"upstream": "https://a/v1", "prices": {"m": {"input": -1, "output": 1}}}, "negative"),
        ([], "must be a mapping"),
    ],
)
def test_wrong_settings_are_refused_with_the_fix(values, message):
    with pytest.raises(BadSettings, match=message):
        LlmSettings.from_mapping(values)


def test_settings_survive_the_way_to_the_process():
    given = LlmSettings.from_mapping({"upstream": "https://a/v1", "cap_usd": 2, "prices": PRICES, "seed": 7})
    assert LlmSettings.from_mapping(json.loads(given.to_json())) == given


@pytest.mark.parametrize("line", ["{", "[]", '{"call": 1}'])
def test_a_broken_record_is_refused_with_its_line(tmp_path, line):
    (tmp_path / "llm.jsonl").write_text(f'{{"request": "a", "call": 1}}\n{line}\n{{"request": "b"}}\n')
    with pytest.raises(BadRecording, match="line 2"):
        Record(tmp_path)


# ---- tuning in isolation, prompts ------------------------------------------------------------------------------------


def test_the_isolated_objective_scores_as_the_evaluator_does_and_survives_what_spins():
    from sim.evaluation import Evaluator
    from sim.isolation import Limits

    evaluator = Evaluator("train", "synthetic", Limits(wall_s=60.0, cpu_s=2.0, memory_bytes=1 << 30))
    try:
        objective = IsolatedObjective(evaluator)
        policy = Policy.from_source(PROGRAM.replace(LINE, BETTER))
        wanted = evaluator.evaluate_source(policy.source, advice=False).metrics["combined_score"]
        assert objective.of_literals(policy)([0.5, 40.0]) == objective.score(policy) == wanted
        loops = "".join(f"{'    ' * (k + 1)}for i{k} in range(64):\n" for k in range(6))
        spin = f"def priority(block, cache):\n    y = 0.0\n{loops}{'    ' * 7}y += block.hits\n    return y\n"
        with pytest.raises(Refused, match="time"):
            objective.score(Policy.from_source(spin))
        assert objective.score(policy) == wanted
    finally:
        evaluator.close()


@pytest.mark.parametrize("name", ["capacity_aware", "session_state"])
def test_worked_examples_are_admissible(name):
    from sim.check import check_policy

    assert check_policy(Policy.from_source(system_message.worked(name))) == []
    assert system_message.worked(name).strip() in system_message.system_message()


ARTIFACTS = {"cells": "trace capacity_blocks", "weakest_cell": "trace t", "rank_among_baselines": "1. vllm"}


@pytest.mark.parametrize("diffs", [True, False])
def test_own_templates_carry_what_was_measured_and_are_lean(diffs):
    config = Config().prompt
    config.template_dir = str(system_message.PROMPTS)
    shown = {
        "id": "a",
        "code": PROGRAM,
        "metrics": {"combined_score": 0.1, "valid": 1.0},
        "metadata": {"changes": "Change 1: Replace"},
    }

    def build() -> str:
        return PromptSampler(config).build_prompt(
            current_program=PROGRAM,
            program_metrics={"combined_score": 0.5, "worst_trace": 0.1},
            previous_programs=[shown],
            top_programs=[shown],
            inspirations=[shown | {"id": "b"}],
            program_artifacts=ARTIFACTS,
            feature_dimensions=["complexity_nodes"],
            diff_based_evolution=diffs,
        )["user"]

    user = build()
    for part in (*ARTIFACTS.values(), "Fitness: 0.5000", "worst_trace: 0.1000", "complexity_nodes", PROGRAM):
        assert part in user
    from sim.search import prompt as prompts

    read = prompts.read(user)
    assert read is not None
    assert (read.mode, read.parent, read.fitness) == ("diff" if diffs else "rewrite", PROGRAM, 0.5)
    assert [partner.source.strip() for partner in read.partners] == [PROGRAM.strip()] * 2
    config.template_dir = None
    assert len(user) < len(build())
    assert "{" not in user.replace(PROGRAM, "")
    assert user.count(FENCE) % 2 == 0
