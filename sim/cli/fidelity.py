"""The verb `kvevolve fidelity`: what each modelling choice is worth on a trace."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_json, add_trace

if TYPE_CHECKING:
    from workloads import Trace


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "measure what each modelling choice is worth, in hits"
    verb = verbs.add_parser("fidelity", help=text, description=text)
    add_trace(verb)
    verb.add_argument(
        "--capacity",
        nargs="+",
        metavar="BLOCKS",
        help="blocks or shares of the distinct blocks (default: 1000 … 50000)",
    )
    add_json(verb)
    verb.set_defaults(verb=_fidelity)


def _fidelity(options: argparse.Namespace) -> int:
    from sim.fidelity import CAPACITIES, fidelity
    from workloads import load

    trace = load(options.trace)
    found = fidelity(trace, options.capacity or CAPACITIES, _with_partial_ids(options.trace, trace))
    if options.json:
        print(json.dumps(found.to_dict(), indent=2, sort_keys=True))
    else:
        print(f"{trace!r}\n{found}")
    return 0


def _with_partial_ids(spec: str, trace: Trace) -> Trace | None:
    """Return the trace with its partial tails as blocks, or None if the file does not have their ids."""
    from workloads import TraceError, load

    if trace.provenance.get("format") == "mooncake":
        try:
            return load(f"{spec}{'&' if '?' in spec else '?'}partial_tail=block")
        except TraceError:
            pass  # converted: the ids are gone
    print("rows about ids of partial blocks are left out: only Mooncake files have such ids", file=sys.stderr)
    return None
