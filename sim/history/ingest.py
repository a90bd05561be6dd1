"""From the logs of a run to its store: what was appended since the last time, in one transaction.

Knows which logs there are. Must not know how rows belong together: see `link`.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim.history import engine_log
from sim.history.checkpoints import read_best, read_checkpoint, read_database
from sim.history.link import link
from sim.history.record import as_json
from sim.history.rows import Rows
from sim.history.store import STORE, empty, writing
from sim.history.tail import Line, Mark, Tail, records
from sim.rundir import RunDir
from workloads.progress import tell

OPERATOR, LLM, EVALUATIONS, TRACE = "operator.jsonl", "llm.jsonl", "evaluations.jsonl", "evolution_trace.jsonl"
_TELL_LINES = 500


@dataclass(frozen=True)
class Ingested:
    """What an ingest did.

    Attributes:
        store: The file.
        lines: Read this time.
        rebuilt: Whether a log had been replaced, so that all was read anew.
    """

    store: Path
    lines: int
    rebuilt: bool


def ingest(run: Path, store: Path | None = None) -> Ingested:
    """Bring the store of a run up to date; safe while the run goes on, and beside other processes that do the same.

    Args:
        run: Output folder of `kvevolve evolve` or of `openevolve-run`.
        store: The file; `RUN/history.sqlite` by default.

    Raises:
        ValueError: If the folder holds no run, or the file is no store that can be used.
        OSError: If a log cannot be read or the store not be written.
    """
    place = store or run / STORE
    logs = _logs(run)
    there = [name for name in logs if (run / name).is_file()]
    if not there and not place.is_file():
        raise ValueError(
            f"{run} holds no run: none of {', '.join(logs)} is in it; fix: name the output folder of a run"
        )
    with writing(place, rebuildable=bool(there)) as connection:
        rebuilt = _of_another(connection, run, there)
        if rebuilt:
            empty(connection)
        lines = sum(_read(connection, run, name, logs[name]) for name in there)
        _read_folders(Rows(connection), run)
        _keep_facts(Rows(connection), run)
        link(connection)
    return Ingested(place, lines, rebuilt)


def _of_another(connection: sqlite3.Connection, run: Path, there: list[str]) -> bool:
    """Return whether the store was built from logs that are not those at hand: one was replaced, or all are others."""
    marks = {str(name): Mark(*mark) for name, *mark in connection.execute("SELECT name, bytes, lines, head FROM logs")}
    return not all(mark.holds(run / name) for name, mark in marks.items()) or bool(
        marks and there and not marks.keys() & set(there)
    )


_Take = Callable[[Rows, str, Line], str]
"""Keeps a line of the named log and returns what is wrong with it."""


def _logs(run: Path) -> dict[str, _Take]:
    """Return the logs a run may have; the engine's own are in `logs/`, unless it was told otherwise."""
    found: dict[str, _Take] = {
        TRACE: _records(lambda rows, _, place, record: rows.trace(place, record)),
        OPERATOR: _records(lambda rows, _, place, record: rows.operator(place, record)),
        LLM: _records(lambda rows, _, place, record: rows.llm(place, record)),
        EVALUATIONS: _records(lambda rows, _, place, record: rows.evaluation("evaluations", place, record)),
    }
    own = sorted(f"logs/{path.name}" for path in (run / "logs").glob("openevolve_*.log"))
    return found | dict.fromkeys(own or [RunDir(run).log.name], _engine_line)


def _records(keep: Callable[[Rows, str, int, dict[str, Any]], None]) -> _Take:
    def take(rows: Rows, name: str, line: Line) -> str:
        found, fault = records(line.content)
        for within, record in found:
            rows.connection.execute("SAVEPOINT record")
            try:
                keep(rows, name, line.place + within, record)
            except (ValueError, RecursionError) as error:
                rows.connection.execute("ROLLBACK TO record")
                fault = str(error) or type(error).__name__
            rows.connection.execute("RELEASE record")
        return fault

    return take


def _engine_line(rows: Rows, name: str, line: Line) -> str:
    event = engine_log.parse(line.content.decode("utf-8", "replace"))
    if event is not None:
        row = {"log": name, "place": line.place, **dataclasses.asdict(event)}
        row |= {"metrics": as_json(event.metrics or None), "local_time": event.time}
        names, places = ", ".join(row), ", ".join("?" * len(row))
        rows.connection.execute(f"INSERT INTO engine_events ({names}) VALUES ({places})", tuple(row.values()))
    return ""


def _read(connection: sqlite3.Connection, run: Path, name: str, take: _Take) -> int:
    rows, tail = Rows(connection), Tail(run / name, _mark(connection, name))
    before, size = tail.mark, (run / name).stat().st_size
    for line in tail:
        fault = take(rows, name, line)
        if fault:
            connection.execute("INSERT OR REPLACE INTO damage VALUES (?, ?, ?)", (name, line.number, fault))
        if line.number % _TELL_LINES == 0:
            tell(f"reading {name}, MB", line.place / 1e6, size / 1e6)
    tell(f"reading {name}, MB", size / 1e6, size / 1e6)
    row = (name, tail.mark.bytes, tail.mark.lines, tail.mark.head)
    connection.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", row)
    return tail.mark.lines - before.lines


def _mark(connection: sqlite3.Connection, name: str) -> Mark:
    found = connection.execute("SELECT bytes, lines, head FROM logs WHERE name = ?", (name,)).fetchone()
    return Mark(*found) if found else Mark()


def _read_folders(rows: Rows, run: Path) -> None:
    faults = [f for path in sorted((run / "database").glob("*")) for f in read_database(rows, path)]
    folders = [path for path in (run / "checkpoints").glob("checkpoint_*") if path.name[11:].isdigit()]
    faults += [f for path in sorted(folders, key=lambda path: int(path.name[11:])) for f in read_checkpoint(rows, path)]
    fault = read_best(rows, run / "best")
    rows.connection.execute("DELETE FROM damage WHERE log = 'programs'")
    found = [("programs", number, text) for number, text in enumerate([*faults, *([fault] if fault else [])], 1)]
    rows.connection.executemany("INSERT INTO damage VALUES (?, ?, ?)", found)


def _keep_facts(rows: Rows, run: Path) -> None:
    """Keep what the run's other files say; what is not there or not readable is not mentioned."""
    place = RunDir(run)
    readers: dict[str, Callable[[], Any]] = {
        "panel": lambda: json.loads(place.panel.read_bytes()),
        "provenance": lambda: json.loads(place.provenance.read_bytes()),
        "config": lambda: _settings(yaml.safe_load(place.config.read_bytes())),
        "policy": lambda: rows.program(place.best_policy.read_bytes().decode()),
    }
    for name, read in readers.items():
        try:
            value = as_json(read())
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
            continue
        rows.connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that matter later; a key to a model may stand among the others."""
    kept = {key: config.get(key) for key in ("max_iterations", "random_seed", "diff_based_evolution")}
    models = [model.get("name") for model in (config.get("llm") or {}).get("models") or []]
    return kept | {"database": config.get("database"), "kvevolve": config.get("kvevolve"), "models": models}
