"""Derived traces kept as ``.npz`` in the user cache.

Knows keys, files and when an entry is stale. Must not know what a trace is made from. An entry's key covers the
SHA-256 of the source file, the recipe and the source code that turns one into the other, so nothing stale is ever
served; entries of older code stay until the cache folder is emptied.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from workloads.errors import TraceError
from workloads.locate import user_cache_dir
from workloads.readers.lines import file_sha256
from workloads.trace import Trace

_CODE = (
    *("chains.py", "columns.py", "manifest.py", "materialise.py", "npz.py", "runs.py", "sessions.py", "trace.py"),
    "validation.py",
)
_READERS = ("assemble.py", "kvsess1.py", "kvt1.py", "lines.py", "mooncake.py")


@cache
def code_version() -> str:
    """Return the SHA-256 (hex) of the modules that make traces from files."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in [*(here / name for name in _CODE), *(here / "readers" / name for name in _READERS)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def entry_path(name: str, source: Path, recipe: dict[str, object]) -> Path:
    """Return the cache file of a derived trace.

    Args:
        name: Name of the trace; part of the file name.
        source: The file it is made from.
        recipe: What is done to it, JSON-able.
    """
    key = json.dumps([file_sha256(source), name, recipe, code_version()], sort_keys=True)
    return user_cache_dir() / "derived" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def cached(name: str, source: Path, recipe: dict[str, object], make: Callable[[], Trace]) -> Trace:
    """Return a derived trace from the cache, or make it and put it there.

    Args:
        name: Name of the trace.
        source: The file it is made from.
        recipe: What is done to it, JSON-able.
        make: Makes the trace from the source.

    Returns:
        The trace. A damaged entry is made again; a cache that cannot be written is reported by a warning and
        otherwise ignored.
    """
    path = entry_path(name, source, recipe)
    if path.is_file():
        try:
            return Trace.load(path)
        except TraceError as error:
            warnings.warn(f"cache entry made again: {error}", stacklevel=2)
    trace = make()
    try:
        trace.save(path)
    except OSError as error:
        warnings.warn(f"{path}: cannot be cached ({error.strerror or error})", stacklevel=2)
    return trace
