"""Ends a run from the side of the model: cap reached, key refused, recording used up.

OpenEvolve turns every failed request into a lost iteration and goes on to the last. So the reason is written to
`stop.json` of the run, told on stderr, and the engine asked by SIGTERM to stop, which it does with its best program
saved and exit code 0. Before that, requests that are being answered end, and children they made have time to be stored;
requests that come meanwhile wait, so that none is lost as an error. Knows processes and files; must not know why.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workloads.atomic import atomic_write

NAME = "stop.json"
GRACE_S = 5.0
"""Time for the evaluation of the last answers."""

_DRAIN_S = 900.0
_POLL_S = 0.05


class Ending:
    """Ends the engine's process once; without one, requests are just refused from then on."""

    def __init__(self, folder: Path, engine: int | None = None, grace_s: float = GRACE_S) -> None:
        """Write to a folder; `engine` is the process to end, our parent."""
        self.path, self.engine, self.grace_s = folder / NAME, engine, grace_s
        self.reason = ""
        self._lock, self._over = threading.Lock(), threading.Event()
        self._busy = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Hold the end back while an answer is made."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def end(self, reason: str) -> None:
        """End the run; only the first reason counts."""
        with self._lock:
            if self.reason:
                return
            self.reason = reason
        with atomic_write(self.path) as file:
            file.write(json.dumps({"time": round(time.time(), 3), "reason": reason}, indent=2).encode() + b"\n")
        print(f"kvevolve: the run ends early: {reason}", file=sys.stderr, flush=True)
        if self.engine is not None:
            threading.Thread(target=self._end, daemon=True).start()
        else:
            self._over.set()

    def wait(self) -> None:
        """Return when the engine has been told to stop."""
        self._over.wait(_DRAIN_S + self.grace_s)

    def _end(self) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while self._busy and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        time.sleep(self.grace_s)
        if self.engine is not None and os.getppid() == self.engine:  # else it ended, and the number may be another's
            with suppress(OSError):
                os.kill(self.engine, signal.SIGTERM)
        self._over.set()


def reason(folder: Path) -> str:
    """Return why a run was ended early, "" if it was not."""
    try:
        return str(json.loads((folder / NAME).read_bytes())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
