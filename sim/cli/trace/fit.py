"""`kvevolve trace fit`: a specification of synthetic traffic like that of a real trace."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_trace

if TYPE_CHECKING:
    from workloads.spec import WorkloadSpec


def add(actions: Any) -> None:
    """Add the action to the command line."""
    text = (
        "estimate a generator from a real trace; the specification holds distributions, no request and no id. Of files"
        " of arrivals and lengths (azure:FILE, burstgpt:FILE) it holds those, and sharing that is assumed"
    )
    action = actions.add_parser("fit", help="estimate a generator from a real trace", description=text)
    add_trace(action)
    action.add_argument("-o", "--output", type=Path, required=True, metavar="SPEC.yaml", help="where it is written")
    action.add_argument("--name", help="of the workload (default: the trace's)")
    for field in ("source", "licence", "citation"):
        action.add_argument(f"--{field}", help="of the trace, kept in the specification (default: as the trace says)")
    action.add_argument("--no-calibration", action="store_true", help="fit distributions only, not the hit curves")
    action.set_defaults(verb=_fit)


def _fit(options: argparse.Namespace) -> int:
    from workloads import lengths
    from workloads.atomic import atomic_write, check_writable

    check_writable(options.output)
    spec = _lengths_fitted(options) if lengths.is_one(options.trace) else _trace_fitted(options)
    with atomic_write(options.output) as handle:
        handle.write(spec.to_yaml().encode())
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, fitted to {options.trace}", file=sys.stderr)
    return 0


def _lengths_fitted(options: argparse.Namespace) -> WorkloadSpec:
    from workloads import lengths
    from workloads.spec import WorkloadSpec

    plain = lengths.specification(lengths.load(options.trace), options.name)
    return WorkloadSpec.from_plain({**plain, "about": {**plain["about"], **_stated(options)}}, options.trace)


def _trace_fitted(options: argparse.Namespace) -> WorkloadSpec:
    from sim.calibration import calibrated
    from workloads import load
    from workloads.fitted import fit
    from workloads.fitted.specification import specification
    from workloads.manifest import ORIGIN, manifest_of

    trace = load(options.trace)
    tables = fit(trace)
    if not options.no_calibration:
        tables = calibrated(trace, tables)
    said = manifest_of(trace)
    known = {field: getattr(said, field) for field in ORIGIN if getattr(said, field)}
    return specification(options.name or trace.name, tables, {**known, **_stated(options), "fitted_to": trace.name})


def _stated(options: argparse.Namespace) -> dict[str, str]:
    return {key: value for key in ("source", "licence", "citation") if (value := getattr(options, key))}
