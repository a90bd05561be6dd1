"""Answers from a recording in the place of a model.

OpenEvolve is not reproducible: its islands are sets and its workers race, so a repeated run soon draws other parents
and asks other requests. In this order, each recorded answer used once:

1. exact: the same request was recorded; the nth time it comes, the nth answer to it;
2. applied: the next unused answer whose change applies to the program now shown and gives an admissible, changed one;
3. carried: the next unused answer whose recorded child is admissible and not the program now shown: that child.

Knows entries of a recording, prompts and replies; must not know HTTP or files.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sim.policy.program import Policy
from sim.search import prompt as prompts
from sim.search.llm import replies
from sim.search.llm.record import Entry
from sim.search.llm.replies import Unusable
from sim.search.prompt import CannotAnswer, Prompt
from sim.search.service import BadRequest, Request

MATCHES = ("exact", "applied", "carried")


class UsedUp(RuntimeError):
    """The recording has no answer left that fits."""


@dataclass(frozen=True)
class Found:
    """An answer: its text, how it was found (`MATCHES`) and the recorded call it is from."""

    text: str
    match: str
    call: int


class Replay:
    """The answers of a recording; safe to use from several threads."""

    def __init__(self, entries: list[Entry]) -> None:
        """Offer the answered calls, in recorded order."""
        self._unused = [entry for entry in entries if entry.get("outcome") in ("answered", "replayed")]
        self._unused.sort(key=lambda entry: int(entry.get("call", 0)))
        self._lock = threading.Lock()
        self.matches: Counter[str] = Counter()

    def answer(self, request: str, prompt: Prompt | None) -> Found:
        """Return the answer to a request, given its digest and the program it shows.

        Raises:
            UsedUp: If there is none.
        """
        with self._lock:
            for entry in self._unused:
                if entry["request"] == request:
                    return self._use(entry, entry["response"], "exact")
            if prompt is None:
                raise UsedUp("the recording has no answer to a request that shows no program")
            for entry in self._unused:
                if _applies(prompt, entry):
                    return self._use(entry, entry["response"], "applied")
            for entry in self._unused:
                text = _carried(prompt, entry)
                if text is not None:
                    return self._use(entry, text, "carried")
            found = ", ".join(f"{self.matches[name]} {name}" for name in MATCHES)
            raise UsedUp(f"the recording is used up: {found}, {len(self._unused)} left that fit nowhere")

    def _use(self, entry: Entry, text: str, match: str) -> Found:
        self._unused.remove(entry)
        self.matches[match] += 1
        return Found(text, match, int(entry.get("call", 0)))


def _applies(prompt: Prompt, entry: Entry) -> bool:
    try:
        replies.program(prompt, entry["response"])
    except Unusable:
        return False
    return True


def _carried(prompt: Prompt, entry: Entry) -> str | None:
    child = _child(entry)
    if child is None or child.source == prompt.parent:
        return None
    try:
        return prompts.answer(prompt, child.source, f"The program of recorded call {entry.get('call')}.")
    except CannotAnswer:
        return None


def _child(entry: Entry) -> Policy | None:
    body: Any = entry.get("body")
    try:
        recorded = prompts.read(Request.read(body).user)
        return replies.program(recorded, entry["response"]) if recorded else None
    except (BadRequest, Unusable):
        return None
