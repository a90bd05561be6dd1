"""The proxy's service: one chat completion from the request's body to the reply's, through a model or a recording.

Knows requests, accounts, the record, repair and polish; must not know sockets or processes.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from sim.search import prompt as prompts
from sim.search.llm import record, replies, upstream
from sim.search.llm.accounts import Accounts, CapReached, Usage
from sim.search.llm.ending import Ending
from sim.search.llm.polish import Polisher
from sim.search.llm.record import Entry, Record
from sim.search.llm.replay import Replay, UsedUp
from sim.search.llm.replies import Unusable
from sim.search.llm.settings import LlmSettings
from sim.search.llm.upstream import UpstreamError
from sim.search.prompt import CannotAnswer, Prompt
from sim.search.service import BadRequest, Request
from sim.search.settings import BadSettings

_MESSAGE_TOKENS, _REQUEST_TOKENS = 16, 64
"""Tokens a chat template may add to a message and to a request; no vendor adds as many."""

REPAIR = """\
The program your answer makes is refused:
{findings}
Answer again, in the same format and for the same current program (not for your first answer), with this repaired."""


class Refused(RuntimeError):
    """The proxy will answer no more, and the run has been told to end."""


class Proxy:
    """Answers requests; safe to use from several threads."""

    def __init__(self, settings: LlmSettings, folder: Path, ending: Ending | None = None) -> None:
        """Record in a folder, and continue the accounts of what is recorded there.

        Raises:
            BadRecording: If the folder or `settings.replay` holds something else than a recording.
        """
        self.settings, self.ending = settings, ending or Ending(folder)
        self.replay = Replay(record.read(Path(settings.replay))) if settings.replay else None
        self.record = Record(folder)
        self.accounts = Accounts(settings, record.used(self.record.entries))
        self.polisher = Polisher(settings, spent=_polished(self.record.entries))
        self.failures = 0
        (folder / self.ending.path.name).unlink(missing_ok=True)

    def complete(self, body: Any, authorization: str = "") -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            BadRequest: If the body is malformed.
            Refused: If the run has been ended.
            UpstreamError: If the endpoint gives no answer.
        """
        request = Request.read(body)
        if body.get("n") not in (None, 1):
            raise BadRequest("`n` must be 1: one answer is accounted for")
        if self.ending.reason:
            self.ending.wait()
            raise Refused(self.ending.reason)
        call, refusal = _Call(self, body, request, authorization), ""
        try:
            with self.ending.answering():
                call.answer()
            self.failures = 0
        except (CapReached, UsedUp) as error:
            refusal = str(error)
            call.entry.update(outcome="capped", error=refusal)
        except Exception as error:
            error.args = (record.struck_out(str(error) or type(error).__name__, call.secret),)
            call.entry.update(outcome="error", error=str(error))
            self._failed(error)
            raise
        finally:
            call.finish()
        if refusal:
            self.ending.end(refusal)
            self.ending.wait()
            raise Refused(refusal)
        return call.reply()

    def _failed(self, error: Exception) -> None:
        """Count a failure, and end the run if the next request would fare no better."""
        self.failures += 1
        if isinstance(error, BadSettings) or (isinstance(error, UpstreamError) and error.fatal):
            self.ending.end(str(error))
        elif self.failures >= self.settings.max_failures:
            self.ending.end(f"{self.failures} requests in a row failed (max_failures), the last one: {error}")


def _polished(entries: list[Entry]) -> int:
    return sum(int((entry.get("polish") or {}).get("evaluations") or 0) for entry in entries)


