"""`kvevolve trace validate`: everything that is wrong with a trace file, with places, and what is odd about it.

The exit code is 2 if the file is refused. In text formats every fault is found (up to --most), in binary ones the
first. Repairs that readers offer are counted, not made.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from sim.cli.arguments import add_json, add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("validate", help="find all that is wrong with a trace file", description=__doc__)
    add_trace(action)
    action.add_argument("--most", type=int, default=20, metavar="N", help="stop after N problems (default: 20)")
    add_json(action)
    action.set_defaults(verb=_validate)


def _validate(options: argparse.Namespace) -> int:
    from workloads.checking import check

    if options.most < 1:
        raise ValueError(f"validate: --most {options.most}: expected at least 1")
    found = check(options.trace, options.most)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    return 0 if found.sound else 2
