"""Rows of the store from records of the logs: OpenEvolve's trace, the operator's, the journal's, the models'.

Knows the logs' fields and the tables; must not know files or how rows belong together.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sim.history import texts
from sim.history.record import Malformed, as_json, flag, mapping, number, text, whole
from sim.score import LOWEST

ORIGINS = ("log", "parent", "best", "checkpoint", "database", "trace")
"""Where a child was found; a later one knows more."""

CODES, SAID = ("parent_code", "child_code"), ("llm_response",)
"""Fields of OpenEvolve's trace whose texts are kept once, as programs and as texts."""

_REJECTED_AT = re.compile(r"rejected at stage (\w+)")
_FINDING = re.compile(r"^- (?:line \d+: )?(.*?)(?:\. Fix: .*)?$", re.MULTILINE)
_OPERATOR_FIELDS = {"time", "seconds", "call", "request", "model", "kind", "moves", "attempts", "novel", "fitness"}
_OPERATOR_FIELDS |= {"source", "error", "tuning"}
_LLM_FIELDS = {"time", "seconds", "call", "request", "model", "body", "response", "usage", "cost_usd", "polish"}


class Rows:
    """Inserts; what is there already stays."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Write into an open transaction."""
        self.connection = connection

    def program(self, source: str | None) -> str | None:
        """Keep the text of a program and return its sha."""
        if source is None:
            return None
        mark = texts.sha(source)
        if not self.connection.execute("SELECT 1 FROM programs WHERE sha = ?", (mark,)).fetchone():
            row = (mark, source, texts.fingerprint(source), texts.structure(source))
            self.connection.execute("INSERT INTO programs VALUES (?, ?, ?, ?)", row)
        return mark

    def text(self, content: str | None) -> str | None:
        """Keep a prompt or an answer and return its sha."""
        if content is None:
            return None
        mark = texts.sha(content)
        self.connection.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (mark, content))
        return mark

    def trace(self, place: int, record: dict[str, Any]) -> None:
        """Keep a line of OpenEvolve's trace, and its child."""
        child_id = text(record, "child_id")
        if not child_id:
            raise Malformed("child_id is missing")
        self.child("trace", {
            "id": child_id, "iteration": whole(record, "iteration"), "time": number(record, "timestamp"),
            "parent_id": text(record, "parent_id"), "sha": self.program(text(record, "child_code")),
            "generation": whole(record, "generation"), "island": whole(record, "island_id"),
            "answer_sha": self.text(text(record, "llm_response")),
        }, mapping(record, "child_metrics"), mapping(record, "artifacts"), mapping(record, "metadata"))  # fmt: skip
        packed = dict(record)
        packed |= {key: self.program(text(record, key)) for key in CODES if key in record}
        packed |= {key: self.text(text(record, key)) for key in SAID if key in record}
        if mapping(record, "artifacts") is not None:
            packed["artifacts"] = self.text(json.dumps(record["artifacts"]))
        prompt = mapping(record, "prompt")
        if prompt is not None:
            packed["prompt"] = {key: self.text(text(prompt, key)) for key in prompt}
        mapping(record, "parent_metrics")
        row = (place, child_id, json.dumps(packed))
        self.connection.execute("INSERT OR IGNORE INTO trace VALUES (?, ?, ?)", row)

    def child(
        self,
        origin: str,
        row: dict[str, Any],
        metrics: Mapping[str, Any] | None,
        artifacts: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a child; one found before stays unless it was found where less is known."""
        stored = self.connection.execute("SELECT origin FROM children WHERE id = ?", (row["id"],)).fetchone()
        if stored and ORIGINS.index(stored[0]) >= ORIGINS.index(origin):
            return
        kept = dict(row) | outcome(metrics or {}, artifacts) | {
            "origin": origin, "metrics": as_json(metrics or {}), "artifacts_sha": self.text(as_json(artifacts)),
            "metadata": as_json(metadata), "migrant": int(bool((metadata or {}).get("migrant"))),
        }  # fmt: skip
        self._insert("children", kept, "REPLACE")

    def operator(self, place: int, record: dict[str, Any]) -> None:
        """Keep a call of the keyless operator, and the tuning it did."""
        moves = record.get("moves")
        if moves is not None and not isinstance(moves, list):
            raise Malformed(f"moves is {moves!r}, not a list")
        error = text(record, "error")
        proposal = self._insert("proposals", {
            "log": "operator", "place": place, "call": whole(record, "call"), "time": number(record, "time"),
            "seconds": number(record, "seconds"), "model": text(record, "model"),
            "kind": text(record, "kind") or "policy", "request": text(record, "request"), "moves": as_json(moves),
            "attempts": whole(record, "attempts"), "novel": flag(record, "novel"),
            "parent_score": number(record, "fitness"), "sha": self.program(text(record, "source")),
            "failure": "error" if error else None, "error": error,
            "details": as_json({key: record[key] for key in record.keys() - _OPERATOR_FIELDS}),
        })  # fmt: skip
        tuning = mapping(record, "tuning")
        if tuning is not None:
            self._tuning(proposal, number(record, "time"), text(tuning, "of"), tuning)

    def llm(self, place: int, record: dict[str, Any]) -> None:
        """Keep a call of a model, and the polish of its answer."""
        from sim.history.answers import read

        usage = mapping(record, "usage") or {}
        outcome, response = text(record, "outcome"), text(record, "response")
        asked = read(mapping(record, "body") or {})
        source, refusal = asked.program_of(response or "")
        failed = outcome in ("error", "capped")
        failure = "error" if failed else "no valid diff" if refusal and asked.kind == "policy" else None
        error = (text(record, "error") or response or outcome) if failed else refusal
        proposal = self._insert("proposals", {
            "log": "llm", "place": place, "call": whole(record, "call"), "time": number(record, "time"),
            "seconds": number(record, "seconds"), "model": text(record, "model"), "kind": asked.kind,
            "request": text(record, "request"), "sha": None if failed else self.program(source),
            "parent_score": asked.fitness, "answer_sha": self.text(response),
            "prompt_sha": self.text(asked.user), "system_sha": self.text(asked.system),
            "prompt_tokens": whole(usage, "prompt_tokens"), "completion_tokens": whole(usage, "completion_tokens"),
            "cost_usd": number(record, "cost_usd"), "failure": failure, "error": error,
            "details": as_json({key: record[key] for key in record.keys() - _LLM_FIELDS}),
        })  # fmt: skip
        polish = mapping(record, "polish")
        if polish is not None:
            self._tuning(proposal, number(record, "time"), "answer", polish)

    def evaluation(self, log: str, place: int, record: dict[str, Any]) -> None:
        """Keep an evaluation of the journal."""
        metrics, artifacts = mapping(record, "metrics") or {}, mapping(record, "artifacts")
        hits = record.get("hit_tokens")
        if hits is not None and not isinstance(hits, list):
            raise Malformed(f"hit_tokens is {hits!r}, not a list")
        source = text(record, "source")
        found = outcome(metrics, artifacts)
        found["stage"] = text(record, "stage") or found["stage"]
        self._insert("evaluations", found | {
            "log": log, "place": place, "time": number(record, "time"),
            "sha": self.program(source) if source is not None else text(record, "source_sha"),
            "panel": text(record, "panel"), "metrics": as_json(metrics), "artifacts_sha": self.text(as_json(artifacts)),
            "seconds": number(record, "seconds"), "cpu_seconds": number(record, "cpu_seconds"),
            "refs": whole(record, "refs"), "hit_tokens": as_json(hits), "cached": flag(record, "cached"),
            "behaviour": behaviour(found["stage"], metrics, artifacts, hits),
        })  # fmt: skip

    def _tuning(self, proposal: int | None, time: float | None, of: str | None, record: dict[str, Any]) -> None:
        if proposal is None:
            return
        self._insert("tunings", {
            "proposal_id": proposal, "time": time, "of": of, "evaluations": whole(record, "evaluations") or 0,
            "start_score": number(record, "start_score"), "score": number(record, "score"),
            "details": as_json(record),
        })  # fmt: skip

    def _insert(self, table: str, row: Mapping[str, Any], otherwise: str = "IGNORE") -> int | None:
        """Insert a row and return its number; None if it was there."""
        names = ", ".join(row)
        places = ", ".join("?" * len(row))
        statement = f"INSERT OR {otherwise} INTO {table} ({names}) VALUES ({places})"
        cursor = self.connection.execute(statement, tuple(row.values()))
        return cursor.lastrowid if cursor.rowcount > 0 else None


def outcome(metrics: Mapping[str, Any], artifacts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return score, validity, the stage an evaluation ended at, and the reason if it was not the panel."""
    score, valid = number(metrics, "combined_score"), metrics.get("valid")
    said = str((artifacts or {}).get("rejection") or "")
    if said or valid in (0, 0.0):
        at = _REJECTED_AT.match(said)
        return {"score": score, "valid": 0, "stage": at[1] if at else "rejected", "reason": finding(said)}
    if score is not None and score <= LOWEST:  # what ran on all cells scores more
        reason = "hits less than half of what LRU does in the first cell"
        return {"score": score, "valid": 1, "stage": "smoke", "reason": reason}
    if score is None:
        return {"score": None, "valid": None, "stage": None, "reason": None}
    return {"score": score, "valid": 1, "stage": "panel", "reason": None}


def finding(rejection: str) -> str | None:
    """Return the first finding of a rejection, without its line and its fix."""
    found = _FINDING.search(rejection)
    return found[1] if found else rejection or None


def behaviour(
    stage: str | None, metrics: Mapping[str, Any], artifacts: Mapping[str, Any] | None, hits: list[Any] | None
) -> str | None:
    """Return what is equal for programs that hit the same in every cell; None if not all cells were run."""
    if stage != "panel":
        return None
    cells = (artifacts or {}).get("cells")
    return _digest(json.dumps(hits) if hits else str(cells) if cells else json.dumps(dict(metrics), sort_keys=True))


@lru_cache(64)
def _digest(content: str) -> str:
    return texts.sha(content)[:16]
