"""Where a program comes from: its ancestors from the seed on, with what each step changed and gained.

Knows the tables; must not know how steps are shown.
"""

from __future__ import annotations

import difflib
import json
import re
import sqlite3
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

_DIFF_CONTEXT = 1
_REMEMBERED = {"leader", "restart"}
"""Moves of the operator that put another program in the place of the engine's parent."""
_TOKEN = re.compile(r"\w+(?:\.\w+)*|\S")


@dataclass(frozen=True)
class Step:
    """From a program to the next.

    Attributes:
        child_id: In the engine's database; "" for what was tuned at the end.
        iteration: None for the seed.
        island: Where it was stored.
        score: On the training panel.
        gain: Over its parent; None for the seed.
        by: What made it: moves of the operator, or the model.
        base: Iteration of the program it was made from, where that is not the engine's parent.
        migrated: Islands that its parent was copied to before.
        diff: Unified, from the parent; the whole text of the seed.
    """

    child_id: str
    iteration: int | None
    island: int | None
    score: float | None
    gain: float | None
    by: str
    base: int | None
    migrated: tuple[int, ...]
    diff: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"migrated": list(self.migrated)}


def best_child(connection: sqlite3.Connection) -> str | None:
    """Return the engine's id of the valid child with the best score; the earliest of equals."""
    found = connection.execute(
        "SELECT id FROM children WHERE valid AND score NOTNULL AND NOT migrant ORDER BY score DESC, time, id LIMIT 1"
    ).fetchone()
    return str(found[0]) if found else None


def winner(connection: sqlite3.Connection) -> tuple[str | None, Step | None]:
    """Return the child the winner is or stems from, and the step of the final tuning if there was one.

    The winner is the policy that `kvevolve evolve` chose on validation; without that, the best child.
    """
    sha = _fact(connection, "policy")
    if sha is None:
        return best_child(connection), None
    exact = connection.execute(
        "SELECT id FROM children WHERE sha = ? AND NOT migrant ORDER BY time, id LIMIT 1", (sha,)
    ).fetchone()
    if exact:
        return str(exact[0]), None
    start = connection.execute(
        "SELECT c.id, c.score, c.sha FROM children c JOIN programs p ON p.sha = c.sha JOIN programs t"
        " ON t.structure = p.structure WHERE t.sha = ? AND NOT c.migrant ORDER BY c.score DESC, c.time LIMIT 1",
        (sha,),
    ).fetchone()
    if start is None:
        return best_child(connection), None
    train = (_fact(connection, "provenance") or {}).get("train") or {}
    score = train.get("combined_score")
    gain = None if score is None or start[1] is None else score - start[1]
    diff = _diff(_source(connection, start[2]), _source(connection, sha))
    return str(start[0]), Step("", None, None, score, gain, "final tuning of the constants", None, (), diff)


def lineage(connection: sqlite3.Connection, child_id: str) -> list[Step]:
    """Return the steps from the first known ancestor to a child.

    The keyless operator varies the program the engine shows, or a better one that it remembers. Where its log does not
    name that (`base`, a fingerprint), the earlier program with the fewest other tokens is taken for it.
    """
    steps: list[Step] = []
    seen: set[str] = set()
    following: str | None = child_id
    while following is not None and following not in seen:
        seen.add(following)
        row = _row(connection, following)
        if row is None:
            break
        engines, migrated = _original(connection, row["parent_id"])
        base = _base(connection, row, engines)
        parent = _row(connection, base) if base else None
        steps.append(_step(row, parent, migrated if base == engines else (), base != engines))
        following = base
    return steps[::-1]


