"""When sessions start: until enough requests are due, and by the hour of the day.

Knows times of starts. Must not know what a session does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from math import exp, lgamma, pi, sqrt

import numpy as np

from workloads.synthetic.draws import gap_s
from workloads.synthetic.prompts import RequestLog

DAY_S = 86_400.0


def starts(log: RequestLog, requests: int, next_gap_s: Callable[[], float]) -> Iterator[tuple[int, float]]:
    """Yield (number, start in seconds) of sessions until ``requests`` requests arrive before the next start.

    The caller adds each session's requests before it asks for the next. So all that belongs to the kept requests is
    there, however late sessions come back, and the end of a trace is not a drain.

    Args:
        log: Where the caller adds the requests.
        requests: Requests needed.
        next_gap_s: Draws the seconds from one start to the next.
    """
    now, look = 0.0, requests
    for number in count():
        if len(log) >= look:
            missing = requests - log.before(now)
            if missing <= 0:
                return
            look = len(log) + max(1, missing // 2)
        yield number, now
        now += next_gap_s()


def steady(rng: np.random.Generator, rate_per_s: float, burstiness: float = 1.0) -> Callable[[], float]:
    """Return a draw of the seconds between starts: Gamma with mean ``1 / rate_per_s``; burstiness 1 is Poisson."""
    return partial(gap_s, rng, rate_per_s, burstiness)


class Day:
    """A rate that repeats every 24 h: ``trough + (peak - trough) * ((1 + cos) / 2) ** k``, mean 1.

    Args:
        peak: Highest rate over the mean, > 1, at hour 14.
        trough: Lowest rate over the mean, < 1, at hour 2; ``k`` follows from the mean.
    """

    _STEPS = 1_440

    def __init__(self, peak: float, trough: float) -> None:
        power = _power((1.0 - trough) / (peak - trough))
        hours = (np.arange(self._STEPS) + 0.5) * 24.0 / self._STEPS
        self.rates = trough + (peak - trough) * ((1.0 + np.cos((hours - 14.0) * pi / 12.0)) / 2.0) ** power
        self._passed = np.concatenate(([0.0], np.cumsum(self.rates))) / self.rates.sum()

    def at_s(self, passed: float) -> float:
        """Return the time in seconds at which the integral of the rate is ``passed`` mean days."""
        days, rest = divmod(passed, 1.0)
        return DAY_S * (days + float(np.interp(rest, self._passed, np.linspace(0.0, 1.0, self._STEPS + 1))))

    def gaps(self, rng: np.random.Generator, rate_per_s: float, burstiness: float) -> Callable[[], float]:
        """Return a draw of the seconds between starts of a mean rate: a Gamma renewal process on the day's clock."""
        passed, now = 0.0, 0.0

        def draw() -> float:
            nonlocal passed, now
            passed += gap_s(rng, rate_per_s * DAY_S, burstiness)
            before, now = now, self.at_s(passed)
            return now - before

        return draw


def _power(mean: float) -> float:
    """Return k for which the mean of ``((1 + cos) / 2) ** k`` over a turn is ``mean``, from 0 to 1 exclusive."""
    low, high = 1e-6, 1e6
    for _ in range(100):
        middle = sqrt(low * high)
        found = exp(lgamma(middle + 0.5) - lgamma(middle + 1.0)) / sqrt(pi)
        low, high = (middle, high) if found > mean else (low, middle)
    return low
