"""`kvevolve trace anonymize`: keyed ids instead of text and names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_trace


def add(actions: Any) -> None:
    """Add the action to the command line."""
    text = (
        "write a trace or a text log with ids that say nothing without the key; logs whose text has no times need"
        " '?window_s=SECONDS&think_s=SECONDS' to lay sessions out"
    )
    action = actions.add_parser("anonymize", help="keyed ids instead of text and names", description=text)
    add_trace(action)
    action.add_argument("-o", "--output", type=Path, required=True, help=".jsonl[.gz|.zst] (keyed ids), .npz, .parquet")
    action.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="secret; created, mode 0600, if missing"
    )
    action.add_argument("--start-at-zero", action="store_true", help="shift times so that the first request is at 0")
    action.add_argument("--dense", action="store_true", help="number ids, so that outputs of one key cannot be linked")
    action.set_defaults(verb=_anonymize)


def _anonymize(options: argparse.Namespace) -> int:
    from workloads.anonymise import anonymise
    from workloads.keys import load_key

    trace = anonymise(options.trace, options.output, load_key(options.key), options.start_at_zero, options.dense)
    print(f"{options.output}: {trace!r}", file=sys.stderr)
    return 0
