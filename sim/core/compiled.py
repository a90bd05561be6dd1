"""How kernels are compiled and cached: an on-disk numba cache keyed by a hash of the sources a kernel is made of.

Knows numba's cache only; must not know what any kernel does. numba's own `cache=True` checks the file a function
stands in, not the files it inlines from, and so returns stale machine code after an edit elsewhere. Here the cache
directory of a module carries a hash of that module and of every `sim.core` module it imports, directly or not.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.core import config

KEPT_CACHES = 8
"""Cache directories of a module kept beside the current one; older ones are removed."""


LOCATOR = f"{__name__}.Located"
ROOT = Path(__file__).parent
PACKAGE = "sim.core"
_IMPORT = re.compile(
    r"^[ \t]*(?:from|import)[ \t]+(sim\.core[\w.]*)(?:[ \t]+import[ \t]+(\([^)]*\)|.*))?", re.MULTILINE
)
_NAME = re.compile(r"\w+")


class Located:
    """Tells numba where the machine code of a function is: in the directory set, wherever its source lies.

    The directory carries the digest of the sources. numba's own locators go by path and time stamp, so that every copy
    of this code, a second checkout or what Ray sends to a node, would be compiled anew.
    """

    def __init__(self, directory: str, line: int) -> None:
        self._directory, self._line = directory, line

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> Located:
        """Return the locator of a function."""
        return cls(config.CACHE_DIR, function.__code__.co_firstlineno)

    def get_cache_path(self) -> str:
        """Return the directory."""
        return self._directory

    def ensure_cache_path(self) -> None:
        """`cache_directory` has made it."""

    def get_source_stamp(self) -> str:
        """Return what has to be equal for the code to be up to date; the directory sees to it."""
        return ""

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart."""
        return str(self._line)


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the modules of `sim.core` that a module imports, itself and all they import included."""
    found, waiting = {module}, [module]
    while waiting:
        fresh = _named(waiting.pop()) - found
        found |= fresh
        waiting += fresh
    return frozenset(found)


@cache
def _named(module: str) -> frozenset[str]:
    """Return the modules of `sim.core` that a module names in imports; read as text: parsing takes 30 times longer."""
    names = set()
    for package, listed in _IMPORT.findall(_source(module).read_text(encoding="utf-8")):
        names |= {package, *(f"{package}.{name}" for name in _NAME.findall(listed))}
    return frozenset(name for name in names if name.startswith(PACKAGE + ".") and _source(name).is_file())


def _source(module: str) -> Path:
    return ROOT.joinpath(*module.removeprefix(PACKAGE + ".").split(".")).with_suffix(".py")


@cache
def sources_digest(*modules: str) -> str:
    """Return a short hash over `sim.core` modules and all they import, the interpreter, numba and its settings."""
    digest = hashlib.sha256(f"{sys.version_info[:3]} {numba.__version__} {config.BOUNDSCHECK}".encode())
    for name in sorted({__name__}.union(*map(_imports, modules))):
        digest.update(name.encode() + b"\0" + _source(name).read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_directory(module: str) -> Path | None:
    """Return the directory for the compiled kernels of a module, or None where nothing can be written.

    `$KVEVOLVE_CACHE`, else `$XDG_CACHE_HOME/kvevolve`, else `~/.cache/kvevolve`; below it `numba/<module>/<digest>`.
    """
    root = os.environ.get("KVEVOLVE_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvevolve"
    directory = base / "numba" / module.removeprefix(PACKAGE + ".") / sources_digest(module)
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


@contextmanager
def keyed_cache(module: str) -> Iterator[bool]:
    """Let what numba compiles within go to the directory of a module; yields whether it has one."""
    directory = cache_directory(module)
    before = config.CACHE_DIR, getattr(config, "CACHE_LOCATOR_CLASSES", "")  # an older numba goes by path
    if directory:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(directory), LOCATOR
    try:
        yield directory is not None
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before


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
        ours = function.__module__.startswith(PACKAGE + ".")
        if not signatures or not ours:
            return numba.njit(list(signatures) or None, **options)(function)
        with keyed_cache(function.__module__) as kept:
            return numba.njit(list(signatures), cache=kept, **options)(function)

    return decorate


def records(array: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return a structured array as kernels read it: itself, or what gives `a[i].field` to Python.

    The latter where kernels are not compiled (NUMBA_DISABLE_JIT=1, `make coverage`).
    """
    return array.view(np.recarray) if config.DISABLE_JIT else array
