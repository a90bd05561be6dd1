"""`kvevolve trace info`: what a trace is like, as the usual tables of studies have it; figures on request.

Percentages are of block references over the whole trace, cold start included. A Mooncake trace counts the partial tail
block as those tables do with ?partial_tail=block.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_json, add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("info", help="describe a trace: statistics, hits, figures", description=__doc__)
    add_trace(action)
    text = "comma-separated cache sizes: 5%% of the distinct blocks, 5000 blocks, 40GB"
    action.add_argument("--capacities", metavar="SIZES", help=f"{text} (default: those of the usual tables)")
    text = "for capacities in memory, see `run` (default: llama-3.1-70b)"
    action.add_argument("--model", help=text)
    action.add_argument("--figures", type=Path, metavar="DIR", help="write figures there; needs [figures]")
    action.add_argument("--figure-format", choices=("png", "svg", "pdf"), default="png", help="(default: png)")
    add_json(action)
    action.set_defaults(verb=_info)


def _info(options: argparse.Namespace) -> int:
    from sim.reuse import Reuse
    from sim.trace_info import CAPACITIES, MODEL, trace_info
    from workloads import load

    if options.figures:
        from sim.plotting import check_format
        from workloads.atomic import check_writable

        check_format(Path(f"x.{options.figure_format}"))
        check_writable(options.figures / f"lengths.{options.figure_format}")
    trace = load(options.trace)
    reuse = Reuse(trace)
    sizes = options.capacities.split(",") if options.capacities else CAPACITIES
    found = trace_info(trace, sizes, options.model or MODEL, reuse)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    if options.figures:
        from sim.trace_figures import draw

        for path in draw(reuse, options.figures, options.figure_format):
            print(path, file=sys.stderr)
    return 0
