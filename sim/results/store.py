"""Results kept in the user cache, each in a file named by all that it depends on.

Knows files, keys and the code that replays. Must not know what is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from workloads.atomic import atomic_write
from workloads.locate import user_cache_dir

log = logging.getLogger(__name__)

REPLAYS = ("bounds.py", "prepared.py", "result.py", "simulation.py", "zoo.py", "core", "engines", "policy")
"""Files and folders of `sim` that a replay's outcome depends on."""

Kept = TypeVar("Kept")


@cache
def code_of(folder: Path, names: tuple[str, ...]) -> str:
    """Return a hash over source files and folders of them in a folder."""
    digest = hashlib.sha256()
    for name in names:
        for path in sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else [folder / name]:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def replay_code() -> str:
    """Return a hash over all code that a replay's outcome depends on."""
    return code_of(Path(__file__).parent.parent, REPLAYS)


def path_of(key: Sequence[object], suffix: str) -> Path:
    """Return where something is kept that depends on all of a key, which is JSON."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return user_cache_dir() / "results" / f"{digest}.{suffix}"


def read(path: Path, parse: Callable[[Path], Kept]) -> Kept | None:
    """Return what was kept; None if nothing was, and, with a warning, if it is unreadable."""
    try:
        return parse(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is unreadable (%s) and is computed anew", path, error)
        return None


def keep(path: Path, content: bytes) -> None:
    """Keep something; a cache that cannot be written costs only time."""
    try:
        with atomic_write(path) as handle:
            handle.write(content)
    except OSError as error:
        log.warning("cannot keep %s: %s", path, error)
