"""`kvevolve history`: the record of a run. Knows the command line; the library does the work."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_json

if TYPE_CHECKING:
    from sim.history.store import Answer

_CELL = 60


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "show the record of a run: best so far, proposals, rejections, diversity, costs, the way to the winner"
    verb = verbs.add_parser("history", help=text, description=text)
    verb.set_defaults(verb=_history)
    verb.add_argument("run", type=Path, metavar="RUN", help="output folder of kvevolve evolve or openevolve-run")
    verb.add_argument("--store", type=Path, metavar="FILE", help="the SQLite store (default: RUN/history.sqlite)")
    verb.add_argument(
        "--export", type=Path, metavar="FILE.jsonl", help="write OpenEvolve's trace, with what it left out"
    )
    verb.add_argument(
        "--sql", metavar="SELECT", help="ask the store; its tables are described in sim/history/schema.py"
    )
    verb.add_argument("--figures", type=Path, metavar="DIR", help="write PNG figures (needs the extra `figures`)")
    add_json(verb)


def _history(options: argparse.Namespace) -> int:
    from sim.history import export, ingest, opened, query, summarise

    if options.figures:
        from sim.plotting import load

        load("matplotlib")
        options.figures.mkdir(parents=True, exist_ok=True)
    if not options.run.is_dir():
        raise ValueError(f"{options.run} is no folder; fix: name the output folder of a run")
    store = ingest(options.run, options.store).store
    if options.sql is not None:
        answer = query(store, options.sql)
        print(_json(answer) if options.json else _table(answer))
    with opened(store) as connection:
        if options.export:
            count = export(connection, options.export)
            print(f"{options.export}: {count} lines", file=sys.stderr)
        if options.sql is not None and not options.figures:
            return 0
        found = summarise(connection, options.run)
    if options.sql is None:
        print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    if options.figures:
        from sim.history_figures import draw

        for path in draw(found, options.figures):
            print(path, file=sys.stderr)
    return 0


def _json(answer: Answer) -> str:
    rows = [dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows]
    return json.dumps(rows, indent=2)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _table(answer: Answer) -> str:
    from sim.tables import table

    rows = [[_cell(value) for value in row] for row in answer.rows]
    return table(answer.columns, rows, "l" * len(answer.columns)) if rows else "no rows"


def _cell(value: Any) -> str:
    shown = " ".join(str("-" if value is None else _plain(value)).split())
    return shown if len(shown) <= _CELL else f"{shown[: _CELL - 1]}…"
