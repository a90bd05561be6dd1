"""`kvevolve explain`: where a policy loses hits on a trace. Knows the command line; the library does the work."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

QUIET_S = 2.0
"""Progress is said from this time on."""


def add(verbs: Any) -> None:
    """Add the verb to a parser's verbs."""
    text = "say where a policy loses hits: to eviction, to admission, to which blocks"
    verb = verbs.add_parser("explain", help=text, description=text)
    verb.set_defaults(verb=_explain)
    verb.add_argument("policy", help="a shipped name or a file; the engine's own LRU is `lru`")
    verb.add_argument("trace", help="short name, file, or format:path?option=value")
    verb.add_argument("--capacity", default="5%", help="blocks, or a share of the distinct blocks (default: 5%%)")
    verb.add_argument("--ghost-blocks", type=int, help="blocks remembered beyond the cache")
    verb.add_argument("--costliest", type=int, default=5, metavar="N", help="decisions to list (default: 5)")
    verb.add_argument("--figures", type=Path, metavar="DIR", help="write PNG figures (needs the extra `figures`)")
    verb.add_argument("--json", action="store_true", help="print JSON")


def _explain(options: argparse.Namespace) -> int:
    start = time.monotonic()

    def progress(text: str) -> None:
        if time.monotonic() - start > QUIET_S:
            print(f"kvevolve: {text}", file=sys.stderr, flush=True)

    from sim.explanation import explain
    from workloads import load

    if options.figures:
        from sim.explanation_figures import require

        require()
    progress("reading the trace")
    trace = load(options.trace)
    ghosts = {} if options.ghost_blocks is None else {"ghost_blocks": options.ghost_blocks}
    found = explain(trace, options.policy, options.capacity, costliest=options.costliest, progress=progress, **ghosts)
    print(json.dumps(found.to_dict(), indent=2, sort_keys=True) if options.json else found)
    if options.figures:
        from sim.explanation_figures import draw

        for path in draw(found, options.figures):
            print(path, file=sys.stderr)
    return 0
