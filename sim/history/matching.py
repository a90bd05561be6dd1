"""Which proposal became which child, which evaluation it had, and so what came of every proposal.

By the answer's text, then by program, layout, and for tuned answers numbers left aside; children whose text no log has
by time and size. Knows the tables; must not know files.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from sim.history.rows import behaviour

_SLACK_S = 1.0
"""A child is stored at most so long before its proposal, by the clocks of two logs."""
_NEAR_S = 0.1
"""The engine's log says to this when an iteration began and ended."""
_DECIMALS = 4
"""Of the metrics in the engine's log."""


@dataclass
class _Child:
    id: str
    time: float | None
    sha: str | None
    fingerprint: str | None
    structure: str | None
    answer_sha: str | None
    began: float | None
    tokens: str | None
    metrics_json: str
    proposal: int | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.metrics_json)
        return found


@dataclass
class _Proposal:
    id: int
    time: float | None
    sha: str | None
    fingerprint: str | None
    structure: str | None
    answer_sha: str | None
    tuned: int
    nodes: float | None
    tokens: str | None
    child: _Child | None = None


def match(connection: sqlite3.Connection) -> None:
    """Fill `proposals.child_id` and what follows from it, and the evaluations of children."""
    children, proposals = _children(connection), _proposals(connection)
    keys: tuple[Callable[[Any], Hashable], ...] = (
        lambda item: item.answer_sha,
        lambda item: item.sha,
        lambda item: item.fingerprint,
    )
    for key in keys:
        _pair(proposals, children, key)
    _pair((proposal for proposal in proposals if proposal.tuned), children, lambda item: item.structure)
    for child in children:
        if child.sha is None:
            _recover(connection, child, proposals)
    for place, child in enumerate(child for child in children if child.proposal is None):
        _add_proposal(connection, child, place)
    _write(connection, proposals)
    _evaluate(connection)
    _judge(connection)
    _add_lost(connection)


def _pair(proposals: Iterable[_Proposal], children: list[_Child], key: Callable[[Any], Hashable]) -> None:
    """Pair those with equal keys in order of time; a child is stored after it was proposed."""
    waiting: dict[Hashable, list[_Child]] = defaultdict(list)
    for child in children:
        if child.proposal is None and key(child) is not None:
            waiting[key(child)].append(child)
    for proposal in proposals:
        if proposal.child is not None or key(proposal) is None:
            continue
        for child in waiting[key(proposal)]:
            early = child.time is not None and proposal.time is not None and child.time < proposal.time - _SLACK_S
            if child.proposal is None and not early:
                proposal.child, child.proposal = child, proposal.id
                break


def _recover(connection: sqlite3.Connection, child: _Child, proposals: list[_Proposal]) -> None:
    """Find the text of a child that only the engine's log names: the one program that fits in time and numbers."""
    if child.time is None or child.began is None:
        return
    begin, end = child.began - _NEAR_S, child.time + _NEAR_S
    wanted = {name: value for name, value in child.metrics.items() if value is not None}
    evaluated = connection.execute(
        "SELECT sha, metrics FROM evaluations WHERE sha IS NOT NULL AND time BETWEEN ? AND ?", (begin, end)
    ).fetchall()
    fitting = {
        sha
        for sha, metrics in evaluated
        if wanted and wanted == {name: _rounded(json.loads(metrics).get(name)) for name in wanted}
    }
    open_ones = [p for p in proposals if p.child is None and p.time is not None and begin <= p.time <= end]
    found = [
        p
        for p in open_ones
        if p.sha is not None
        and (None in (p.tokens, child.tokens) or p.tokens == child.tokens)
        and (p.sha in fitting if evaluated else p.nodes in (None, child.metrics.get("complexity_nodes")))
    ]
    if len(found) == 1:
        found[0].child, child.proposal, child.sha = child, found[0].id, found[0].sha
    elif len(fitting) == 1 and not found:
        child.sha = fitting.pop()
    if child.sha:
        connection.execute("UPDATE children SET sha = ? WHERE id = ?", (child.sha, child.id))


def _rounded(value: Any) -> float | None:
    return round(float(value), _DECIMALS) if isinstance(value, int | float) else None


