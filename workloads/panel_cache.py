"""Derived traces kept as ``.npz`` in the user cache.

Knows keys, files and when an entry is stale. Must not know what a trace is made from. An entry's key covers the
SHA-256 of the source files, the recipe and the source code that turns one into the other, so nothing stale is ever
served; entries of older code stay until the cache folder is emptied.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from workloads.errors import TraceError
from workloads.locate import user_cache_dir
from workloads.readers.lines import file_sha256
from workloads.trace import Trace

_ASIDE = ("panel", "yaml_model", "ladder", "warmup", "kv_bytes", "hf_config", "models", "fetch", "progress")
"""Beginnings of the names of modules that make no trace."""


@cache
def code_version() -> str:
    """Return the SHA-256 (hex) of all that makes traces: code, shipped specifications, numpy (its streams change)."""
    here = Path(__file__).parent
    digest = hashlib.sha256(np.__version__.encode())
    for path in sorted(here.rglob("*")):
        place = path.relative_to(here).as_posix()
        if path.suffix in (".py", ".yaml") and not place.startswith(_ASIDE):
            digest.update(place.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def entry_path(name: str, sources: Sequence[Path], recipe: Mapping[str, object]) -> Path:
    """Return the cache file of a derived trace.

    Args:
        name: Name of the trace; part of the file name.
        sources: The files or folders it is made from; none if it is generated.
        recipe: What is done to them, JSON-able.
    """
    key = json.dumps([[_content(path) for path in sources], name, recipe, code_version()], sort_keys=True)
    return user_cache_dir() / "derived" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def cached(name: str, sources: Sequence[Path], recipe: Mapping[str, object], make: Callable[[], Trace]) -> Trace:
    """Return a derived trace from the cache, or make it and put it there.

    Args:
        name: Name of the trace.
        sources: The files or folders it is made from; none if it is generated.
        recipe: What is done to them, JSON-able.
        make: Makes the trace.

    Returns:
        The trace. A damaged entry is made again; a cache that cannot be written is reported by a warning and
        otherwise ignored.
    """
    path = entry_path(name, sources, recipe)
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


def _content(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of all files of a folder and their names."""
    try:
        if not path.is_dir():
            return file_sha256(path)
        inside = [(p.relative_to(path).as_posix(), file_sha256(p)) for p in sorted(path.rglob("*")) if p.is_file()]
    except OSError as error:
        raise TraceError(f"{error.filename}: {error.strerror or error} - fix: check the path") from None
    return hashlib.sha256(repr(inside).encode()).hexdigest()
