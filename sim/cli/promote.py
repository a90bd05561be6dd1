"""The verb `kvevolve promote`: the gate, and a bundle for what passes it. Exit code 2 if it does not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_executor, add_json, add_panel, executor_of


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "judge a policy on validation; if it passes, read its test split once and keep it as an incumbent"
    verb = verbs.add_parser("promote", help=text, description=text)
    verb.set_defaults(verb=_promote)
    verb.add_argument("file", type=Path, help="the policy")
    verb.add_argument("--name", required=True, help="of the incumbent: small letters, digits, '-', '_'")
    verb.add_argument("--run", type=Path, metavar="RUN", help="directory of the run that found it, for its lineage")
    verb.add_argument("--found-by", metavar="TEXT", help="how it was found, in words")
    add_panel(verb)
    verb.add_argument("--directory", type=Path, metavar="D", help="of the incumbents (default: the package's own)")
    add_executor(verb)
    add_json(verb)


def _promote(options: argparse.Namespace) -> int:
    from sim.promotion.promotion import promote

    found = promote(
        options.file,
        options.name,
        options.panel,
        options.run,
        options.directory,
        options.found_by,
        executor_of(options),
        options.workers,
    )
    if options.json:
        bundle = None if found.path is None else str(found.path)
        test = None if found.test is None else found.test.model_dump()
        print(json.dumps({"verdict": found.verdict.to_dict(), "bundle": bundle, "test": test}, indent=2))
    else:
        print(found.verdict)
    if found.path is None or found.test is None:
        return 2
    if not options.json:
        print(f"test split, read once: {found.test.combined:+.4f}\n{found.path}")
    return 0
