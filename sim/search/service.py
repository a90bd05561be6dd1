"""The service behind the endpoint: one chat completion, from the request's body to the reply's.

Knows prompts, the operator and the tuner; must not know HTTP or processes. Every call is recorded as one JSON line.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim import jsonlines
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.search import prompt as prompts
from sim.search.breeder import Breeder
from sim.search.genome import fingerprint
from sim.search.ledger import Ledger
from sim.search.operator import PLAIN_MOVES, NoChild, Operator, Partner, temperature_size
from sim.search.prompt import Prompt
from sim.search.recall import Recalled, mark_of, recall
from sim.search.settings import Settings
from sim.search.tuning import Tuning

MODELS = ("kvevolve-gp", "kvevolve-plain", "kvevolve-random", "kvevolve-tune")
"""The whole operator; the controls, plain genetic programming and draws from the grammar, which neither probe, screen,
restart nor tune; every answer tuned. Any other name means the first."""

CONTROLS = ("kvevolve-plain", "kvevolve-random")

RECORD = "operator.jsonl"


class BadRequest(ValueError):
    """The body is no chat-completion request this service understands."""


@dataclass(frozen=True)
class Request:
    """The part of a body that matters."""

    model: str
    system: str
    user: str
    temperature: float | None

    @classmethod
    def read(cls, body: Any) -> Request:
        """Check a body.

        Raises:
            BadRequest: If something is missing or of the wrong type.
        """
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list) or not messages:
            raise BadRequest("`messages` must be a list of messages")
        if body.get("stream"):
            raise BadRequest("streaming is not supported; set stream to false")
        texts: dict[str, list[str]] = {"system": [], "user": []}
        for message in messages:
            if not isinstance(message, dict) or "content" not in message:
                raise BadRequest("every message needs a role and a content")
            role = "system" if message.get("role") in ("system", "developer") else "user"
            texts[role].append(_text(message["content"]))
        temperature = body.get("temperature")
        if temperature is not None and (isinstance(temperature, bool) or not isinstance(temperature, int | float)):
            raise BadRequest("`temperature` must be a number")
        model = str(body.get("model") or MODELS[0])
        return cls(model, "\n".join(texts["system"]), "\n".join(texts["user"]), temperature)


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "\n".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise BadRequest("the content of a message must be text")
    return content


class Service:
    """Answers requests; safe to use from several threads."""

    def __init__(self, settings: Settings, run_dir: Path | None = None, resumed: bool = False) -> None:
        """Answer as `settings` say; record calls in `run_dir`, if given; `resumed` goes on from what is there."""
        self.settings, self.run_dir = settings, run_dir
        known = recall(run_dir, RECORD) if resumed and run_dir is not None else Recalled()
        self.tuning = Tuning(settings, known.spent)
        self.breeder = Breeder(settings, self.tuning)
        self.operator = Operator(settings.max_nodes, self.breeder.seen, PLAIN_MOVES)
        for source, score in known.programs.items():
            self.breeder.note(source, score)
        self.calls: Counter[str] = known.calls
        self.tuned: set[str] = known.tuned
        self.ended = False
        self._operating, self._writing = threading.Lock(), threading.Lock()

    def complete(self, body: Any) -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            BadRequest: If the body is malformed.
            CannotAnswer: If the engine's format cannot carry an answer.
            NoChild: If no policy fits the text around the block.
        """
        started = time.time()
        entry: dict[str, Any] = {"time": round(started, 3)}
        try:
            request = Request.read(body)
            rng = self._rng(body, entry)
            content = self._content(request, rng, entry)
        except Exception as error:
            entry["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            entry["seconds"] = round(time.time() - started, 4)
            self._record(entry)
        return _reply(request, content, started, entry["request"])

    def _rng(self, body: Any, entry: dict[str, Any]) -> random.Random:
        """Seed from the setting, the request and how often it came: the engine repeats requests with one seed."""
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        with self._operating:
            self.calls[digest] += 1
            entry.update(request=digest, repeat=self.calls[digest], call=self.calls.total())
        return random.Random(f"{self.settings.seed}/{digest}/{entry['repeat']}")

    def _content(self, request: Request, rng: random.Random, entry: dict[str, Any]) -> str:
        entry["model"] = request.model
        prompt = prompts.read(request.user)
        if prompt is None:
            entry["kind"], content = prompts.other_answer(request.system, request.user)
            return content
        entry.update(kind="policy", mode=prompt.mode, fitness=prompt.fitness, parent=mark_of(prompt.parent))
        self._remember(prompt, request.model)
        ledger = Ledger()
        entry["moves"] = ["tuned"]
        policy = self._tuned_champion(request.model, rng, entry)
        if policy is None:
            policy = self._child(request, prompt, rng, entry, ledger)
            if request.model == "kvevolve-tune" and "evaluations" not in entry.get("tuning", {}):
                policy = self._tune(policy, "child", rng, entry) or policy
        entry.update(child=fingerprint(policy.source), nodes=policy.nodes, source=policy.source, ends=ledger.to_dict())
        return prompts.answer(prompt, policy.source, f"Moves: {', '.join(entry['moves'])}.")

    def _remember(self, prompt: Prompt, model: str) -> None:
        """Note what a prompt shows, and its scores; for a control, that it is no news."""
        for partner in (*prompt.partners, Partner(prompt.parent, prompt.fitness)):
            if model in CONTROLS:
                self.breeder.see(partner.source)
            else:
                self.breeder.note(partner.source, partner.score)

    def _child(
        self, request: Request, prompt: Prompt, rng: random.Random, entry: dict[str, Any], ledger: Ledger
    ) -> Policy:
        """Return a child of the prompt's parent; of a whole partner if the text outside the block is broken."""
        try:
            return self._child_of(prompt.parent, request, prompt, rng, entry, ledger)
        except NoChild:
            for partner in prompt.partners:
                if request.model != "kvevolve-random" and _admitted(partner):
                    return self._child_of(partner.source, request, prompt, rng, entry, ledger)
            raise

    def _child_of(
        self, parent: str, request: Request, prompt: Prompt, rng: random.Random, entry: dict[str, Any], ledger: Ledger
    ) -> Policy:
        size = temperature_size(request.temperature)
        if request.model in CONTROLS:
            with self._operating:
                self.operator.ledger = ledger
                if request.model == "kvevolve-random":
                    proposal = self.operator.draw(parent, rng)
                else:
                    proposal = self.operator.propose(parent, prompt.partners, rng, size, prompt.fitness)
            entry.update(moves=list(proposal.moves), attempts=proposal.attempts, novel=proposal.novel)
            return proposal.policy
        child = self.breeder.breed(parent, prompt.partners, rng, size, ledger)
        entry.update(moves=list(child.moves), lineage=child.lineage, screened=child.screened)
        return child.policy

    def _tuned_champion(self, model: str, rng: random.Random, entry: dict[str, Any]) -> Policy | None:
        """Return the best program of the run with better constants; now and then, once each, if there are any."""
        lucky = rng.random() < self.settings.tune_fraction
        if model in CONTROLS or not (lucky or model == "kvevolve-tune"):
            return None
        with self._operating:
            best = self.breeder.memory.best()
            if best is None or best.mark in self.tuned:
                return None
            self.tuned.add(best.mark)
            entry["tuned"] = [best.mark]
        try:
            return self._tune(Policy.from_source(best.source), "champion", rng, entry)
        except PolicyRejected:
            return None

    def _tune(self, start: Policy, of: str, rng: random.Random, entry: dict[str, Any]) -> Policy | None:
        """Return a policy with better constants; None if there are none, or the budget is spent."""
        spent = self.tuning.polish(start, rng.getrandbits(31))
        entry["tuning"] = {"of": of, **spent.to_dict(), "left": round(self.tuning.left, 3)}
        if spent.result is None:
            return None
        mark = fingerprint(spent.result.policy.source)
        with self._operating:
            self.tuned.add(mark)
            known = mark in self.breeder.seen
            self.breeder.note(spent.result.policy.source, None, spent.result.score)
        return None if known else spent.result.policy

    def _record(self, entry: dict[str, Any]) -> None:
        if self.run_dir is None or (self.ended and "error" in entry):  # nobody waits; its helpers were ended under it
            return
        with self._writing:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            jsonlines.append(self.run_dir / RECORD, entry)


def _admitted(partner: Partner) -> bool:
    try:
        Policy.from_source(partner.source)
    except PolicyRejected:
        return False
    return True


def _reply(request: Request, content: str, started: float, digest: str) -> dict[str, Any]:
    asked, told = (len(request.system) + len(request.user)) // 4, len(content) // 4
    return {
        "id": f"chatcmpl-{digest}",
        "object": "chat.completion",
        "created": int(started),
        "model": request.model,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}},
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told},
    }
