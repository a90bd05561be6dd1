"""Tells on stderr how far long work is. Knows terminals and clocks; must not know what is being done."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

TERMINAL_S, LOG_S = 0.1, 10.0
"""Between two reports: a terminal's line is written over, a log gets a line each."""
QUIET_S = 2.0
"""Work that takes less is not reported by a `Bar`."""
_WIDTH, _CLEAR = 24, "\r\x1b[K"


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


class Bar:
    """Shows what `workloads.progress` tells, once the work as a whole has taken `QUIET_S`: a bar on a terminal."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start.

        Args:
            clock: Seconds from any origin.
        """
        self._clock = clock
        self._began_s = self._told_s = clock()
        self._what, self._since_s, self._first = "", 0.0, 0.0
        self._shown, self._process = False, os.getpid()

    def tell(self, what: str, done: float, total: float | None) -> None:
        """Report how far some work is; a `workloads.progress.Sink`. What forked processes do is not reported."""
        if os.getpid() != self._process:
            return
        now = self._clock()
        if what != self._what:
            self._what, self._since_s, self._first = what, now, done
        terminal = sys.stderr.isatty()
        if total is not None and done >= total:
            self.close()
            return
        if now - self._began_s < QUIET_S or now - self._told_s < (TERMINAL_S if terminal else LOG_S):
            return
        self._told_s, self._shown = now, terminal
        text = _progress(what, done, total, self._left_s(now, done, total))
        print(f"{_CLEAR}{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._shown:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
        self._shown = False

    def _left_s(self, now: float, done: float, total: float | None) -> float | None:
        if total is None or done <= self._first:
            return None
        return (now - self._since_s) * (total - done) / (done - self._first)


def _progress(what: str, done: float, total: float | None, left_s: float | None) -> str:
    if not total:
        return f"{what}: {done:,.4g}"
    share = min(max(done / total, 0.0), 1.0)
    bar = "#" * int(share * _WIDTH)
    left = "" if left_s is None else f", {left_s:.0f} s left"
    return f"{what} [{bar:.<{_WIDTH}}] {share:4.0%}, {done:,.4g} of {total:,.4g}{left}"
