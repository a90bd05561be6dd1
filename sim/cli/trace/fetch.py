"""`kvevolve trace fetch`: download public traces into the user cache, checksums verified."""

from __future__ import annotations

import argparse
from typing import Any

from sim.meter import Meter


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("fetch", help="download public traces", description=__doc__)
    action.add_argument("collection", choices=("mooncake",))
    action.set_defaults(verb=_fetch)


def _fetch(options: argparse.Namespace) -> int:
    from workloads.fetch import fetch

    meter = Meter()

    def progress(name: str, done: int, total: int | None) -> None:
        meter.tell(f"{name} {done / 1e6:.1f} MB of {(total or 0) / 1e6:.1f} MB", done == total)

    for path in fetch(options.collection, progress=progress):
        print(path)
    return 0
