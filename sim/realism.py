"""How like a real trace a synthetic one is: distances between distributions, and hit curves side by side.

Knows two traces and what is compared. Must not know specifications or how either trace came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sim import ladder as ladders
from sim.calibration import GOAL_SHARES
from sim.core import replay
from sim.ladder import Ladder, Percent
from sim.lru_curve import stack_distances
from sim.reuse import SHARES
from sim.tables import table
from workloads.progress import tell
from workloads.statistics import hit_blocks, ks_distance, previous_use, reuse_gaps_s
from workloads.trace import Trace

Values = npt.NDArray[np.float64]

GOAL_POINTS = 3.0
"""Percentage points within which LRU and the optimum are to hit the same at every size of the ladder."""
GRID = 10_001
"""Points of a distribution that are kept: Kolmogorov-Smirnov distances are exact to 1e-4."""
DISTRIBUTIONS = {
    "reuse distance": "distinct blocks used since a block's last use",
    "return time": "seconds since a block's last use",
    "sharing depth": "blocks of a prompt that were used before, prompts with any",
    "prompt length": "tokens",
    "output length": "tokens",
    "gap": "seconds between requests",
}
"""What is compared by distribution, and in which unit."""


@dataclass(frozen=True, eq=False)
class Profile:
    """What is measured of a trace.

    Attributes:
        name: The trace.
        ladder: Hits of LRU and of the optimum.
        fifo: Hits of FIFO, at the same sizes.
        numbers: Single figures by name.
        distributions: Quantiles by name, see `DISTRIBUTIONS`; empty where there is nothing to measure.
        arrival_s: Quantiles of the arrival times, from the first.
    """

    name: str
    ladder: Ladder
    fifo: Percent
    numbers: dict[str, float]
    distributions: dict[str, Values]
    arrival_s: Values

    @cached_property
    def curves(self) -> dict[str, Percent]:
        """Hits by policy."""
        return {"lru": self.ladder.lru, "optimum": self.ladder.optimum, "fifo": self.fifo}


def profile(trace: Trace) -> Profile:
    """Measure a trace."""
    used = np.bincount(trace.block_ids, minlength=trace.n_blocks)
    distances = stack_distances(trace)
    found = distances != replay.NONE
    hits = hit_blocks(trace, ~found)
    samples: dict[str, npt.NDArray[Any]] = {
        "reuse distance": distances[found],
        "return time": reuse_gaps_s(trace, previous_use(trace)),
        "sharing depth": hits[hits > 0],
        "prompt length": trace.input_tokens,
        "output length": trace.output_tokens,
        "gap": np.diff(trace.arrival_s),
    }
    numbers = {
        "requests": float(trace.n_requests),
        "block references": float(trace.n_refs),
        "distinct blocks": float(trace.n_blocks),
        "infinite cache, hit %": 100 * float(found.mean()) if trace.n_refs else 0.0,
        "blocks used once, %": 100 * float((used == 1).mean()) if trace.n_blocks else 0.0,
        "requests with a hit, %": 100 * float((hits > 0).mean()),
        "prompt tokens, mean": float(trace.input_tokens.mean()),
        "output tokens, mean": float(trace.output_tokens.mean()),
        "requests per s": trace.n_requests / trace.span_s if trace.span_s else 0.0,
    }
    return Profile(
        trace.name,
        ladders.ladder(trace),
        ladders.fifo(trace),
        numbers,
        {name: _quantiles(values) for name, values in samples.items()},
        _quantiles(trace.arrival_s - trace.arrival_s[0]),
    )


def _quantiles(values: npt.NDArray[Any]) -> Values:
    if not len(values):
        return np.zeros(0)
    ranks = np.linspace(0, len(values) - 1, GRID).round().astype(np.int64)
    return np.sort(values)[ranks].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Realism:
    """A real trace and synthetic ones of several seeds.

    Attributes:
        real: The real trace.
        made: The synthetic ones.
        seeds: Their seeds.
    """

    real: Profile
    made: tuple[Profile, ...]
    seeds: tuple[int, ...]

    def points(self, policy: str) -> Values:
        """Return percentage points above the real hits, (seeds, sizes)."""
        return np.array([made.curves[policy] - self.real.curves[policy] for made in self.made])

    def distances(self, name: str) -> Values:
        """Return Kolmogorov-Smirnov distances of a distribution, a seed each."""
        real = self.real.distributions[name]
        return np.array([ks_distance(made.distributions[name], real) for made in self.made])

    @cached_property
    def worst_points(self) -> float:
        """Largest difference of LRU or the optimum at a size that counts, over all seeds, percentage points."""
        counts = np.isin(SHARES, GOAL_SHARES)
        return float(max(np.abs(self.points(policy)[:, counts]).max() for policy in ("lru", "optimum")))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, fit for JSON."""
        numbers = {
            name: {"real": value, "made": [made.numbers[name] for made in self.made]}
            for name, value in self.real.numbers.items()
        }
        hits = {
            policy: {
                "real": curve.round(3).tolist(),
                "made": [made.curves[policy].round(3).tolist() for made in self.made],
            }
            for policy, curve in self.real.curves.items()
        }
        return {
            "trace": self.real.name,
            "seeds": list(self.seeds),
            "capacity_shares": list(SHARES),
            "hit_percent_of_block_references": hits,
            "ks_distance": {name: self.distances(name).round(4).tolist() for name in DISTRIBUTIONS},
            "numbers": numbers,
            "worst_points": self.worst_points,
            "goal_points": GOAL_POINTS,
            "reached": self.worst_points <= GOAL_POINTS,
        }

    def __str__(self) -> str:
        heads = ["cache", *(f"{policy} {what}" for policy in self.real.curves for what in ("real", "made", "+-"))]
        rows = []
        for k, share in enumerate(SHARES):
            row = [f"{100 * share:g}%"]
            for policy, curve in self.real.curves.items():
                off = self.points(policy)[:, k]
                row += [f"{curve[k]:.2f}", f"{curve[k] + off.mean():.2f}", f"{np.abs(off).max():.2f}"]
            rows.append(row)
        kinds = [
            [name, f"{self.distances(name).mean():.3f}", f"{self.distances(name).max():.3f}", unit]
            for name, unit in DISTRIBUTIONS.items()
        ]
        figures = []
        for name, value in self.real.numbers.items():
            made = [one.numbers[name] for one in self.made]
            figures.append([name, f"{value:,.6g}", f"{np.mean(made):,.6g}", f"{min(made):,.6g}..{max(made):,.6g}"])
        verdict = "within" if self.worst_points <= GOAL_POINTS else "NOT within"
        return "\n".join(
            [
                f"{self.real.name} against {len(self.made)} seeds: hits in % of block references, blocks as independent"
                " objects; +- is the largest difference of a seed",
                table(heads, rows, "r" * len(heads)),
                "",
                table(["Kolmogorov-Smirnov distance", "mean", "worst", "of"], kinds, "lrrl"),
                "",
                table(["", "real", "made", "seeds"], figures, "lrrr"),
                "",
                f"LRU and optimum at 1 to 20% of the distinct blocks: {self.worst_points:.2f} points off at most,"
                f" {verdict} {GOAL_POINTS:g}",
            ]
        )


def realism(real: Trace, make: Callable[[int], Trace], seeds: Sequence[int]) -> Realism:
    """Compare a real trace with synthetic ones.

    Args:
        real: The real trace.
        make: Returns the synthetic trace of a seed.
        seeds: At least one.
    """
    profiles = []
    tell("measuring, traces", 0, len(seeds) + 1)
    found = profile(real)
    for done, seed in enumerate(seeds, 1):
        tell("measuring, traces", done, len(seeds) + 1)
        profiles.append(profile(make(seed)))
    return Realism(found, tuple(profiles), tuple(seeds))
