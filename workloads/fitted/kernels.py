"""The two loops of the fitted generator, compiled: who continues whom, and the block ids that follow.

Knows arrays only. Must not know tables or traces. numba's own cache goes by the time stamp of this file, so nothing
here may be inlined from another.
"""

from __future__ import annotations

from math import exp, inf, log
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from workloads.columns import F64, I64, Bool

NONE = -1
BRANCH = 2
REACH = 400
"""Requests looked at on each side of the age that was drawn."""
PATIENCE = 4
"""A draw is due when so many times the choice have been served since its turn."""
HORIZON = 50.0
MOST = 0.5
PARTED = 0.3
"""Weight of what a branch leaves of the other prompt, relative to that of depth."""


class Draws(NamedTuple):
    """Prompts to come of one kind, in order."""

    age_s: F64
    depth: F64
    turn: F64
    """Logarithm of 1 + the other's turn."""
    rest: F64
    stale: Bool
    new: I64
    used: Bool


class Grown(NamedTuple):
    """The forest while it grows, an entry per request."""

    parent: I64
    hits: I64
    blocks: I64
    under: I64
    """Length of the common prefix below."""
    taken: I64
    """Blocks that others have used since."""
    taker: I64
    """Who took them last."""
    depth: F64
    """Logarithm of the blocks."""
    turn: I64
    """Requests that it continues, one after another."""
    live: I64
    """Requests of which something is not taken, in order; some more."""