class _Call:
    """One request of the engine and what became of it."""

    def __init__(self, proxy: Proxy, body: dict[str, Any], request: Request, authorization: str) -> None:
        self.proxy, self.request, self.authorization = proxy, request, authorization
        self.secret = authorization.rpartition(" ")[2]
        self.body: dict[str, Any] = {**body, "stream": proxy.settings.stream}
        if proxy.settings.stream:
            self.body["stream_options"] = {"include_usage": True}
        self.prompt: Prompt | None = prompts.read(request.user)
        self.usage, self.priced, self.text, self.finish_reason = Usage(), True, "", "stop"
        self.started = time.time()
        self.entry: Entry = {
            "call": proxy.record.number(),
            "time": round(self.started, 3),
            "request": record.digest(body),
            "model": request.model,
            "body": self.body,
            "response": None,
            "reported": True,
            "polish": None,
        }

    def answer(self) -> None:
        """Find the answer: in the recording, or from the model, repaired and polished."""
        if self.proxy.replay is not None:
            found = self.proxy.replay.answer(self.entry["request"], self.prompt)
            self.text = found.text
            self.entry.update(outcome="replayed", match=found.match, of=found.call)
            return
        self.text = self._ask(self.body)
        if self.prompt is not None:
            self._improve(self.prompt)
        self.entry["outcome"] = "answered"

    def _ask(self, body: dict[str, Any]) -> str:
        """Return the model's text; what it can cost at most is set aside first."""
        settings, accounts = self.proxy.settings, self.proxy.accounts
        worst = self._worst(body)
        accounts.reserve(worst)
        usage = worst
        try:
            self.proxy.record.sending(self.entry["call"], self.entry["request"], self.request.model, worst)
            answer = upstream.ask(body, self.authorization, settings)
            usage = self._reported(answer, worst)
        except UpstreamError as error:
            self.entry["reported"] &= not error.billed
            usage = worst if error.billed else Usage()
            raise
        finally:
            accounts.settle(worst, usage)
            self.usage += usage
        self.finish_reason = answer.finish_reason or "stop"
        if not answer.text.strip():
            cause = "its tokens went into thinking; raise llm.max_tokens" if self.finish_reason == "length" else ""
            raise UpstreamError(f"the model answers no text (finish_reason {self.finish_reason}) {cause}".rstrip())
        return answer.text

    def _worst(self, body: dict[str, Any]) -> Usage:
        """Return the most a request can use: no tokenizer gives more tokens than there are bytes."""
        limits = [body.get("max_tokens"), body.get("max_completion_tokens")]
        limit = next((value for value in limits if type(value) is int and value > 0), None)
        capped = self.proxy.settings.cap_usd or self.proxy.settings.cap_tokens
        if limit is None and capped:
            raise BadRequest("a cap is set, and the request has no max_tokens to hold it. Fix: set llm.max_tokens")
        texts = [str(message.get("content")) for message in body["messages"]]
        prompt = sum(len(text.encode(errors="replace")) + _MESSAGE_TOKENS for text in texts) + _REQUEST_TOKENS
        return self._priced(prompt, limit or 0)

    def _priced(self, prompt_tokens: int, completion_tokens: int) -> Usage:
        price = self.proxy.settings.price(self.request.model)
        self.priced = price is not None
        cost_usd = price.cost_usd(prompt_tokens, completion_tokens) if price else 0.0
        return Usage(prompt_tokens, completion_tokens, cost_usd)

    def _reported(self, answer: upstream.Answer, worst: Usage) -> Usage:
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            self.entry["reported"] = False
            return worst
        return self._priced(answer.prompt_tokens, answer.completion_tokens)

    def _improve(self, prompt: Prompt) -> None:
        """Replace the model's text: repaired once if its program is refused, then with tuned constants."""
        try:
            policy = replies.program(prompt, self.text)
        except Unusable as error:
            if not self.proxy.settings.repair or not self._repair(error):
                return
            try:
                policy = replies.program(prompt, self.text)
            except Unusable as again:
                self.entry["repair"]["still"] = again.findings
                return
        seed = random.Random(f"{self.proxy.settings.seed}/{self.entry['request']}").getrandbits(31)
        polished = self.proxy.polisher.polish(policy, seed)
        if polished is None:
            return
        self.entry["polish"] = polished.facts
        if polished.policy.source == policy.source:
            return
        before, after = polished.facts["start_score"], polished.facts["score"]
        remark = f"Constants tuned: {before:+.4f} to {after:+.4f} in {polished.facts['evaluations']} evaluations."
        try:
            tuned = prompts.answer(prompt, polished.policy.source, remark)
        except CannotAnswer as error:
            self.entry["polish"]["failed"] = str(error)
            return
        self.entry["proposal"], self.text = self.text, tuned

    def _repair(self, error: Unusable) -> bool:
        """Ask for another answer; return whether there is one."""
        told = REPAIR.format(findings="\n".join(f"- {finding}" for finding in error.findings))
        more = [{"role": "assistant", "content": self.text}, {"role": "user", "content": told}]
        self.entry["repair"] = {"findings": error.findings, "refused": self.text}
        try:
            self.text = self._ask({**self.body, "messages": [*self.body["messages"], *more]})
        except (UpstreamError, CapReached) as failure:
            self.entry["repair"]["error"] = str(failure)
            return False
        return True

    def finish(self) -> None:
        """Write the record."""
        usage = self.usage
        self.entry["response"] = self.text or None
        self.entry["usage"] = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        self.entry["cost_usd"] = round(usage.cost_usd, 9) if self.priced else None
        self.entry["seconds"] = round(time.time() - self.started, 4)
        self.proxy.record.write(self.entry, self.secret)

    def reply(self) -> dict[str, Any]:
        """Return the chat completion."""
        asked, told = self.usage.prompt_tokens, self.usage.completion_tokens
        message = {"role": "assistant", "content": self.text}
        return {
            "id": f"chatcmpl-{self.entry['request']}-{self.entry['call']}",
            "object": "chat.completion",
            "created": int(self.started),
            "model": self.request.model,
            "choices": [{"index": 0, "finish_reason": self.finish_reason, "message": message}],
            "usage": {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told},
        }
