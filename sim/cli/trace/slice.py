"""`kvevolve trace slice`: a part of a trace, by request number, by time, by share of the time, or by session hash.

Arrival times are kept. Cuts are made in the order of the options below; parts that do not overlap share no request.
"""

from __future__ import annotations

import argparse
from typing import Any

from sim.cli.arguments import add_trace, share
from sim.cli.trace import output


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("slice", help="cut a part out of a trace", description=__doc__)
    add_trace(action)
    output.add_output(action)
    action.add_argument("--requests", metavar="A:B", help="requests A to B - 1; either may be left out")
    action.add_argument("--from-s", type=float, metavar="S", help="seconds since the first arrival")
    action.add_argument("--to-s", type=float, metavar="S", help="seconds since the first arrival, not included")
    text = "shares of the time from first to last arrival, for example 40%%:60%%"
    action.add_argument("--fraction", metavar="A:B", help=text)
    text = "sessions (or prefix families) with a hash in [A, B), for example 0:0.5"
    action.add_argument("--session-hash", metavar="A:B", help=text)
    action.add_argument("--seed", type=int, default=0, help="of the hash (default: 0)")
    action.set_defaults(verb=_slice)


def _slice(options: argparse.Namespace) -> int:
    from workloads import load
    from workloads.cutting import between, hashed, within

    given = (options.requests, options.from_s, options.to_s, options.fraction, options.session_hash)
    if all(value is None for value in given):
        raise ValueError("slice: give --requests, --from-s, --to-s, --fraction or --session-hash")
    output.check(options)
    trace = load(options.trace)
    if options.requests:
        first, last = _range(options.requests, "--requests", 0, trace.n_requests)
        if "%" in options.requests or not (first.is_integer() and last.is_integer()):
            raise ValueError(f"slice: --requests {options.requests!r}: give whole numbers, or --fraction")
        trace = trace.slice(int(first), int(last))
    if options.from_s is not None or options.to_s is not None:
        trace = between(trace, options.from_s, options.to_s)
    if options.fraction:
        trace = within(trace, *_range(options.fraction, "--fraction", 0.0, 1.0))
    if options.session_hash:
        trace = hashed(trace, *_range(options.session_hash, "--session-hash", 0.0, 1.0), options.seed)
    return output.write(trace, options)


def _range(text: str, name: str, low: float, high: float) -> tuple[float, float]:
    """Read A:B; what is left out is the end of the range."""
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return _number(first, low), _number(last, high)
    except ValueError:
        raise ValueError(f"slice: {name} {text!r}: give a range A:B") from None


def _number(text: str, default: float) -> float:
    return share(text) if text.strip() else float(default)
