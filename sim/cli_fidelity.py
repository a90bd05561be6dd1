"""The verb `kvevolve fidelity`: what each modelling choice is worth on a trace."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "measure what each modelling choice is worth, in hits"
    verb = verbs.add_parser("fidelity", help=text, description=text)
    verb.add_argument("trace", help="short name, file, or format:path?option=value")
    verb.add_argument(
        "--capacity",
        nargs="+",
        metavar="BLOCKS",
        help="blocks or shares of the distinct blocks (default: 1000 … 50000)",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(verb=_fidelity)


def _fidelity(options: argparse.Namespace) -> int:
    from sim.fidelity import CAPACITIES, fidelity
    from workloads import load

    trace = load(options.trace)
    found = fidelity(trace, options.capacity or CAPACITIES)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2, sort_keys=True))
    else:
        print(f"{trace!r}\n{found}")
    return 0
