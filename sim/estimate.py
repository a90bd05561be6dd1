"""How far hit rates estimated on samples of a trace lie from those of the whole trace.

Knows sweeps; must not know how a sample is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.capacities import Capacities
from sim.curves import Sweep
from sim.policy.program import Policy
from sim.sweeper import sweep
from sim.tables import table
from workloads.trace import Trace


@dataclass(frozen=True, eq=False)
class SamplingError:
    """Differences between sampled and whole curves.

    Attributes:
        whole: The sweep of the whole trace.
        rates: Of the samples.
        points: float64 (rates, seeds, policies, capacities): estimate minus truth, in points of hit rate.
    """

    whole: Sweep
    rates: tuple[float, ...]
    points: npt.NDArray[np.float64]

    def mean_absolute(self, policy: str) -> list[float]:
        """Return the mean absolute error per rate over seeds and capacities, in points of hit rate."""
        column = list(self.whole.policies).index(policy)
        return [float(np.abs(rows[:, column]).mean()) for rows in self.points]

    def __str__(self) -> str:
        head = ["rate", "policy", "mean error", "worst", "bias", *(f"at {c}" for c in self.whole.capacities)]
        rows = []
        for rate, found in zip(self.rates, self.points, strict=True):
            for policy, errors in zip(self.whole.policies, found.transpose(1, 0, 2), strict=True):
                means = np.abs(errors).mean(0)
                summary = (np.abs(errors).mean(), np.abs(errors).max(), errors.mean())
                rows.append([f"{rate:.3g}", policy, *(f"{value:.2f}" for value in (*summary, *means))])
        seeds = self.points.shape[1]
        return f"{table(head, rows, 'rl' + 'r' * (len(head) - 2))}\npoints of hit rate, {seeds} seeds per rate"


def sampling_error(
    trace: Trace,
    rates: Sequence[float] = (1 / 2, 1 / 4, 1 / 10),
    seeds: Sequence[int] = range(5),
    policies: Sequence[str | Path | Policy] = (),
    capacities: Capacities = "1%,2%,5%,10%,20%",
    **options: Any,
) -> SamplingError:
    """Measure what sampling costs on a trace.

    Args:
        trace: Replayed whole once, and once per rate and seed.
        rates: See `workloads.sampling.spatial_sample`.
        seeds: Of the samples.
        policies: As for `sim.sweep`.
        capacities: As for `sim.sweep`.
        options: As for `sim.sweep`.

    Raises:
        ValueError: If an argument makes no sense.
    """
    whole = sweep(trace, policies, capacities, **options)
    truth = _rates(whole)
    found = [
        [_rates(sweep(trace, policies, whole.capacities, sample=rate, seed=seed, **options)) - truth for seed in seeds]
        for rate in rates
    ]
    return SamplingError(whole, tuple(rates), 100 * np.array(found))


def _rates(swept: Sweep) -> npt.NDArray[np.float64]:
    return np.array([list(swept.curve(policy).values()) for policy in swept.policies])