def _base(connection: sqlite3.Connection, row: dict[str, Any], engines: str | None) -> str | None:
    """Return the program that was varied to make a child; the engine's parent is the first choice."""
    details = json.loads(row["details"] or "{}")
    remembers = bool({"base", "screened"} & details.keys() or _REMEMBERED & set(json.loads(row["moves"] or "[]")))
    if not remembers or row["source"] is None or engines is None:
        return engines
    found = connection.execute(
        "SELECT c.id, p.source, p.fingerprint FROM children c JOIN programs p ON p.sha = c.sha"
        " WHERE NOT c.migrant AND c.time < ? AND c.valid ORDER BY c.id != ?, c.score DESC, c.time",
        (row["time"], engines),
    ).fetchall()
    named = details.get("base")
    if named is not None:
        return next((str(child) for child, _, mark in found if mark == named), engines)
    tokens = _tokens(row["source"])
    distances = {child: _distance(tokens, _tokens(source)) for child, source, _ in found}
    return min(distances, key=lambda child: distances[child], default=engines)


def _tokens(source: str) -> Counter[str]:
    return Counter(_TOKEN.findall(source))


def _distance(one: Counter[str], other: Counter[str]) -> int:
    return ((one - other) + (other - one)).total()


def _original(connection: sqlite3.Connection, child_id: str | None) -> tuple[str | None, tuple[int, ...]]:
    """Return what a migrated copy was copied from, and the islands it went to."""
    islands: list[int] = []
    seen: set[str] = set()
    while child_id is not None and child_id not in seen:
        seen.add(child_id)
        found = connection.execute(
            "SELECT migrant, parent_id, island FROM children WHERE id = ?", (child_id,)
        ).fetchone()
        if found is None or not found[0] or found[1] is None:
            break
        child_id = found[1]
        islands += [found[2]] if found[2] is not None else []
    return child_id, tuple(islands[::-1])


KNOWN = (
    "EXISTS (SELECT 1 FROM children o JOIN programs q ON q.sha = o.sha"
    " WHERE q.structure = g.structure AND o.time < c.time) AS known"
)
"""SQL: whether a child `c` with program `g` is an earlier one with other numbers."""


def _row(connection: sqlite3.Connection, child_id: str) -> dict[str, Any] | None:
    cursor = connection.execute(
        "SELECT c.id, c.iteration, c.island, c.score, c.time, c.parent_id, g.source, a.log, a.model, a.moves,"
        f" a.details, t.of, t.evaluations, {KNOWN} FROM children c LEFT JOIN programs g ON g.sha = c.sha"
        " LEFT JOIN proposals a ON a.child_id = c.id LEFT JOIN tunings t ON t.proposal_id = a.id AND t.evaluations > 0"
        " WHERE c.id = ? ORDER BY a.id LIMIT 1",
        (child_id,),
    )
    found = cursor.fetchone()
    return None if found is None else dict(zip((column[0] for column in cursor.description), found, strict=True))


def _step(row: dict[str, Any], parent: dict[str, Any] | None, migrated: tuple[int, ...], other: bool) -> Step:
    gain = None if parent is None or None in (row["score"], parent["score"]) else row["score"] - parent["score"]
    source = row["source"] or ""
    before = (parent or {}).get("source")
    diff = source if before is None else _diff(before, source)
    base = parent["iteration"] if parent and other else None
    return Step(row["id"], row["iteration"], row["island"], row["score"], gain, made_by(row), base, migrated, diff)


def made_by(row: dict[str, Any]) -> str:
    """Return what made a child; an operator that tuned a known program in its place says so."""
    moves = json.loads(row["moves"] or "null") or []
    tuned = f"constants tuned ({row['evaluations']} evaluations)" if row["of"] else ""
    if row["of"] in ("parent", "champion") and row["known"]:
        return tuned
    if row["parent_id"] is None:
        return "seed"
    made = ", ".join(map(str, moves)) or row["model"] or "unknown"
    return f"{made}, {tuned}" if row["of"] in ("child", "answer") else made


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=_DIFF_CONTEXT)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _source(connection: sqlite3.Connection, sha: str | None) -> str:
    found = connection.execute("SELECT source FROM programs WHERE sha = ?", (sha,)).fetchone()
    return str(found[0]) if found else ""


def _fact(connection: sqlite3.Connection, name: str) -> Any:
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return json.loads(found[0]) if found else None
