"""One process at a time works on a run's directory, its engine included.

Knows a lock file. Must not know what the work is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(root: Path) -> Iterator[int]:
    """Hold a run's directory; the kernel lets go of it when the last process that inherited the lock has ended.

    Yields:
        The descriptor to hand down to child processes that work on the run too.

    Raises:
        ValueError: If another process holds it, or there is none.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such run; fix: name the directory of one")
    file = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(file, 32).decode("ascii", "replace").strip()
            raise ValueError(
                f"{root} is still being worked on, by process {who} or its engine; fix: wait for it, or end it"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield file
    finally:
        os.close(file)
