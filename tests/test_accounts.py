"""Accounts of a run behind the proxy: costs, caps, worst cases, restarts; settings and the record they rest on."""

from __future__ import annotations

import json
import threading
import time

import pytest
from fake_model import Say, serving
from test_proxy import GOOD, PRICES, ask, entries, proxy, request

from sim.search.llm import record
from sim.search.llm.accounts import Accounts, CapReached, Usage
from sim.search.llm.ending import reason
from sim.search.llm.proxy import Proxy
from sim.search.llm.proxy import Refused as Ended
from sim.search.llm.record import BadRecording, Record
from sim.search.llm.settings import LlmSettings
from sim.search.llm.upstream import UpstreamError
from sim.search.service import BadRequest
from sim.search.settings import BadSettings

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


def test_what_a_full_disk_tore_takes_no_whole_line_with_it(tmp_path):
    (tmp_path / record.NAME).write_text('{"request": "a", "call": 1}\n')
    kept = Record(tmp_path)
    with (tmp_path / record.NAME).open("ab") as file:
        file.write(b'{"request": "b", "ca')
    kept.write({"request": "c", "call": 3})
    lines = (tmp_path / record.NAME).read_bytes().splitlines()
    assert [json.loads(line)["request"] for line in (lines[0], lines[2])] == ["a", "c"]
    with pytest.raises(BadRecording, match=r"llm\.jsonl, line 2: .*fix: remove the line"):
        Record(tmp_path)


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