def _add_proposal(connection: sqlite3.Connection, child: _Child, place: int) -> None:
    """Add the proposal of a child that no other log has; what the engine noted of it is known."""
    found = connection.execute("SELECT metadata, time FROM children WHERE id = ?", (child.id,)).fetchone()
    metadata = json.loads(found[0] or "{}")
    usage = metadata.get("token_usage") if isinstance(metadata.get("token_usage"), dict) else {}
    prompt = connection.execute("SELECT record FROM trace WHERE child_id = ?", (child.id,)).fetchone()
    shown = json.loads(prompt[0]).get("prompt") or {} if prompt else {}
    connection.execute(
        "INSERT INTO proposals (log, place, time, model, kind, sha, answer_sha, prompt_sha, system_sha, prompt_tokens,"
        " completion_tokens, details, child_id) VALUES ('engine', ?, ?, ?, 'policy', ?, ?, ?, ?, ?, ?, '{}', ?)",
        (place, child.began or found[1], usage.get("model"), child.sha, child.answer_sha, shown.get("user"),
         shown.get("system"), usage.get("prompt_tokens"), usage.get("completion_tokens"), child.id),
    )  # fmt: skip


def _write(connection: sqlite3.Connection, proposals: list[_Proposal]) -> None:
    connection.executemany(
        "UPDATE proposals SET child_id = ? WHERE id = ?", [(p.child.id, p.id) for p in proposals if p.child]
    )
    connection.execute(
        "UPDATE proposals SET iteration = (SELECT iteration FROM children WHERE id = child_id) WHERE child_id NOT NULL"
    )
    # the engine noted the tokens of answers that their own log has none of
    connection.execute(
        "UPDATE proposals SET prompt_tokens = json_extract(c.metadata, '$.token_usage.prompt_tokens'),"
        " completion_tokens = json_extract(c.metadata, '$.token_usage.completion_tokens') FROM children c"
        " WHERE c.id = proposals.child_id AND proposals.prompt_tokens IS NULL"
    )


def _evaluate(connection: sqlite3.Connection) -> None:
    """Give every child its evaluation of the journal; where there is none, one made from what the engine keeps."""
    journal: dict[str, list[tuple[int, float | None]]] = defaultdict(list)
    for number, sha, time in connection.execute("SELECT id, sha, time FROM evaluations ORDER BY time, id"):
        journal[sha].append((number, time))
    found = connection.execute(
        "SELECT c.id, c.sha, c.time, c.metrics, c.artifacts_sha, a.text, c.score, c.valid, c.stage, c.reason, c.origin"
        " FROM children c LEFT JOIN texts a ON a.sha = c.artifacts_sha"
        " WHERE NOT c.migrant ORDER BY c.time, c.id"
    ).fetchall()
    for place, (child_id, sha, time, metrics, said, artifacts, score, valid, stage, reason, origin) in enumerate(found):
        entries = journal.get(sha or "", [])
        known = entries.pop(0)[0] if len(entries) > 1 else entries[0][0] if entries else None
        if known is None:
            acts = behaviour(stage, _acts(json.loads(metrics)), json.loads(artifacts or "null"), None)
            known = connection.execute(
                "INSERT INTO evaluations (log, place, time, sha, stage, reason, valid, score, metrics, artifacts_sha,"
                " behaviour) VALUES ('engine', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (place, time, sha, stage, reason, valid, score, metrics, said, acts),
            ).lastrowid
        elif origin == "log":
            connection.execute(
                "UPDATE children SET (metrics, artifacts_sha, score, valid, stage, reason) = (SELECT metrics,"
                " artifacts_sha, score, valid, stage, reason FROM evaluations WHERE id = ?) WHERE id = ?",
                (known, child_id),
            )
        connection.execute("UPDATE children SET evaluation_id = ? WHERE id = ?", (known, child_id))


