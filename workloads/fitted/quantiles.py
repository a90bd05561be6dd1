"""Distributions as a few points of their quantile function, and draws from them that waste no sample.

Knows numbers and random streams. Must not know requests, blocks or traces.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from workloads.columns import F64, I64

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=2**40, allow_inf_nan=False)]

PER_POINT = 4
"""Values behind each point of a curve, at least; a curve is a summary and holds no value of its own."""
PER_BIN = 24
"""Values behind each curve of a conditional distribution, at least."""


class Part(BaseModel):
    """What all parts of the tables share: nothing unknown, nothing changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Curve(RootModel[list[Amount]]):
    """A quantile function: its values at probabilities that lie closest at both ends, see `probabilities`."""

    model_config = ConfigDict(frozen=True)
    root: Annotated[list[Amount], Field(min_length=2, max_length=1_000)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if sorted(self.root) != self.root:
            raise ValueError("expected quantiles that do not descend")
        return self

    def at(self, probability: F64) -> F64:
        """Return the quantiles at the given probabilities, linear between the points."""
        drawn: F64 = np.interp(probability, probabilities(len(self.root)), self.root)
        return drawn

    def draw(self, rng: np.random.Generator, count: int) -> F64:
        """Draw `count` values, spread evenly over the distribution, see `stratified`."""
        return self.at(stratified(rng, count))


class Conditional(Part):
    """Distributions of a whole number for ranges of another quantity.

    Attributes:
        edges: Where each range but the first begins, ascending.
        curves: A distribution per range.
    """

    edges: Annotated[list[Amount], Field(max_length=1_000)]
    curves: Annotated[list[Curve], Field(min_length=1, max_length=1_001)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if len(self.curves) != len(self.edges) + 1:
            raise ValueError(f"expected one curve more than edges, got {len(self.curves)} and {len(self.edges)}")
        if sorted(self.edges) != self.edges:
            raise ValueError("edges: expected them to ascend")
        return self

    def draw(self, rng: np.random.Generator, given: F64) -> F64:
        """Draw a whole number for each of the given values."""
        drawn = np.zeros(len(given))
        range_of = np.searchsorted(self.edges, given, side="right")
        for number in np.unique(range_of):
            members = np.flatnonzero(range_of == number)
            drawn[members] = np.floor(self.curves[number].draw(rng, len(members)))
        return drawn


def stratified(rng: np.random.Generator, count: int, strata: int = 64) -> F64:
    """Return `count` uniform draws that spread evenly over [0, 1): in every run of `strata` of them, and in all.

    Independent draws from a heavy tail move the sums of a trace of some thousand requests by several percent from one
    seed to the next; these leave the order random and the sums where they belong.
    """
    strata = max(1, min(strata, count))
    runs = -(-count // strata)
    coarse = rng.permuted(np.tile(np.arange(strata), (runs, 1)), axis=1)
    fine = rng.permuted(np.tile(np.arange(runs), (strata, 1)), axis=1)
    inner = (fine[coarse, np.arange(runs)[:, None]] + rng.random((runs, strata))) / runs
    drawn: F64 = ((coarse + inner) / strata).ravel()[:count]
    return drawn


def spread(values: npt.ArrayLike) -> F64:
    """Return whole numbers, sorted, equal ones spread evenly over [n, n + 1): rounded down they are themselves again.

    A quantile function of these gives each number its share, small ones too, where interpolation between whole numbers
    would blur them.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    starts = np.flatnonzero(np.diff(ordered, prepend=-1.0))
    counts = np.diff(np.append(starts, len(ordered)))
    rank = np.arange(len(ordered)) - np.repeat(starts, counts)
    even: F64 = ordered + (rank + 0.5) / np.repeat(counts, counts)
    return even


def whole(values: F64) -> I64:
    """Return draws from a distribution of `spread` numbers as whole numbers."""
    return np.floor(values).astype(np.int64)


def probabilities(points: int) -> F64:
    """Return where a curve of so many points has them: (1 - cos) / 2 at equal steps, so that tails are resolved."""
    at: F64 = (1 - np.cos(np.pi * np.linspace(0, 1, points))) / 2
    return at


def summarise(values: npt.ArrayLike, points: int) -> list[float]:
    """Return a `Curve` of the values, as plain numbers, with their mean.

    Args:
        values: At least one, >= 0.
        points: Its points, at most one per `PER_POINT` values.
    """
    known = np.asarray(values, np.float64)
    p = probabilities(max(2, min(points, len(known) // PER_POINT)))
    v = np.quantile(known, p)
    mean = np.trapezoid(v, p)
    if mean > 0:
        v *= known.mean() / mean
    return rounded(np.maximum.accumulate(v))


def rounded(values: npt.ArrayLike) -> list[float]:
    """Return values as short numbers: four digits."""
    short = [float(f"{value:.4g}") for value in np.asarray(values, np.float64)]
    return [int(value) if value.is_integer() else value for value in short]


def summarise_given(given: npt.ArrayLike, values: npt.ArrayLike, ranges: int, points: int) -> dict[str, Any]:
    """Return a `Conditional` of whole numbers for ranges of `given` with equally many each, as plain numbers."""
    key, value = np.asarray(given, np.float64), np.asarray(values, np.float64)
    parts = np.array_split(np.argsort(key, kind="stable"), max(1, min(ranges, len(key) // PER_BIN)))
    edges = rounded([key[part[0]] for part in parts[1:]])
    return {"edges": edges, "curves": [summarise(spread(value[part]), points) for part in parts]}
