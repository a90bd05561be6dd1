"""Programs that OpenEvolve kept whole, in its database, checkpoints and best program; and the MAP-Elites grid.

They have the seed, the copies made by migration, and children that it left out of its trace.

Knows their files; must not know the other logs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sim.history.record import Malformed, as_json, mapping, number, text, whole
from sim.history.rows import Rows


def read_checkpoint(rows: Rows, folder: Path) -> list[str]:
    """Keep a checkpoint; return what could not be read, for example because it is still being written."""
    iteration, connection = int(folder.name.rpartition("_")[2]), rows.connection
    stamp = _stamp(folder)
    known = connection.execute("SELECT stamp FROM checkpoints WHERE iteration = ?", (iteration,)).fetchone()
    if known and known[0] == stamp:
        return []
    faults = []
    programs = sorted((folder / "programs").glob("*.json"))
    for path in programs:
        try:
            _program(rows, _load(path))
        except (OSError, ValueError, RecursionError) as error:
            faults.append(f"{folder.name}/programs/{path.name}: {error}")
    try:
        metadata = _load(folder / "metadata.json")
        grid = _grid(metadata)
        row = (
            iteration,
            "" if faults else stamp,
            text(metadata, "best_program_id"),
            len(programs),
            as_json(_islands(metadata)),
            as_json(_features(metadata)),
        )
    except (OSError, ValueError, RecursionError) as error:
        return [*faults, f"{folder.name}/metadata.json: {error}"]
    connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM cells WHERE checkpoint = ?", (iteration,))
    connection.executemany("INSERT INTO cells VALUES (?, ?, ?, ?)", [(iteration, *cell) for cell in grid])
    return faults


def read_database(rows: Rows, folder: Path) -> list[str]:
    """Keep the programs of a database folder that are not known as well; return what could not be read."""
    known = {
        str(child)
        for (child,) in rows.connection.execute("SELECT id FROM children WHERE origin IN ('database', 'trace')")
    }
    faults = []
    for path in sorted((folder / "programs").glob("*.json")):
        if path.stem not in known:
            try:
                _program(rows, _load(path), "database")
            except (OSError, ValueError, RecursionError) as error:
                faults.append(f"{folder.parent.name}/{folder.name}/programs/{path.name}: {error}")
    return faults


def read_best(rows: Rows, folder: Path) -> str | None:
    """Keep the engine's best program; return what is wrong with its files, None if nothing is or there are none."""
    info = folder / "best_program_info.json"
    if not info.is_file():
        return None
    try:
        record = _load(info)
        code = (folder / "best_program.py").read_bytes().decode()
        child_id = text(record, "id")
        if not child_id:
            raise Malformed("id is missing")
        row = _row(rows, record | {"id": child_id, "code": code, "iteration_found": record.get("iteration")})
        rows.child("best", row, mapping(record, "metrics"))
    except (OSError, ValueError, RecursionError) as error:
        return f"{folder.name}: {error}"
    return None


def _program(rows: Rows, record: dict[str, Any], origin: str = "checkpoint") -> None:
    if not text(record, "id") or text(record, "code") is None:
        raise Malformed("id or code is missing")
    artifacts = json.loads(text(record, "artifacts_json") or "null")
    if artifacts is not None and not isinstance(artifacts, dict):
        raise Malformed("artifacts_json is no mapping")
    metadata = mapping(record, "metadata") or {}
    rows.child(origin, _row(rows, record), mapping(record, "metrics"), artifacts, metadata)


def _row(rows: Rows, record: dict[str, Any]) -> dict[str, Any]:
    metadata = mapping(record, "metadata") or {}
    migrant = bool(metadata.get("migrant"))
    return {
        "id": record["id"], "iteration": None if migrant else whole(record, "iteration_found"),
        "time": number(record, "timestamp"), "parent_id": text(record, "parent_id"),
        "sha": rows.program(text(record, "code")), "generation": whole(record, "generation"),
        "island": whole(metadata, "island"),
    }  # fmt: skip


def _stamp(folder: Path) -> str:
    try:
        found = (folder / "metadata.json").stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}:{found.st_size}"


def _load(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_bytes())
    if not isinstance(record, dict):
        raise Malformed(f"a {type(record).__name__}, not a record")
    return record


def _grid(metadata: dict[str, Any]) -> list[tuple[int, str, str]]:
    maps = metadata.get("island_feature_maps")
    if not isinstance(maps, list) or not all(isinstance(cells, dict) for cells in maps):
        raise Malformed("island_feature_maps is no list of mappings")
    return [(island, cell, str(child)) for island, cells in enumerate(maps) for cell, child in cells.items()]


def _islands(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    members, bests = metadata.get("islands"), metadata.get("island_best_programs")
    generations = metadata.get("island_generations")
    if not all(isinstance(part, list) for part in (members, bests, generations)):
        raise Malformed("islands, island_best_programs or island_generations is no list")
    return [
        {"programs": len(inside), "best_id": best, "generation": generation}
        for inside, best, generation in zip(members, bests, generations, strict=False)  # type: ignore[arg-type]
    ]


def _features(metadata: dict[str, Any]) -> dict[str, Any]:
    stats = mapping(metadata, "feature_stats") or {}
    return {name: [found.get("min"), found.get("max")] for name, found in stats.items() if isinstance(found, dict)}
