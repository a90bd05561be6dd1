"""`kvevolve trace info`: what a trace is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sim.cli.arguments import add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("info", help="describe a trace", description=__doc__)
    add_trace(action)
    action.set_defaults(verb=_info)


def _info(options: argparse.Namespace) -> int:
    from workloads import load

    trace = load(options.trace)
    print(trace)
    print(json.dumps(trace.provenance, indent=2, sort_keys=True, default=str))
    return 0
