"""The service behind the endpoint: one chat completion, from the request's body to the reply's.

Knows prompts, the operator and the tuner; must not know HTTP or processes. Every call is recorded as one JSON line.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim import jsonlines
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.search import prompt as prompts
from sim.search.genome import fingerprint
from sim.search.memory import Memory, mark_of, recall
from sim.search.operator import NoChild, Operator, Partner, Proposal, temperature_size
from sim.search.prompt import Prompt
from sim.search.settings import Settings
from sim.search.tuner import Objective, TuningFailed, tune

MODELS = ("kvevolve-gp", "kvevolve-random", "kvevolve-tune")
"""Genetic programming, with the best parents tuned now and then; draws from the grammar; every answer tuned. Any
other name means the first."""

MIN_TUNE_EVALUATIONS = 8
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
        self.operator = Operator(settings.max_nodes)
        memory = recall(run_dir, RECORD) if resumed and run_dir is not None else Memory()
        self.operator.seen |= memory.seen
        self.calls: Counter[str] = memory.calls
        self.passes_left: float = max(0.0, settings.tune_total - memory.spent)
        self.tuned: set[str] = memory.tuned
        self.best = memory.best
        self._objective: Objective | None = None
        self._operating, self._tuning, self._writing = threading.Lock(), threading.Lock(), threading.Lock()

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
        with self._operating:
            self._remember(prompt)
            entry["best"] = self.best if math.isfinite(self.best) else None
            champion = self._champion(prompt) if request.model != "kvevolve-random" else None
            lucky = rng.random() < self.settings.tune_fraction
            wants_tuning = request.model == "kvevolve-tune" or (champion is not None and lucky)
            if wants_tuning and champion is not None:
                entry["tuned"] = [fingerprint(champion.source)]
                self.tuned.update(entry["tuned"])
            proposal = self._propose(request, prompt, rng)
        entry.update(moves=list(proposal.moves), attempts=proposal.attempts, novel=proposal.novel)
        policy = self._tune(champion, proposal, rng, entry) if wants_tuning else proposal.policy
        entry.update(child=fingerprint(policy.source), nodes=policy.nodes, source=policy.source)
        return prompts.answer(prompt, policy.source, f"Moves: {', '.join(proposal.moves)}.")

    def _remember(self, prompt: Prompt) -> None:
        """Count what a prompt shows as proposed, and note the best score."""
        self.best = max([self.best, *_scores(prompt)])
        shown = (prompt.parent, *(partner.source for partner in prompt.partners))
        self.operator.seen |= {mark for source in shown if (mark := mark_of(source)) is not None}

    def _propose(self, request: Request, prompt: Prompt, rng: random.Random) -> Proposal:
        if request.model == "kvevolve-random":
            return self.operator.draw(prompt.parent, rng)
        size = temperature_size(request.temperature)
        try:
            return self.operator.propose(prompt.parent, prompt.partners, rng, size, prompt.fitness)
        except NoChild:
            for partner in prompt.partners:  # text outside the block is broken: continue from a whole partner
                if _admitted(partner):
                    return self.operator.propose(partner.source, prompt.partners, rng, size)
            raise

    def _tune(self, champion: Policy | None, proposal: Proposal, rng: random.Random, entry: dict[str, Any]) -> Policy:
        """Return the parent tuned, if it is the best so far and was not tuned before; else the proposal tuned."""
        with self._tuning:
            budget = min(self.settings.tune_evaluations, self.passes_left)
            start = champion or proposal.policy
            if budget < MIN_TUNE_EVALUATIONS or not start.literals:
                entry["tuning"] = {"skipped": "no literals" if not start.literals else "budget of the run is spent"}
                return proposal.policy
            seconds = self.settings.tune_seconds
            try:
                result = tune(start, self._load_objective(), budget, rng.getrandbits(31), deadline_s=seconds)
            except TuningFailed as error:
                entry["tuning"] = {"failed": repr(error.__cause__ or error)}
                return proposal.policy
            self.passes_left -= result.passes
            mark = fingerprint(result.policy.source)
            of_parent = start is not proposal.policy
            self.tuned.add(mark)
            entry["tuning"] = {
                "of": "parent" if of_parent else "child",
                "evaluations": result.evaluations,
                "passes": round(result.passes, 3),
                "start_score": result.start_score,
                "score": result.score,
                "left": round(self.passes_left, 3),
            }
        with self._operating:
            known = mark in self.operator.seen
            self.operator.seen.add(mark)
        return proposal.policy if of_parent and known else result.policy

    def _champion(self, prompt: Prompt) -> Policy | None:
        """Return the parent if no program shown in the run scores more and it was not tuned before."""
        if prompt.fitness is None or prompt.fitness < self.best:
            return None
        try:
            policy = Policy.from_source(prompt.parent)
        except PolicyRejected:
            return None
        return policy if policy.literals and fingerprint(prompt.parent) not in self.tuned else None

    def _load_objective(self) -> Objective:
        if self._objective is None:
            module, _, name = self.settings.objective.partition(":")
            factory: Callable[[], Objective] = getattr(importlib.import_module(module), name)
            self._objective = factory()
        return self._objective

    def _record(self, entry: dict[str, Any]) -> None:
        if self.run_dir is None:
            return
        with self._writing:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            jsonlines.append(self.run_dir / RECORD, entry)


def _scores(prompt: Prompt) -> list[float]:
    shown = [prompt.fitness, *(partner.score for partner in prompt.partners)]
    return [score for score in shown if score is not None and math.isfinite(score)]


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
