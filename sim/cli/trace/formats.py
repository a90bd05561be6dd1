"""`kvevolve trace formats`: which files are understood, and with which options."""

from __future__ import annotations

import argparse
import inspect
from typing import Any


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("formats", help="list what can be read and written", description=__doc__)
    action.set_defaults(verb=_formats)


def _formats(_: argparse.Namespace) -> int:
    from workloads import formats

    for name in formats.MODULES:
        module = formats.module(name)
        print(f"{name}: {module.SUMMARY}")
        given = [
            p for key, p in inspect.signature(module.read).parameters.items() if key not in ("path", "name", "key")
        ]
        options = [p.name if p.default is p.empty else f"{p.name}={_shown(p.default)}" for p in given]
        if options:
            print(f"    ?{'&'.join(options)}")
        if formats.gives_sessions(name):
            print("    sessions, laid on a clock: ?window_s=...&max_gap_s=...&think_s=...&seed=...&block_tokens=...")
        if hasattr(module, "write"):
            print(f"    written as {' '.join(module.SUFFIXES)}")
    return 0


def _shown(value: object) -> str:
    return "" if value in ((), None) else str(value).lower() if isinstance(value, bool) else str(value)
