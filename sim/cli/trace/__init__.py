"""`kvevolve trace ACTION`: one module an action, imported when its turn comes.

Knows which actions there are. Must not know what they do.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

ACTIONS = (
    *("info", "validate", "convert", "slice", "sample", "merge", "scale"),
    *("generate", "fit", "realism", "anonymize", "fetch", "formats"),
)


def add(verbs: Any) -> None:
    """Add the verb and its actions to the command line."""
    verb = verbs.add_parser("trace", help="inspect, convert, make and fetch traces")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    for name in ACTIONS:
        import_module(f"{__name__}.{name}").add(actions)
