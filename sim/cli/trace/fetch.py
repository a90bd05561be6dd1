"""`kvevolve trace fetch`: download public traces into the user cache, checksums verified."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sim.meter import Meter

COLLECTIONS = ("mooncake", "bailian", "burstgpt", "azure2023")


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("fetch", help="download public traces", description=__doc__)
    action.add_argument("collection", choices=COLLECTIONS)
    action.add_argument("--only", action="append", default=[], metavar="TRACE", help="this one; may be given again")
    action.set_defaults(verb=_fetch)


def _fetch(options: argparse.Namespace) -> int:
    from workloads import fetch

    meter = Meter()

    def progress(name: str, done: int, total: int | None) -> None:
        meter.tell(f"{name} {done / 1e6:.1f} MB of {(total or 0) / 1e6:.1f} MB", done == total)

    for path in fetch.fetch(options.collection, progress=progress, only=options.only):
        print(path)
    chosen = fetch.COLLECTIONS[options.collection]
    print(f"licence: {chosen.licence}\nplease cite: {chosen.citation}", file=sys.stderr)
    return 0
