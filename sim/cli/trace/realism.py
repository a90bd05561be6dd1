"""`kvevolve trace realism`: how like a real trace a fitted one is."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_json, add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    text = (
        "compare synthetic traffic with the real: hits of LRU, FIFO and the optimum, reuse, sharing, lengths, arrivals"
    )
    action = actions.add_parser("realism", help="compare synthetic traffic with the real", description=text)
    action.add_argument("spec", help="a YAML file, or the name of a specification that is shipped")
    add_trace(action)
    action.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N (default: 3)")
    action.add_argument("--figure", type=Path, help="draw: .png, .pdf or .svg")
    add_json(action)
    action.set_defaults(verb=_realism)


def _realism(options: argparse.Namespace) -> int:
    from sim.realism import realism
    from workloads import load, spec

    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: give 1 or more")
    if options.figure:
        from sim.plotting import check_format

        check_format(options.figure)
    made = partial(spec.generate, spec.find_spec(options.spec))
    found = realism(load(options.trace), made, range(1, options.seeds + 1))
    print(json.dumps(found.to_dict(), indent=1) if options.json else found)
    if options.figure:
        from sim.realism_figure import draw

        draw(found, options.figure)
    return 0
