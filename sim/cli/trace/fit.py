"""`kvevolve trace fit`: a specification of synthetic traffic like that of a real trace."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    text = "estimate a generator from a real trace; the specification holds distributions, no request and no id"
    action = actions.add_parser("fit", help="estimate a generator from a real trace", description=text)
    add_trace(action)
    action.add_argument("-o", "--output", type=Path, required=True, metavar="SPEC.yaml", help="where it is written")
    action.add_argument("--name", help="of the workload (default: the trace's)")
    for field in ("source", "licence", "citation"):
        action.add_argument(f"--{field}", help="of the trace, kept in the specification")
    action.add_argument("--no-calibration", action="store_true", help="fit distributions only, not the hit curves")
    action.set_defaults(verb=_fit)


def _fit(options: argparse.Namespace) -> int:
    from sim.calibration import calibrated
    from workloads import load
    from workloads.atomic import check_writable
    from workloads.fitted import fit, specification

    check_writable(options.output)
    trace = load(options.trace)
    tables = fit(trace)
    if not options.no_calibration:
        tables = calibrated(trace, tables)
    given = {key: getattr(options, key) for key in ("source", "licence", "citation")}
    known = {key: trace.provenance[key] for key in given if isinstance(trace.provenance.get(key), str)}
    about = {**known, **{key: value for key, value in given.items() if value}, "fitted_to": trace.name}
    specification.write(options.output, options.name or trace.name, tables, about)
    size = options.output.stat().st_size
    print(f"{options.output}: {size:,} bytes, fitted to {trace!r}", file=sys.stderr)
    return 0
