"""`kvevolve trace merge`: several traces made into one, on one clock or one after another.

Blocks and sessions of different traces are kept apart: nothing is shared between them. The result carries the source,
licence and citation of all its parts.
"""

from __future__ import annotations

import argparse
from typing import Any

from sim.cli.trace import output


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("merge", help="make one trace of several", description=__doc__)
    action.add_argument("traces", nargs="+", metavar="TRACE", help="short name, file, or format:path?option=value")
    output.add_output(action, flag=True)
    how = action.add_mutually_exclusive_group()
    text = "comma-separated: when each begins, in seconds (default: each at its own times)"
    how.add_argument("--starts-s", metavar="S,S,...", help=text)
    how.add_argument("--together", action="store_true", help="all begin at 0 s")
    how.add_argument("--gap-s", type=float, metavar="S", help="one after another, so many seconds apart")
    action.set_defaults(verb=_merge)


def _merge(options: argparse.Namespace) -> int:
    from workloads import load
    from workloads.combine import concat, merge

    output.check(options)
    traces = [load(spec) for spec in options.traces]
    name = options.name or "+".join(trace.name for trace in traces)
    if options.gap_s is not None:
        return output.write(concat(traces, name, options.gap_s), options)
    starts = [0.0] * len(traces) if options.together else _starts(options.starts_s)
    return output.write(merge(traces, name, starts), options)


def _starts(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"merge: --starts-s {text!r}: give seconds, separated by commas") from None
