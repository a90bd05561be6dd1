"""`kvevolve trace convert`: one format into another."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("convert", help="save a trace in another format", description=__doc__)
    add_trace(action)
    action.add_argument("output", type=Path, help="told by its suffix: .npz, .parquet")
    action.set_defaults(verb=_convert)


def _convert(options: argparse.Namespace) -> int:
    from workloads import formats, load

    write = formats.writer(options.output)
    trace = load(options.trace)
    write(trace, options.output)
    print(f"{options.output}: {trace!r}", file=sys.stderr)
    return 0
