"""Which code this is: a digest for what one run keeps and another may find.

Knows the files of this package. Must not know what is kept. All sources count, those that change no number too: a
result that is made again costs little, a stale one is wrong. Incumbents are no sources: promoting one changes no code.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

from sim.core.compiled import sources_digest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "workloads")
INCUMBENTS = "sim/incumbents/"


@cache
def code_digest() -> str:
    """Return a short hash over every source of this package, the interpreter, numba and numpy."""
    return digest_of(ROOT)


def digest_of(root: Path) -> str:
    """Return the same of the package in a directory."""
    digest = hashlib.sha256(f"{sources_digest()} {np.__version__}".encode())
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(INCUMBENTS):
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
