"""The tables of a run's store, version 1. Knows names and types; must not know logs or how rows are found.

Times are seconds since 1970, NULL if unknown. JSON columns hold text for SQLite's own functions (`json_extract`,
`json_each`); numbers that are not finite are null in them. `sha` is SHA-256 (hex) of a text in UTF-8.

From the logs:

- `programs`: every text of a program, once. `fingerprint` ignores comments and layout, `structure` ignores numbers
  too; both are NULL where the text is no Python.
- `texts`: every prompt, every answer and the artifacts of every evaluation (JSON), once.
- `children`: the programs of the engine, by its own ids: the seed (no `parent_id`), children, and copies made by
  migration (`migrant`, their `parent_id` is what was copied). `origin` says where it was found: "trace" (the engine's
  own record), "database", "checkpoint", "best", "parent" (only seen as the parent of a traced child), "log" (only named
  in the engine's log: its metrics have 4 decimals, its text is that of the one proposal or evaluation that fits).
- `proposals`: every answer of a model or of the operator, one row per call. `log` is "operator", "llm" or "engine"
  (known only through the engine), `place` the byte its record starts at. `outcome` is
  "stored" (scored on the whole panel and kept), "duplicate" (the program, up to layout, had been evaluated before),
  "rejected" (`stage` says where: gate, compile, run, clock, smoke, timeout, memory, …; `reason` why),
  "no valid diff" (the engine found no change in the answer), "error" (no answer), "lost" (never stored, because the
  engine ended or dropped it), "pending" (not decided when the logs were read; lost if the run was killed), or "other"
  (the engine asked for something else than a program).
- `evaluations`: of programs on the panel. `log` is "evaluations" (the journal, every one) or "engine" (seen only
  through a child: no costs). `behaviour` is equal where the hit tokens of all cells are; NULL if not all were run.
- `tunings`: of constants by CMA-ES, `of` "parent", "champion" (the best program), "child", "answer" (of a model) or
  "final" (when the run ended; `evaluations` is then the budget).
- `trace`: OpenEvolve's lines, in order; texts are replaced by their sha, so that `kvevolve history --export` gives
  back every byte.
- `engine_events`: what the engine's log says, `event` "start", "evaluated", "stored", "error", "migration",
  "migrated" or "end"; `local_time` is the log's own, `time` is set by the trace's clock.
- `migrations`, `checkpoints`, `cells` (the MAP-Elites grid of every checkpoint: `cell` is "3-7", the bin per
  feature), `facts` (JSON: panel, settings, versions, the chosen policy).
- `logs` (how far each file has been read), `damage` (lines and files that could not be read, and why).
"""

from __future__ import annotations

VERSION = 1
APPLICATION = 0x6B766576
"""SQLite's application id of a store: "kvev"."""

TABLES = {
    "programs": "sha TEXT PRIMARY KEY, source TEXT NOT NULL, fingerprint TEXT, structure TEXT",
    "texts": "sha TEXT PRIMARY KEY, text TEXT NOT NULL",
    "children": """
        id TEXT PRIMARY KEY, origin TEXT NOT NULL, iteration INTEGER, time REAL, parent_id TEXT, sha TEXT,
        score REAL, valid INTEGER, stage TEXT, reason TEXT, generation INTEGER, island INTEGER,
        migrant INTEGER NOT NULL DEFAULT 0, metrics TEXT NOT NULL, artifacts_sha TEXT, metadata TEXT,
        answer_sha TEXT, evaluation_id INTEGER""",
    "proposals": """
        id INTEGER PRIMARY KEY, log TEXT NOT NULL, place INTEGER NOT NULL, call INTEGER, time REAL, seconds REAL,
        model TEXT, kind TEXT NOT NULL, request TEXT, moves TEXT, attempts INTEGER, novel INTEGER, parent_score REAL,
        sha TEXT, answer_sha TEXT, prompt_sha TEXT, system_sha TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
        cost_usd REAL, failure TEXT, error TEXT, details TEXT NOT NULL,
        outcome TEXT, stage TEXT, reason TEXT, child_id TEXT, iteration INTEGER, UNIQUE (log, place)""",
    "evaluations": """
        id INTEGER PRIMARY KEY, log TEXT NOT NULL, place INTEGER NOT NULL, time REAL, sha TEXT, panel TEXT, stage TEXT,
        reason TEXT, valid INTEGER, score REAL, metrics TEXT NOT NULL, artifacts_sha TEXT, seconds REAL,
        cpu_seconds REAL, refs INTEGER, hit_tokens TEXT, cached INTEGER, behaviour TEXT, UNIQUE (log, place)""",
    "tunings": """
        id INTEGER PRIMARY KEY, proposal_id INTEGER, time REAL, of TEXT, evaluations INTEGER, start_score REAL,
        score REAL, details TEXT NOT NULL""",
    "trace": "place INTEGER PRIMARY KEY, child_id TEXT, record TEXT NOT NULL",
    "engine_events": """
        log TEXT NOT NULL, place INTEGER NOT NULL, local_time REAL, time REAL, event TEXT NOT NULL, iteration INTEGER,
        child_id TEXT, parent_id TEXT, island INTEGER, seconds REAL, reason TEXT, prompt_tokens INTEGER,
        completion_tokens INTEGER, metrics TEXT, PRIMARY KEY (log, place)""",
    "migrations": "time REAL, iteration INTEGER, copy_id TEXT, child_id TEXT, from_island INTEGER, to_island INTEGER",
    "checkpoints": """
        iteration INTEGER PRIMARY KEY, stamp TEXT NOT NULL, best_id TEXT, programs INTEGER, islands TEXT NOT NULL,
        features TEXT NOT NULL""",
    "cells": "checkpoint INTEGER, island INTEGER, cell TEXT, child_id TEXT, PRIMARY KEY (checkpoint, island, cell)",
    "facts": "name TEXT PRIMARY KEY, value TEXT NOT NULL",
    "logs": "name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, lines INTEGER NOT NULL, head TEXT NOT NULL",
    "damage": "log TEXT NOT NULL, line INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (log, line)",
}

INDEXES = (
    "CREATE INDEX program_structure ON programs (structure)",
    "CREATE INDEX child_sha ON children (sha)",
    "CREATE INDEX child_parent ON children (parent_id)",
    "CREATE INDEX trace_child ON trace (child_id)",
    "CREATE INDEX event_child ON engine_events (child_id)",
    "CREATE INDEX proposal_sha ON proposals (sha)",
    "CREATE INDEX evaluation_sha ON evaluations (sha)",
    "CREATE INDEX tuning_proposal ON tunings (proposal_id)",
)


def statements() -> list[str]:
    """Return what creates the tables of an empty store."""
    tables = [f"CREATE TABLE {name} ({columns})" for name, columns in TABLES.items()]
    return [*tables, *INDEXES, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {VERSION}"]