def new_grown(n: int) -> Grown:
    """Return a forest without requests."""
    return Grown(
        np.full(n, NONE, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.full(n, NONE, np.int64),
        np.zeros(n),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@_compiled
def _closed(grown: Grown, i: int) -> Any:
    return grown.taken[i] >= grown.blocks[i]


@_compiled
def _is_stale(grown: Grown, i: int) -> Any:
    return grown.taken[i] > grown.under[i] and 2 * grown.taken[i] > grown.blocks[i]


@_compiled
def _cost(grown: Grown, i: int, depth: float, rest: float, branch: bool, weight: float) -> tuple[float, int]:
    """Return what is wrong with request i as a parent, age apart, and the depth to share; infinite if it is none."""
    if not branch:
        return weight * abs(grown.depth[i] - log(depth + 1.0)), grown.blocks[i]
    least = max(grown.taken[i], grown.under[i]) + 1
    most = grown.blocks[i] - 1
    if least > most:
        return inf, 0
    share = min(max(int(depth + 0.5), least), most)
    parted = abs(log(float(grown.blocks[i] - share)) - log(rest + 1.0))
    return weight * (abs(log((share + 1.0) / (depth + 1.0))) + PARTED * parted), share


@_compiled
def _nearest(
    grown: Grown,
    size: int,
    clock: F64,
    i: int,
    draws: Draws,
    row: int,
    branch: bool,
    any_state: bool,
    depth_weight: float,
    turn_weight: float,
    least_s: float,
    best: float,
    longer: float,
    deeper: float,
) -> tuple[float, int, int]:
    """Return (cost, parent, depth) of the parent that fits a draw best, if it costs less than `best`."""
    age, depth, rest = draws.age_s[row] * longer, max(draws.depth[row] * deeper, 1.0), draws.rest[row]
    target, aim = clock[i] - age, log(age + least_s)
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if clock[grown.live[middle]] < target:
            low = middle + 1
        else:
            high = middle
    left, right, parent, share = low - 1, low, NONE, 0
    left_cost = abs(log(clock[i] - clock[grown.live[left]] + least_s) - aim) if left >= 0 else inf
    right_cost = abs(log(clock[i] - clock[grown.live[right]] + least_s) - aim) if right < size else inf
    for _ in range(2 * REACH):
        apart = min(left_cost, right_cost)
        if apart >= best:
            break
        if left_cost <= right_cost:
            at = grown.live[left]
            left -= 1
            left_cost = abs(log(clock[i] - clock[grown.live[left]] + least_s) - aim) if left >= 0 else inf
        else:
            at = grown.live[right]
            right += 1
            right_cost = abs(log(clock[i] - clock[grown.live[right]] + least_s) - aim) if right < size else inf
        if _closed(grown, at) or (not any_state and _is_stale(grown, at) != draws.stale[row]):
            continue
        wrong, depth_there = _cost(grown, at, depth, rest, branch, depth_weight)
        wrong += turn_weight * abs(log(grown.turn[at] + 1.0) - draws.turn[row])
        if apart + wrong < best:
            best, parent, share = apart + wrong, at, depth_there
    return best, parent, share


@_compiled
def _choose(
    grown: Grown,
    size: int,
    clock: F64,
    i: int,
    draws: Draws,
    head: int,
    served: int,
    branch: bool,
    depth_weight: float,
    turn_weight: float,
    choice: int,
    least_s: float,
    longer: float,
    deeper: float,
) -> tuple[int, int, int]:
    """Return (draw, parent, depth) that fit each other best among the outstanding draws."""
    taken, parent, share = head, NONE, 0
    for any_state in (False, True):
        best, row, seen = inf, head, 0
        most = 1 if served - head > PATIENCE * choice else choice
        while seen < most and row < draws.age_s.size:
            if not draws.used[row]:
                seen += 1
                cost, there, depth = _nearest(
                    grown,
                    size,
                    clock,
                    i,
                    draws,
                    row,
                    branch,
                    any_state,
                    depth_weight,
                    turn_weight,
                    least_s,
                    best,
                    longer,
                    deeper,
                )
                if there != NONE:
                    best, taken, parent, share = cost, row, there, depth
            row += 1
        if parent != NONE:
            break
    return taken, parent, share


@_compiled
def _take(grown: Grown, i: int, parent: int, depth: int) -> None:
    """Note that request i used the first `depth` blocks of its parent."""
    at, top = parent, depth
    while at != NONE and top > grown.under[i]:
        after = grown.taker[at]
        if grown.taken[at] < top:
            top, grown.taken[at], grown.taker[at] = grown.taken[at], top, i
        at = after


@_compiled
def _tidy(grown: Grown, size: int) -> Any:
    """Drop requests of which all is taken; return how many stay."""
    kept = 0
    for row in range(size):
        if not _closed(grown, grown.live[row]):
            grown.live[kept] = grown.live[row]
            kept += 1
    return kept


@_compiled
def grow(
    clock: F64,
    kind: I64,
    under: I64,
    beyond: I64,
    continuations: Draws,
    branches: Draws,
    depth_weight: float,
    turn_weight: float,
    choice: int,
    least_s: float,
    grown: Grown,
) -> None:
    """Find every request's parent, in order of arrival.

    Args:
        clock: float64[n] seconds, not descending.
        kind: int64[n], 0 root, 1 continuation, 2 branch.
        under: int64[n], of roots: blocks of the common prefix.
        beyond: int64[n], of roots: blocks beyond it.
        continuations: As many draws as `kind` has.
        branches: As many draws as `kind` has.
        depth_weight: What a difference of depth costs, relative to one of age, both as logarithms.
        turn_weight: The same of a difference of turns.
        choice: Outstanding draws from which the best is taken.
        least_s: Ages below this count as equal.
        grown: `new_grown(n)`, filled.
    """
    size, heads, served = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
    owed_age, owed_depth, mean = np.zeros(3), np.zeros(3), np.ones(3)
    mean[1] = max(continuations.depth.sum() / max(continuations.depth.size, 1), 1.0)
    mean[2] = max(branches.depth.sum() / max(branches.depth.size, 1), 1.0)
    for i in range(clock.size):
        which = kind[i]
        if which == 0:
            grown.hits[i] = grown.under[i] = under[i]
            grown.blocks[i] = under[i] + beyond[i]
        else:
            branch = which == BRANCH
            draws = branches if branch else continuations
            longer = exp(min(max(owed_age[which] / HORIZON, -MOST), MOST))
            deeper = exp(min(max(owed_depth[which] / (HORIZON * mean[which]), -MOST), MOST))
            row, parent, depth = _choose(
                grown,
                size,
                clock,
                i,
                draws,
                heads[which],
                served[which],
                branch,
                depth_weight,
                turn_weight,
                choice,
                least_s,
                longer,
                deeper,
            )
            draws.used[row] = True
            served[which] += 1
            while heads[which] < draws.used.size and draws.used[heads[which]]:
                heads[which] += 1
            if parent == NONE:  # nothing to continue yet: all of the prompt is new
                grown.blocks[i] = int(draws.depth[row] + 0.5) + draws.new[row]
            else:
                grown.parent[i], grown.hits[i] = parent, depth
                grown.turn[i] = grown.turn[parent] + 1
                owed_depth[which] += draws.depth[row] - depth
                owed_age[which] += log(draws.age_s[row] + least_s) - log(clock[i] - clock[parent] + least_s)
                grown.blocks[i] = depth + draws.new[row]
                grown.under[i] = grown.under[parent]
                _take(grown, i, parent, depth)
        grown.taken[i] = grown.under[i]
        grown.depth[i] = log(grown.blocks[i] + 1.0)
        if not _closed(grown, i):
            grown.live[size] = i
            size += 1
        if i % 256 == 255:
            size = _tidy(grown, size)


@_compiled
def fill_ids(
    offsets: I64,
    parent: I64,
    hits: I64,
    prefix: I64,
    prefix_offsets: I64,
    prefix_ids: I64,
    ids: npt.NDArray[np.int64],
) -> None:
    """Write every request's block ids: its parent's or its common prefix's first `hits`, then new ones.

    Args:
        offsets: int64[n + 1], where each request's ids begin.
        parent: int64[n], an earlier request, -1 for roots.
        hits: int64[n], blocks shared.
        prefix: int64[n], of roots: the common prefix, -1 for none.
        prefix_offsets: int64[k + 1], where each common prefix's ids begin in `prefix_ids`.
        prefix_ids: int64, ids below the first new one.
        ids: int64[offsets[-1]], filled.
    """
    fresh = 0
    for k in range(prefix_ids.size):
        fresh = max(fresh, prefix_ids[k] + 1)
    for i in range(parent.size):
        start = offsets[i]
        if parent[i] != NONE:
            source = offsets[parent[i]]
            for k in range(hits[i]):
                ids[start + k] = ids[source + k]
        elif prefix[i] != NONE:
            for k in range(hits[i]):
                ids[start + k] = prefix_ids[prefix_offsets[prefix[i]] + k]
        for at in range(start + hits[i], offsets[i + 1]):
            ids[at] = fresh
            fresh += 1
