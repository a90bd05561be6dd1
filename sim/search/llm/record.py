"""The record of a run's calls, `llm.jsonl`: appended, read back after a restart, keys struck out.

One line per request of the engine: {"call", "time" (epoch s), "request": digest of the body as it came, "model",
"body": as sent on, "response": text answered, "usage": {"prompt_tokens", "completion_tokens"} of all that was sent for
it, "reported": whether the endpoint said so (else the most it can have been), "cost_usd" (null without a price),
"seconds", "outcome": answered | error | capped | replayed, "polish", and where they apply "error", "repair", "proposal"
(the model's text where the answer differs), "match" and "of" (replay)}. A request that was sent and not yet recorded
stands in `llm_sent.jsonl`, so that a kill hides no cost. Knows files; must not know HTTP or policies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sim import jsonlines
from sim.search.llm.accounts import Usage

NAME, SENT = "llm.jsonl", "llm_sent.jsonl"
STRUCK_OUT = "[API key]"
_SHORTEST_SECRET = 8
_LOGGER = logging.getLogger(__name__)

Entry = dict[str, Any]


class BadRecording(ValueError):
    """A file is no recording of calls; the message names file, line and fix."""


def digest(body: Any) -> str:
    """Return what identifies a request: a hash of its body, whatever the order of keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> list[Entry]:
    """Return the entries of a recording; a last line cut off by a kill is left out.

    Raises:
        BadRecording: If the file cannot be read, or another line is no entry.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadRecording(f"{path}: {error.strerror}; fix: name a run directory or its {NAME}") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
            if number == len(lines):
                continue
        if not isinstance(entry, dict) or not isinstance(entry.get("request"), str):
            raise BadRecording(f"{path}, line {number}: no entry of a recording; fix: remove the line")
        entries.append(entry)
    return entries


def used(entries: list[Entry]) -> Usage:
    """Return what the recorded calls used; replayed ones cost nothing."""
    total = Usage()
    for entry in entries:
        if entry.get("outcome") == "replayed":
            continue
        tokens = entry.get("usage") or {}
        prompt, completion = (int(tokens.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
        total += Usage(prompt, completion, float(entry.get("cost_usd") or 0.0))
    return total


def summary(entries: list[Entry]) -> str:
    """Return what became of the calls, what they used, and how replayed ones were matched."""
    total = used(entries)
    outcomes = Counter(str(entry.get("outcome")) for entry in entries)
    text = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    matches = Counter(str(entry["match"]) for entry in entries if "match" in entry)
    if matches:
        text += f" ({', '.join(f'{count} {name}' for name, count in sorted(matches.items()))})"
    prices = [entry.get("cost_usd") for entry in entries]
    cost = f"{total.cost_usd:.4f} USD" if None not in prices else "no price given"
    tuned = sum(int((entry.get("polish") or {}).get("evaluations") or 0) for entry in entries)
    tuning = f", {tuned} evaluations for constants" if tuned else ""
    return f"{len(entries)} calls: {text}; {total.tokens:,} tokens, {cost}{tuning}"


class Record:
    """The open record of a run; safe to use from several threads, one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Continue the record in a folder.

        Raises:
            BadRecording: If what is there is no recording.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._sent = folder / NAME, folder / SENT
        self._lock = threading.Lock()
        self.entries: list[Entry] = read(self.path) if self.path.exists() else []
        self._cut_tail()
        self._calls = max((int(entry.get("call", 0)) for entry in self.entries), default=0)
        self._settle_sent()

    def number(self) -> int:
        """Return the number of the next call, from 1."""
        with self._lock:
            self._calls += 1
            return self._calls

    def sending(self, call: int, request: str, model: str, worst: Usage) -> None:
        """Note that a request is about to be sent, and the most it may use."""
        entry = {"call": call, "request": request, "model": model, **vars(worst)}
        with self._lock:
            jsonlines.append(self._sent, entry)

    def write(self, entry: Entry, secret: str = "") -> None:
        """Append an entry, with `secret` struck out wherever it stands."""
        entry = struck_out(entry, secret)
        with self._lock:
            jsonlines.append(self.path, entry)

    def _cut_tail(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            return
        _LOGGER.warning("%s: the last line was cut off by a kill and is dropped", self.path)
        with self.path.open("r+b") as file:
            file.truncate(whole)
        self.entries = read(self.path)

    def _settle_sent(self) -> None:
        """Count requests that were sent, but whose end nobody recorded, at the most they may have used."""
        sent = read(self._sent) if self._sent.exists() else []
        known = {entry.get("call") for entry in self.entries}
        open_: dict[int, Usage] = {}
        last = {entry["call"]: entry for entry in sent if entry["call"] not in known}
        for entry in sent:
            if entry["call"] in last:
                worst = Usage(entry["prompt_tokens"], entry["completion_tokens"], entry["cost_usd"])
                open_[entry["call"]] = open_.get(entry["call"], Usage()) + worst
        for call, worst in open_.items():
            found = {
                "call": call,
                "time": round(time.time(), 3),
                "request": last[call]["request"],
                "model": last[call]["model"],
                "usage": {"prompt_tokens": worst.prompt_tokens, "completion_tokens": worst.completion_tokens},
                "reported": False,
                "cost_usd": worst.cost_usd,
                "outcome": "error",
                "polish": None,
                "error": "the proxy ended before the answer came; counted at the most it can have used",
            }
            jsonlines.append(self.path, found)
            self.entries.append(found)
        self._calls = max([self._calls, *open_])
        self._sent.unlink(missing_ok=True)


def struck_out(value: Any, secret: str) -> Any:
    """Return a text, or whatever holds texts, without a secret; too short a one is none ("none", for example)."""
    if len(secret) < _SHORTEST_SECRET:
        return value
    if isinstance(value, str):
        return value.replace(secret, STRUCK_OUT)
    if isinstance(value, dict):
        return {struck_out(key, secret): struck_out(item, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [struck_out(item, secret) for item in value]
    return value
