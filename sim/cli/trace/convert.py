"""`kvevolve trace convert`: one format into another, blocks merged if asked for.

Merging k blocks into one is exact for prefix-chained ids; blocks are never split. The manifest (source, licence,
citation, fingerprint, what was done) rides in every file, or beside it where the format has no place for it.
"""

from __future__ import annotations

import argparse
from typing import Any

from sim.cli.arguments import add_trace
from sim.cli.trace import output

DROPPABLE = ("session", "turn", "tenant", "request_type", "priority")


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("convert", help="save a trace in another format", description=__doc__)
    add_trace(action)
    output.add_output(action)
    text = "merge blocks into ones of N tokens, a multiple of the trace's"
    action.add_argument("--block-tokens", type=int, metavar="N", help=text)
    text = "leave a column out; may be given again"
    action.add_argument("--drop", action="append", default=[], choices=DROPPABLE, help=text)
    action.set_defaults(verb=_convert)


def _convert(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from workloads import load
    from workloads.cutting import coarsened
    from workloads.manifest import stepped

    output.check(options)
    trace = load(options.trace)
    if options.block_tokens is not None:
        trace = coarsened(trace, options.block_tokens)
    if dropped := [name for name in options.drop if getattr(trace, name) is not None]:
        columns: dict[str, Any] = dict.fromkeys(dropped)
        trace = replace(trace, provenance=stepped(trace.provenance, f"without {', '.join(dropped)}"), **columns)
    return output.write(trace, options)
