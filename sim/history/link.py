"""How the rows of a store belong together: which proposal became which child, what came of each, who was migrated.

Works on the whole store and from scratch each time, so that it does not matter when the logs were read. Knows the
tables; must not know files.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
from datetime import datetime
from typing import Any

from sim.history.matching import match
from sim.history.rows import Rows

_ZONE_S = 900.0
"""Offsets of time zones are multiples of this."""


def link(connection: sqlite3.Connection) -> None:
    """Derive everything that is not in one log alone."""
    connection.execute("DELETE FROM children WHERE origin IN ('parent', 'log')")
    connection.execute("DELETE FROM proposals WHERE log = 'engine'")
    connection.execute("DELETE FROM evaluations WHERE log = 'engine'")
    connection.execute("DELETE FROM tunings WHERE of = 'final'")
    connection.execute("DELETE FROM migrations")
    connection.execute(
        "UPDATE proposals SET outcome = NULL, stage = NULL, reason = NULL, child_id = NULL, iteration = NULL"
    )
    connection.execute("UPDATE children SET evaluation_id = NULL")
    _set_clock(connection)
    _add_parents(connection)
    _add_logged(connection)
    _add_seed(connection)
    _find_copies(connection)
    match(connection)
    _add_migrations(connection)
    _add_final_tuning(connection)


def _set_clock(connection: sqlite3.Connection) -> None:
    """Turn the log's local times into real ones: both the trace and the log say when a child was stored."""
    pairs = connection.execute(
        "SELECT c.time - e.local_time FROM engine_events e JOIN children c ON c.id = e.child_id"
        " WHERE e.event = 'stored' AND c.origin = 'trace' AND c.time IS NOT NULL"
    ).fetchall()
    if pairs:
        shift = _ZONE_S * round(statistics.median(pair[0] for pair in pairs) / _ZONE_S)
    else:
        here = datetime.now().astimezone().utcoffset()
        shift = -here.total_seconds() if here else 0.0
    connection.execute("UPDATE engine_events SET time = local_time + ?", (shift,))


def _add_parents(connection: sqlite3.Connection) -> None:
    """Add programs that are only known as the parent of a traced child, as that line shows them."""
    rows = Rows(connection)
    found = connection.execute(
        "SELECT t.record, c.generation, c.time FROM trace t JOIN children c ON c.id = t.child_id"
        " WHERE c.parent_id NOT IN (SELECT id FROM children) ORDER BY t.place"
    ).fetchall()
    for packed, generation, time in found:
        record: dict[str, Any] = json.loads(packed)
        row = {
            "id": record["parent_id"],
            "sha": record.get("parent_code"),
            "generation": generation - 1 if generation else None,
            "time": time,
        }
        rows.child("parent", row, record.get("parent_metrics") or {})


def _add_logged(connection: sqlite3.Connection) -> None:
    """Add children that no record of the engine has, only its log: their parent was dropped before they were stored."""
    rows = Rows(connection)
    found = connection.execute(
        "SELECT e.child_id, e.iteration, e.time, e.parent_id, m.metrics, p.generation, p.island FROM engine_events e"
        " LEFT JOIN engine_events m ON m.event = 'evaluated' AND m.child_id = e.child_id"
        " LEFT JOIN children p ON p.id = e.parent_id"
        " LEFT JOIN children k ON k.id = e.child_id WHERE e.event = 'stored' AND (k.id IS NULL OR k.origin = 'parent')"
        " ORDER BY e.time, e.place"
    ).fetchall()
    for child_id, iteration, time, parent_id, metrics, generation, island in found:
        row = {
            "id": child_id,
            "iteration": iteration,
            "time": time,
            "parent_id": parent_id,
            "generation": None if generation is None else generation + 1,
            "island": island,
        }
        rows.child("log", row, json.loads(metrics) if metrics else {})
        connection.execute(
            "UPDATE children SET iteration = ?, time = ?, parent_id = ?, island = ? WHERE id = ? AND origin = 'parent'",
            (iteration, time, parent_id, island, child_id),
        )


