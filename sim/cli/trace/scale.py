"""`kvevolve trace scale`: more or less load from the same trace.

First sessions are left out (--keep), then the rest is cloned (--copies), then time is pressed together (--time).
"""

from __future__ import annotations

import argparse
from typing import Any

from sim.cli.arguments import add_trace
from sim.cli.trace import output


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("scale", help="change the load of a trace", description=__doc__)
    add_trace(action)
    output.add_output(action)
    action.add_argument("--keep", type=float, metavar="SHARE", help="keep this share of the sessions, by hash")
    action.add_argument(
        "--copies", type=int, metavar="K", help="play every session K times, clones with ids of their own"
    )
    text = "blocks that clones have in common: no block, system prompts (the default), all that several sessions use"
    action.add_argument("--share", choices=("none", "trunk", "cross-session"), default="trunk", help=text)
    text = "clones start up to this much later, uniform (default: 60)"
    action.add_argument("--jitter-s", type=float, default=60.0, metavar="S", help=text)
    action.add_argument("--time", type=float, metavar="FACTOR", help="multiply time: 0.5 is twice the load")
    action.add_argument("--keep-gaps", action="store_true", help="--time moves sessions, not requests within them")
    action.add_argument("--seed", type=int, default=0, help="of choice and jitter (default: 0)")
    action.set_defaults(verb=_scale)


def _scale(options: argparse.Namespace) -> int:
    from workloads import load
    from workloads.cutting import hashed
    from workloads.scaling import cloned, compressed

    if options.keep is None and options.copies is None and options.time is None:
        raise ValueError("scale: give --keep, --copies or --time")
    output.check(options)
    trace = load(options.trace)
    if options.keep is not None:
        trace = hashed(trace, 0.0, options.keep, options.seed)
    if options.copies is not None:
        trace = cloned(trace, options.copies, options.jitter_s, options.share, options.seed)
    if options.time is not None:
        trace = compressed(trace, options.time, options.keep_gaps)
    return output.write(trace, options)
