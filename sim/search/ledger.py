"""What a request cost: how many children came to which end, and the seconds spent on each.

Knows names and clocks; must not know what they stand for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Counts and seconds by name."""

    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, count: int = 1, seconds: float = 0.0) -> None:
        """Add to a name."""
        self.counts[name] = self.counts.get(name, 0) + count
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to a name, without counting it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, 0, time.perf_counter() - started)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return {name: {"count", "seconds"}}, for a record."""
        return {name: {"count": self.counts[name], "seconds": round(self.seconds[name], 4)} for name in self.counts}
