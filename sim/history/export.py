"""The trajectory as the JSONL that OpenEvolve writes, with the children it left out.

Lines it wrote come back byte for byte; those it left out have the same keys, as far as they are known, and say in
`metadata.kvevolve` where they were found. Seed and migrated copies have no line, as in OpenEvolve's file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sim.history.rows import CODES, SAID
from workloads.atomic import atomic_write

_ROW = (
    "SELECT id, origin, iteration, time, parent_id, sha, metrics, generation, island, artifacts_sha, metadata,"
    " answer_sha"
)
_ROW += " FROM children"


def export(connection: sqlite3.Connection, path: Path) -> int:
    """Write the file, whole or not at all; return the number of its lines.

    Args:
        connection: Of a store.
        path: JSON lines.

    Raises:
        OSError: If it cannot be written.
    """
    count = 0
    with atomic_write(path) as file:
        for record in records(connection):
            file.write(json.dumps(record).encode() + b"\n")
            count += 1
    return count


def records(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Yield a record per child in the engine's order; those it left out where their time puts them."""
    missing = connection.execute(
        f"{_ROW} WHERE id NOT IN (SELECT child_id FROM trace) AND NOT migrant AND parent_id NOT NULL"
        " ORDER BY time IS NULL, time, id"
    ).fetchall()
    written = connection.execute(
        "SELECT t.record, c.time FROM trace t LEFT JOIN children c ON c.id = t.child_id ORDER BY t.place"
    )
    for packed, time in written:
        while missing and time is not None and missing[0][3] is not None and missing[0][3] < time:
            yield _built(connection, missing.pop(0))
        yield _unpacked(connection, json.loads(packed))
    for row in missing:
        yield _built(connection, row)


def _unpacked(connection: sqlite3.Connection, record: dict[str, Any]) -> dict[str, Any]:
    """Put the texts back where their sha stands."""
    for key in CODES:
        if isinstance(record.get(key), str):
            record[key] = _source(connection, record[key])
    for key in SAID:
        if isinstance(record.get(key), str):
            record[key] = _text(connection, record[key])
    if isinstance(record.get("artifacts"), str):
        record["artifacts"] = json.loads(_text(connection, record["artifacts"]))
    if isinstance(record.get("prompt"), dict):
        record["prompt"] = {key: sha and _text(connection, sha) for key, sha in record["prompt"].items()}
    return record


def _built(connection: sqlite3.Connection, row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the line OpenEvolve would have written."""
    _, origin, iteration, time, parent_id, sha, metrics, generation, island, artifacts, metadata, answer = row
    parent = connection.execute("SELECT metrics, sha FROM children WHERE id = ?", (parent_id,)).fetchone()
    before, after = json.loads(parent[0]) if parent else {}, json.loads(metrics)
    gains = {key: value - before[key] for key, value in after.items() if _number(value) and _number(before.get(key))}
    noted = json.loads(metadata or "{}")
    kept = {key: noted[key] for key in ("changes", "token_usage") if key in noted}
    record = {
        "iteration": iteration, "timestamp": time, "parent_id": parent_id, "child_id": row[0],
        "parent_metrics": before, "child_metrics": after,
        "parent_code": _source(connection, parent[1]) if parent and parent[1] else None,
        "child_code": _source(connection, sha) if sha else None,
        "llm_response": _text(connection, answer) if answer else None, "improvement_delta": gains,
        "island_id": island, "generation": generation,
        "artifacts": json.loads(_text(connection, artifacts)) if artifacts else None,
        "metadata": kept | {"kvevolve": {"found_in": origin}},
    }  # fmt: skip
    return {key: value for key, value in record.items() if value is not None}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _source(connection: sqlite3.Connection, sha: str) -> str:
    return str(connection.execute("SELECT source FROM programs WHERE sha = ?", (sha,)).fetchone()[0])


def _text(connection: sqlite3.Connection, sha: str) -> str:
    return str(connection.execute("SELECT text FROM texts WHERE sha = ?", (sha,)).fetchone()[0])
