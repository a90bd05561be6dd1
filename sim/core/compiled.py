"""How kernels are compiled and cached: an on-disk numba cache keyed by a hash of the `sim.core` sources.

Knows numba's cache only; must not know what any kernel does. numba's own `cache=True` checks the file a function
stands in, not the files it inlines from, and so returns stale machine code after an edit elsewhere. Here the cache
directory carries a hash of every source file in `sim/core`, so an edit anywhere means another directory.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config

KEPT_CACHES = 4
"""Cache directories kept beside the current one; older ones are removed."""


@cache
def sources_digest() -> str:
    """Return a short hash over the sources of `sim.core`, the interpreter and numba's version."""
    digest = hashlib.sha256(f"{sys.version_info[:3]} {numba.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_directory() -> Path | None:
    """Return the directory for compiled kernels, or None where nothing can be written.

    `$KVEVOLVE_CACHE`, else `$XDG_CACHE_HOME/kvevolve`, else `~/.cache/kvevolve`; below it `numba/<digest>`.
    """
    root = os.environ.get("KVEVOLVE_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvevolve"
    directory = base / "numba" / sources_digest()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.utime(directory)
        _drop_old(directory.parent, keep=directory)
    except OSError:
        return None
    return directory if os.access(directory, os.W_OK) else None


def _drop_old(parent: Path, keep: Path) -> None:
    others = sorted((p for p in parent.iterdir() if p != keep), key=lambda p: p.stat().st_mtime, reverse=True)
    for stale in others[KEPT_CACHES:]:
        for file in sorted(stale.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
        stale.rmdir()


def kernel(*signatures: Any, inline: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function for the given signatures, eagerly, from the keyed cache where possible.

    Kernels allocate nothing (numba's `_nrt=False`): callers hand them every array. Reference counting of the arrays
    in a NamedTuple, an atomic operation per array and call, made the LRU kernel 15 times slower.

    Args:
        signatures: numba signatures; none means a helper, compiled into its callers.
        inline: Hint that a helper is small and hot.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "_nrt": False}
        if inline:
            options["forceinline"] = True
        directory = cache_directory()
        if not signatures or directory is None:
            return numba.njit(list(signatures) or None, **options)(function)
        before = config.CACHE_DIR
        config.CACHE_DIR = str(directory)
        try:
            return numba.njit(list(signatures), cache=True, **options)(function)
        finally:
            config.CACHE_DIR = before

    return decorate
