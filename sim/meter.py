"""Tells on stderr how far long work is. Knows terminals and clocks; must not know what is being done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

TERMINAL_S, LOG_S = 0.1, 10.0
"""Between two reports: a terminal's line is written over, a log gets a line each."""


class Meter:
    """Reports at most once per interval, and at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start.

        Args:
            clock: Seconds from any origin.
        """
        self._clock = clock
        self._told_s = clock()

    def tell(self, text: str, last: bool = False) -> None:
        """Report what was done so far; `last` if that is all."""
        terminal, now = sys.stderr.isatty(), self._clock()
        if not last and now - self._told_s < (TERMINAL_S if terminal else LOG_S):
            return
        self._told_s = now
        end = "" if terminal and not last else "\n"
        print(f"\r{text:<70}" if terminal else text, end=end, file=sys.stderr, flush=True)

    def count(self, done: int, total: int) -> None:
        """Report jobs done."""
        self.tell(f"{done:,} of {total:,}", done == total)
