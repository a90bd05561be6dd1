"""The verb `kvevolve compare`: policies beside each other on a panel. Arguments in, text out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_executor, add_json, add_split, executor_of
from sim.meter import Meter


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "compare policies on a panel"
    verb = verbs.add_parser("compare", help=text, description=text)
    verb.set_defaults(verb=_compare)
    verb.add_argument("policies", nargs="+", help="shipped names, zoo:NAME or files")
    verb.add_argument("--against", type=Path, metavar="RESULT.json", help="an earlier --json of the same panel")
    add_split(verb, "validation", ("train", "validation", "test"))
    add_executor(verb)
    add_json(verb)


def _compare(options: argparse.Namespace) -> int:
    from sim.against import describe, differences, read_earlier
    from sim.comparison import compare
    from sim.engines import find
    from sim.promotion.looks import begin_by_hand
    from sim.simulation import Options, resolve
    from workloads.panel import load_panel

    executor, earlier = executor_of(options), None
    if options.against:
        earlier = read_earlier(options.against)
        earlier.refuse_another(load_panel(options.split, options.panel, purpose="report"))  # before the work
    if options.split == "test":
        for policy in options.policies:
            resolve(policy, find(Options.engine)[0])  # every one is sound before any is looked at
        tell_of_looks(begin_by_hand(options.policies, load_panel("test", options.panel, purpose="report")))
    found = compare(options.policies, options.split, options.panel, executor, options.workers, Meter().count)
    head = f"{found.marks.panel.name} {found.marks.panel.split} {found.marks.panel.fingerprint[:12]}"
    content, text = found.to_dict(), f"{head}\n{found}"
    if earlier:
        changed = differences(found, earlier)
        content, text = content | {"against": changed}, f"{text}\n\n{describe(changed)}"
    print(json.dumps(content, indent=2, sort_keys=True) if options.json else text)
    return 0


def tell_of_looks(names: list[str]) -> None:
    """Say whose look at a test split went on record."""
    if names:
        text = f"on record: {', '.join(names)} is looked at on the test split; choose by validation"
        print(text, file=sys.stderr, flush=True)
