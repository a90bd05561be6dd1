"""The engine's population, rebuilt after a kill from what was recorded program by program.

OpenEvolve writes a checkpoint now and then; between two, a kill would lose all. But with `database.db_path` set it also
writes each program it stores, whole, at once, migrants included. Storing them again, in that order, in a database of
its own gives the population as it was, cell by cell. So resuming depends on no checkpoint: not on the newest, not on
one a kill left half written. Evaluations that were in the journal, but not yet in the database, are added at the end.

Knows OpenEvolve 0.4.0's database and the logs of a run. Must not know policies or scores. The order is that of the
programs' own times: two that came within milliseconds of each other, from two workers, may be stored the other way
round. Ties in the archive fall as the engine's hashing of names has it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim import journal, jsonlines
from sim.rundir import RunDir
from sim.search.recall import mark_of
from workloads.atomic import atomic_write

_OPERATOR = "operator.jsonl"


@dataclass(frozen=True)
class Rebuilt:
    """A population on disk, for `openevolve-run --checkpoint`.

    Attributes:
        checkpoint: Its folder.
        done: The last iteration in it.
        programs: How many were stored.
        recovered: How many of them only the journal knew.
    """

    checkpoint: Path
    done: int
    programs: int
    recovered: int


def rebuild(run: RunDir) -> Rebuilt | None:
    """Write the population of a run that was stopped, however it was, as a checkpoint; None if nothing was stored.

    What was rebuilt before, and is perhaps half written, is replaced. Nothing else of the run is changed, but that
    programs found in the journal alone are recorded like the others.
    """
    recorded = run.stored()
    if not recorded:
        return None
    database = _database(run)
    artifacts = {entry["source"]: entry["artifacts"] for entry in journal.entries(run.root)}
    for program, last in zip(recorded, [False] * (len(recorded) - 1) + [True], strict=True):
        _store(database, program, artifacts, last)
    recovered = _recovered(run, recorded, int(database.last_iteration), len(database.islands))
    folder = run.new_database() if recovered else None
    for program in recovered:
        assert folder is not None
        _write(folder, program)
        _store(database, program, artifacts, last=True)
    checkpoint = _save(database, run.rebuilt)
    return Rebuilt(checkpoint, int(database.last_iteration), len(recorded) + len(recovered), len(recovered))


def _database(run: RunDir) -> Any:
    from openevolve.config import load_config
    from openevolve.database import ProgramDatabase

    settings = load_config(str(run.config)).database
    return ProgramDatabase(replace(settings, db_path=None, random_seed=None, embedding_model=None, novelty_llm=None))


def _store(database: Any, content: dict[str, Any], artifacts: dict[str, Any], last: bool) -> None:
    """Store a program as the engine did: generations counted, migrations, whose migrants are recorded, noted."""
    from openevolve.database import Program

    program = Program.from_dict(content)
    island, child = content["metadata"]["island"], bool(content.get("parent_id"))
    migrant = bool(content["metadata"].get("migrant"))
    database.add(program, iteration=program.iteration_found if child and not migrant else None, target_island=island)
    if program.code in artifacts and not migrant and program.id in database.programs:
        database.store_artifacts(program.id, artifacts[program.code])
    if child and not migrant:
        database.increment_island_generation(island_idx=island)
        if database.should_migrate() and not last:
            database.last_migration_generation = max(database.island_generations)


def _recovered(run: RunDir, recorded: list[dict[str, Any]], done: int, islands: int) -> list[dict[str, Any]]:
    """Return what was evaluated and not stored, as programs.

    Their parents are known if the keyless operator made them; else they go to the islands in turn.
    """
    stored = {program["code"] for program in recorded}
    fresh = {entry["source"]: entry for entry in journal.entries(run.root) if entry["source"] not in stored}
    by_mark = {
        mark_of(program["code"]): program for program in reversed(recorded)
    }  # a migrant stands behind its origin
    parents = {
        entry["source"]: by_mark[entry["parent"]]
        for entry in jsonlines.read(run.root / _OPERATOR)
        if entry.get("source") in fresh and entry.get("parent") in by_mark
    }
    found = []
    for index, (source, entry) in enumerate(fresh.items()):
        parent = parents.get(source)
        island = parent["metadata"]["island"] if parent else index % islands
        found.append(
            {
                "id": str(uuid.uuid4()),
                "code": source,
                "language": recorded[0]["language"],
                "parent_id": parent["id"] if parent else recorded[0]["id"],
                "generation": parent["generation"] + 1 if parent else 1,
                "timestamp": float(entry["time"]),
                "iteration_found": done + 1 + index,
                "metrics": entry["metrics"],
                "metadata": {"changes": "recovered from the journal", "island": island},
            }
        )
    return found


def _write(folder: Path, program: dict[str, Any]) -> None:
    with atomic_write(folder / "programs" / f"{program['id']}.json") as file:
        file.write(json.dumps(program).encode())


def _save(database: Any, target: Path) -> Path:
    """Write a checkpoint, whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    for folder in (partial, target):
        shutil.rmtree(folder, ignore_errors=True)
    database.save(str(partial), database.last_iteration)
    return partial.rename(target)
