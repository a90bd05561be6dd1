"""`kvevolve explain`: where a policy loses hits on a trace. Knows the command line; the library does the work."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_capacity, add_json, add_model, add_trace, in_blocks

QUIET_S = 2.0
"""Progress is said from this time on."""


def add(verbs: Any) -> None:
    """Add the verb to a parser's verbs."""
    text = "say where a policy loses hits: to eviction, to admission, to which blocks"
    verb = verbs.add_parser("explain", help=text, description=text)
    verb.set_defaults(verb=_explain)
    verb.add_argument("policy", help="a shipped name or a file; native, the engine's own LRU, is explained as `lru`")
    add_trace(verb)
    add_capacity(verb)
    add_model(verb)
    verb.add_argument("--ghost-blocks", type=int, metavar="N", help="blocks remembered beyond the cache")
    verb.add_argument("--costliest", type=int, default=5, metavar="N", help="decisions to list (default: 5)")
    verb.add_argument("--figures", type=Path, metavar="DIR", help="write PNG figures (needs the extra `figures`)")
    add_json(verb)


def _explain(options: argparse.Namespace) -> int:
    start = time.monotonic()

    def progress(text: str) -> None:
        if time.monotonic() - start > QUIET_S:
            print(f"kvevolve: {text}", file=sys.stderr, flush=True)

    from sim.explanation import explain
    from workloads import load

    if options.figures:
        from sim.plotting import load as load_extra

        load_extra("matplotlib")
        options.figures.mkdir(parents=True, exist_ok=True)
    progress("reading the trace")
    trace = load(options.trace)
    ghosts = {} if options.ghost_blocks is None else {"ghost_blocks": options.ghost_blocks}
    capacity = in_blocks(options.capacity, trace.block_tokens, options.model)
    found = explain(trace, options.policy, capacity, costliest=options.costliest, progress=progress, **ghosts)
    print(json.dumps(found.to_dict(), indent=2, sort_keys=True) if options.json else found)
    if options.figures:
        from sim.explanation_figures import draw

        for path in draw(found, options.figures):
            print(path, file=sys.stderr)
    return 0
