"""Cluster bootstrap: how far a sum over requests may be off, had other clusters of requests come.

Requests of one session share their blocks, and what comes at one time shares the cache, so requests are not drawn
alone but in clusters, cut in two ways (`CLUSTERINGS`), because either alone is too kind:

- sessions (`workloads.sampling.groups`: the session column, without one the prefix family of the conversation's root):
  what one conversation asks for hangs together;
- time windows, consecutive requests in equal numbers: what shares the cache at one time hangs together.

Knows how requests hang together, values per request and draws. Must not know policies or scores. Sums drawn with one
`Draws` are paired: the same clusters for all of them, so differences and ratios of such sums keep what they share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workloads import sampling
from workloads.trace import Trace

SAMPLES = 1000
CONFIDENCE = 0.95
SEED = 20_260_701
WINDOWS = 32

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Draws:
    """Clusters of requests, and how often each was drawn, with replacement, in every sample.

    Attributes:
        cluster: int64 (n,), the cluster of each request, from 0 on.
        counts: float64 (samples, clusters).
    """

    cluster: npt.NDArray[np.int64]
    counts: Floats

    def sums(self, values: npt.ArrayLike) -> Floats:
        """Return float64 (samples,): the sum of a value per request, over the requests drawn."""
        per_cluster = np.bincount(self.cluster, np.asarray(values, np.float64), self.counts.shape[1])
        drawn: Floats = self.counts @ per_cluster
        return drawn


def draw(labels: npt.ArrayLike, generator: np.random.Generator, samples: int = SAMPLES) -> Draws:
    """Draw whole clusters, as many as there are.

    Args:
        labels: Integers (n,), equal for requests of one cluster.
        generator: Of the draws; its next draws, of another trace, are independent of these.
        samples: How many times.

    Raises:
        ValueError: If there is no request, or no sample is asked for.
    """
    found, cluster = np.unique(np.asarray(labels), return_inverse=True)
    if not found.size or samples < 1:
        raise ValueError(f"{found.size} clusters, {samples} samples: expected at least one of each")
    counts = generator.multinomial(found.size, np.full(found.size, 1.0 / found.size), samples)
    return Draws(cluster.astype(np.int64), counts.astype(np.float64))


def interval(sampled: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the ends of the percentile interval of sampled values; samples that are no number are left out.

    Raises:
        ValueError: If none is a number, or the confidence is not between 0 and 1.
    """
    values = np.asarray(sampled, np.float64)
    values = values[np.isfinite(values)]
    if not values.size or not 0.0 < confidence < 1.0:
        raise ValueError(f"{values.size} values, confidence {confidence}: expected some, and a share within (0, 1)")
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def sessions(trace: Trace) -> npt.NDArray[np.int64]:
    """Return int64[n], the number of each request's session, or of its prefix family."""
    return np.unique(sampling.groups(trace), return_inverse=True)[1].astype(np.int64)


def windows(trace: Trace) -> npt.NDArray[np.int64]:
    """Return int64[n], the number of each request's time window; windows hold equally many requests."""
    count = min(WINDOWS, trace.n_requests)
    return np.arange(trace.n_requests, dtype=np.int64) * count // trace.n_requests


CLUSTERINGS = {"sessions": sessions, "windows": windows}