def _add_seed(connection: sqlite3.Connection) -> None:
    """Add a seed that only the engine's log names: evaluated, never stored as a child, and somebody's parent.

    Of one known as a parent, the log says when it was evaluated: before its first child.
    """
    connection.execute(
        "UPDATE children SET time = coalesce((SELECT min(time) FROM engine_events e WHERE e.event = 'evaluated'"
        " AND e.child_id = children.id), time - 0.001) WHERE origin = 'parent' AND parent_id IS NULL"
    )
    found = connection.execute(
        "SELECT child_id, time, metrics FROM engine_events WHERE event = 'evaluated' AND child_id NOT IN"
        " (SELECT id FROM children) AND child_id IN (SELECT parent_id FROM children) ORDER BY time, place"
    ).fetchall()
    for child_id, time, metrics in found:
        row = {"id": child_id, "time": time, "generation": 0}
        Rows(connection).child("log", row, json.loads(metrics) if metrics else {})


def _find_copies(connection: sqlite3.Connection) -> None:
    """Give programs that are only known as parents the one they were copied from by migration, if there is one."""
    for child_id, sha, time in connection.execute(
        "SELECT id, sha, time FROM children WHERE origin = 'parent' AND parent_id IS NULL AND sha IS NOT NULL"
    ).fetchall():
        original = connection.execute(
            "SELECT id FROM children WHERE sha = ? AND id != ? AND NOT migrant AND origin != 'parent'"
            " AND (time IS NULL OR time <= ?) ORDER BY time LIMIT 1",
            (sha, child_id, time),
        ).fetchone()
        if original:
            connection.execute("UPDATE children SET parent_id = ?, migrant = 1 WHERE id = ?", (original[0], child_id))


def _add_migrations(connection: sqlite3.Connection) -> None:
    """Add every copy the log tells of, with its full id where it was seen again."""
    iteration = None
    found = connection.execute(
        "SELECT event, iteration, time, child_id, island FROM engine_events"
        " WHERE event IN ('migration', 'migrated') ORDER BY time, log, place"
    ).fetchall()
    for event, at, time, prefix, island in found:
        if event == "migration":
            iteration = at
            continue
        copies = connection.execute(
            "SELECT c.id, c.parent_id, p.island FROM children c LEFT JOIN children p ON p.id = c.parent_id"
            " WHERE c.id >= ? AND c.id < ? AND c.migrant",
            (prefix, prefix + "~"),
        ).fetchall()
        copy_id, child_id, source = copies[0] if len(copies) == 1 else (prefix, None, None)
        connection.execute("UPDATE children SET island = ? WHERE id = ? AND island IS NULL", (island, copy_id))
        row = (time, iteration, copy_id, child_id, source, island)
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?, ?, ?, ?)", row)


def _add_final_tuning(connection: sqlite3.Connection) -> None:
    """Add the tuning at the end of `kvevolve evolve`, if the chosen policy is no child but one up to its numbers."""
    facts = dict(connection.execute("SELECT name, value FROM facts").fetchall())
    sha = json.loads(facts.get("policy", "null"))
    provenance = json.loads(facts.get("provenance", "null")) or {}
    if sha is None or not provenance or connection.execute("SELECT 1 FROM children WHERE sha = ?", (sha,)).fetchone():
        return
    start = connection.execute(
        "SELECT c.score FROM children c JOIN programs p ON p.sha = c.sha JOIN programs t ON t.structure = p.structure"
        " WHERE t.sha = ? ORDER BY c.score DESC LIMIT 1",
        (sha,),
    ).fetchone()
    if start:
        row = (provenance.get("tune_evaluations"), start[0], (provenance.get("train") or {}).get("combined_score"))
        connection.execute(
            "INSERT INTO tunings (of, evaluations, start_score, score, details) VALUES ('final', ?, ?, ?, '{}')", row
        )
