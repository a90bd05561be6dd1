"""Random draws with the shapes of serving traffic.

Knows seeds and distributions. Must not know prompts or requests.
"""

from __future__ import annotations

import hashlib
from math import lgamma, log

import numpy as np

from workloads.columns import F64
from workloads.errors import TraceError


def stream(generator: str, seed: int) -> np.random.Generator:
    """Return the random stream of a generator and seed; different names or seeds give independent streams.

    Raises:
        TraceError: the seed is not an integer >= 0.
    """
    if type(seed) is not int or seed < 0:
        raise TraceError(f"seed: expected an integer >= 0, got {seed!r}", field="seed")
    name = int.from_bytes(hashlib.sha256(generator.encode()).digest()[:16], "big")
    return np.random.default_rng(np.random.SeedSequence((name, seed)))


def length(rng: np.random.Generator, median: float, sigma: float, high: int) -> int:
    """Draw a token count: lognormal with the given median and log-sigma, from 1 to ``high``."""
    return int(min(max(rng.lognormal(log(median), sigma), 1.0), high))


def lengths(rng: np.random.Generator, median: float, sigma: float, high: int, count: int) -> list[int]:
    """Draw ``count`` token counts as :func:`length` does."""
    drawn: list[int] = np.clip(rng.lognormal(log(median), sigma, count), 1, high).astype(int).tolist()
    return drawn


def wait_s(rng: np.random.Generator, median_s: float, sigma: float) -> float:
    """Draw a time in seconds: lognormal with the given median and log-sigma."""
    return float(rng.lognormal(log(median_s), sigma))


def gap_s(rng: np.random.Generator, rate_per_s: float, burstiness: float) -> float:
    """Draw a time to the next arrival: Gamma with mean ``1 / rate`` and coefficient of variation ``burstiness``.

    Burstiness 1 is a Poisson process; the Azure 2023 code trace has 13, conversation traffic about 1.
    """
    return float(rng.gamma(1.0 / burstiness**2, burstiness**2 / rate_per_s))


def turns(rng: np.random.Generator, mean: float) -> int:
    """Draw how many turns a session has: geometric with the given mean, at least 1."""
    return int(rng.geometric(1.0 / max(mean, 1.0)))


def weibull_shape(burstiness: float) -> float:
    """Return the shape of the Weibull distribution with a coefficient of variation from 0.05 to 50."""
    low, high = 0.05, 50.0
    for _ in range(80):
        shape = (low * high) ** 0.5
        spread = np.exp(min(lgamma(1 + 2 / shape) - 2 * lgamma(1 + 1 / shape), 700.0)) - 1
        low, high = (shape, high) if spread > burstiness**2 else (low, shape)
    return float(low)


class Popularity:
    """Zipf popularity of ``count`` items: item ``i`` is drawn with weight ``1 / (i + 1) ** exponent``."""

    def __init__(self, count: int, exponent: float) -> None:
        weights: F64 = 1.0 / np.arange(1, count + 1, dtype=np.float64) ** exponent
        self._cumulative = np.cumsum(weights / weights.sum())

    def draw(self, rng: np.random.Generator) -> int:
        """Draw one item, 0 is the most popular."""
        return min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self._cumulative) - 1)
