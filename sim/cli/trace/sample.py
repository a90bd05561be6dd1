"""`kvevolve trace sample`: a random share of the sessions, or of the prefix families where there are none.

A group's requests stay together, so prefixes stay whole; arrival times are kept. `--spatial` keeps what hashes below
the share, as SHARDS does: samples of one seed are nested, and the size of cache that stands for the whole is printed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sim.cli.arguments import add_trace, share
from sim.cli.trace import output


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("sample", help="keep a share of the sessions", description=__doc__)
    add_trace(action)
    output.add_output(action)
    action.add_argument("--share", type=share, default=0.1, help="share of the groups kept: 10%% or 0.1 (the default)")
    action.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    action.add_argument("--spatial", action="store_true", help="by hash: nested samples, for scaled-down caches")
    action.add_argument("--sessions-only", action="store_true", help="refuse a trace without sessions")
    action.set_defaults(verb=_sample)


def _sample(options: argparse.Namespace) -> int:
    from workloads import load
    from workloads.sampling import spatial_sample

    output.check(options)
    trace = load(options.trace)
    if options.spatial:
        found = spatial_sample(trace, options.share, options.seed)
        print(f"{found.share:.4f} of the blocks: a cache of C blocks stands for C / {found.share:.4f}", file=sys.stderr)
        return output.write(found.trace, options)
    draw = trace.sample_sessions if options.sessions_only else trace.sample
    return output.write(draw(options.share, options.seed), options)