def _acts(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what a policy did; its size and the score that counts it are left out."""
    return {name: value for name, value in metrics.items() if name not in ("combined_score", "complexity_nodes")}


def _judge(connection: sqlite3.Connection) -> None:
    """Say what came of every proposal."""
    ended = connection.execute("SELECT max(time) FROM engine_events WHERE event IN ('start', 'end')").fetchone()[0]
    finished = connection.execute("SELECT 1 FROM facts WHERE name = 'provenance'").fetchone() is not None
    evaluated = {sha for (sha,) in connection.execute("SELECT sha FROM evaluations WHERE log = 'evaluations'")}
    seen: set[str] = {
        mark
        for (mark,) in connection.execute(
            "SELECT p.fingerprint FROM children c JOIN programs p USING (sha) WHERE c.parent_id IS NULL"
        )
        if mark
    }
    found = connection.execute(
        "SELECT p.id, p.kind, p.time, p.sha, p.failure, p.error, c.id, coalesce(e.stage, c.stage),"
        " coalesce(e.reason, c.reason), g.fingerprint FROM proposals p LEFT JOIN children c ON c.id = p.child_id"
        " LEFT JOIN evaluations e ON e.id = c.evaluation_id LEFT JOIN programs g ON g.sha = coalesce(c.sha, p.sha)"
        " ORDER BY coalesce(c.time, p.time), p.id"
    ).fetchall()
    judged = []
    for number, kind, time, sha, failure, error, child, stage, reason, mark in found:
        over = finished or (ended is not None and time is not None and ended > time)
        if child:
            came = "duplicate" if mark in seen else "stored" if stage == "panel" else "rejected"
            judged.append((came, stage, reason, number))
            seen |= {mark} if mark else set()
        elif kind != "policy":
            judged.append(("other", None, error or kind, number))
        elif failure:
            judged.append((failure, None, error, number))
        elif sha in evaluated:
            judged.append(("lost" if over else "pending", None, "evaluated, but not stored", number))
        else:
            judged.append(("lost" if over else "pending", None, "not evaluated", number))
    connection.executemany("UPDATE proposals SET outcome = ?, stage = ?, reason = ? WHERE id = ?", judged)


def _add_lost(connection: sqlite3.Connection) -> None:
    """Give the iterations the engine lost to the proposals without a child; add those that no other log has."""
    events = connection.execute(
        "SELECT log, place, time, iteration, reason, prompt_tokens, completion_tokens FROM engine_events"
        " WHERE event = 'error' ORDER BY time, place"
    ).fetchall()
    for place, (_, _, time, iteration, reason, prompt_tokens, completion_tokens) in enumerate(events):
        candidates = connection.execute(
            "SELECT id, outcome, error FROM proposals WHERE child_id IS NULL AND iteration IS NULL AND kind = 'policy'"
            " AND log != 'engine' AND (time IS NULL OR time <= ?) AND (prompt_tokens IS NULL OR ? IS NULL OR"
            " (prompt_tokens = ? AND completion_tokens = ?)) ORDER BY time DESC, id DESC",
            (time + _SLACK_S, prompt_tokens, prompt_tokens, completion_tokens),
        ).fetchall()
        alike = [number for number, _, error in candidates if error and error.rpartition("Error: ")[2] in reason]
        outcome = "error" if reason.startswith("LLM ") else "no valid diff"
        open_ones = ("error",) if outcome == "error" else ("lost", "pending")
        unknown = [number for number, came, _ in candidates if came in open_ones]
        chosen = (alike or unknown or [None])[0]
        if chosen is not None:
            connection.execute(
                "UPDATE proposals SET outcome = CASE WHEN failure IS NULL THEN ? ELSE outcome END, reason = ?,"
                " iteration = ? WHERE id = ?",
                (outcome, reason, iteration, chosen),
            )
            continue
        connection.execute(
            "INSERT INTO proposals (log, place, time, kind, prompt_tokens, completion_tokens, failure, error, details,"
            " outcome, reason, iteration) VALUES ('engine', ?, ?, 'policy', ?, ?, ?, ?, '{}', ?, ?, ?)",
            (-1 - place, time, prompt_tokens, completion_tokens, outcome, reason, outcome, reason, iteration),
        )


def _children(connection: sqlite3.Connection) -> list[_Child]:
    found = connection.execute(
        "SELECT c.id, c.time, c.sha, p.fingerprint, p.structure, c.answer_sha, e.time - e.seconds,"
        " e.prompt_tokens || '+' || e.completion_tokens, c.metrics FROM children c"
        " LEFT JOIN programs p ON p.sha = c.sha"
        " LEFT JOIN engine_events e ON e.event = 'stored' AND e.child_id = c.id"
        " WHERE NOT c.migrant AND c.parent_id NOT NULL"
        " ORDER BY c.time, c.id"
    )
    return [_Child(*row) for row in found]


def _proposals(connection: sqlite3.Connection) -> list[_Proposal]:
    found = connection.execute(
        "SELECT a.id, a.time, a.sha, p.fingerprint, p.structure, a.answer_sha,"
        " EXISTS (SELECT 1 FROM tunings t WHERE t.proposal_id = a.id), json_extract(a.details, '$.nodes'),"
        " a.prompt_tokens || '+' || a.completion_tokens"
        " FROM proposals a LEFT JOIN programs p ON p.sha = a.sha WHERE a.kind = 'policy' AND a.failure IS NULL"
        " ORDER BY a.time, a.id"
    )
    return [_Proposal(*row) for row in found]
