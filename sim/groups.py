"""Groups decisions by a value, and says how well a value tells mistakes from good calls.

Knows arrays of numbers; must not know what was decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.core.fields import NEVER

Bools = npt.NDArray[np.bool_]

MOST_GROUPS = 8
"""Groups per field; buckets are made wider, rare labels taken together, until there are no more."""


@dataclass(frozen=True)
class Group:
    """Decisions with a like value of one field.

    Attributes:
        label: The values: "0", "4-15", "never", "tenant 3", "other".
        decisions: How many.
        mistakes: Of them.
        hit_blocks_lost: By them.
    """

    label: str
    decisions: int
    mistakes: int
    hit_blocks_lost: int


def auc(values: npt.NDArray[np.float64], positive: Bools) -> float:
    """Return P(a positive's value > a negative's), ties half: 0.5 tells nothing apart, 0 and 1 everything.

    Mann-Whitney's U over the number of pairs, from midranks. NaN if either class is empty.
    """
    ones = int(np.count_nonzero(positive))
    pairs = ones * (values.size - ones)
    if not pairs:
        return math.nan
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    midrank = np.cumsum(counts) - (counts - 1) / 2
    return float((midrank[place[positive]].sum() - ones * (ones + 1) / 2) / pairs)


def by_size(values: npt.NDArray[np.int32], mistake: Bools, lost: Bools) -> tuple[Group, ...]:
    """Group whole numbers >= 0 by powers of 2, 4, 8, ...; 0 and `NEVER` stay alone.

    Where nine in ten would fall into one such bucket, bounds are quantiles instead.
    """
    never = values >= NEVER
    known = values[~never]
    if not known.size:
        return _counted(np.zeros(values.size, np.int64), {0: "never"}, mistake, lost)
    bounds = _powers(known)
    shares = np.bincount(np.searchsorted(bounds, known, "right")) / known.size
    if shares.max() > 0.9 and np.unique(known).size > MOST_GROUPS:
        bounds = np.unique(np.quantile(known, np.arange(6) / 6, method="higher"))
    key = np.searchsorted(bounds, values, "right") - 1
    key[never] = bounds.size
    tops = [*(bounds[1:] - 1).tolist(), int(known.max())]
    ranges = zip(bounds.tolist(), tops, strict=True)
    labels = {i: f"{low:,}-{high:,}" if high > low else f"{low:,}" for i, (low, high) in enumerate(ranges)}
    return _counted(key, labels | {bounds.size: "never"}, mistake, lost)


def _powers(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return the lower bounds of the narrowest buckets that are few enough."""
    top = int(values.max()).bit_length()
    for width in range(1, top + 1):
        bounds = np.array([0, *(2**power for power in range(0, top, width))])
        if np.unique(np.searchsorted(bounds, values, "right")).size < MOST_GROUPS:
            return bounds
    return np.array([0])


def by_label(values: npt.NDArray[np.int32], name: str, mistake: Bools, lost: Bools) -> tuple[Group, ...]:
    """Group by label, the most frequent ones alone."""
    found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[: MOST_GROUPS if found.size <= MOST_GROUPS else MOST_GROUPS - 1])
    key_of = np.full(found.size, kept.size)
    key_of[kept] = np.arange(kept.size)
    labels = {i: f"{name} {found[j]}" for i, j in enumerate(kept.tolist())} | {kept.size: "other"}
    return _counted(key_of[place], labels, mistake, lost)


def _counted(key: npt.NDArray[np.int64], labels: dict[int, str], mistake: Bools, lost: Bools) -> tuple[Group, ...]:
    present, place = np.unique(key, return_inverse=True)
    totals = [np.bincount(place, weights, present.size).astype(int) for weights in (None, mistake, lost)]
    rows = zip(present.tolist(), *(total.tolist() for total in totals), strict=True)
    return tuple(Group(labels[key], *counts) for key, *counts in rows)
