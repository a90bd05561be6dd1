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
CONTINUATION, BRANCH = 1, 2
REACH = 400
"""Requests looked at on each side of the age that was drawn."""
PATIENCE = 4
"""A draw is due when so many times the choice have been served since its turn."""
HORIZON = 50.0
"""Draws over which what is owed, because no request fitted a draw, is made good."""
MOST_OWED = 0.5
"""Limit of that, as a logarithm."""
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


class Rule(NamedTuple):
    """How a prompt finds the one it continues."""

    depth_weight: float
    """What a difference of depth costs, relative to one of age, both as logarithms."""
    turn_weight: float
    """The same of a difference of turns."""
    choice: int
    """Outstanding draws from which the best is taken."""
    least_s: float
    """Ages below this count as equal."""


class Queue(NamedTuple):
    """What is outstanding of a kind, an entry per kind."""

    head: I64
    """First draw that was not used."""
    served: I64
    owed_age: F64
    """Logarithms of ages drawn less those found."""
    owed_depth: F64
    """The same of depths in multiples of their mean."""


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
def _apart(grown: Grown, clock: F64, now: float, place: int, size: int, aim: float, least_s: float) -> float:
    """Return how far the age of the request at a place in `live` is from the one aimed at; infinite beyond its ends."""
    if place < 0 or place >= size:
        return inf
    return abs(log(now - clock[grown.live[place]] + least_s) - aim)


@_compiled
def _nearest(
    grown: Grown,
    size: int,
    clock: F64,
    now: float,
    draws: Draws,
    row: int,
    aims: tuple[float, float],
    branch: bool,
    any_state: bool,
    rule: Rule,
    best: float,
) -> tuple[float, int, int]:
    """Return (cost, parent, depth) of the parent that fits a draw best, if it costs less than `best`."""
    age, depth, rest = draws.age_s[row] * aims[0], max(draws.depth[row] * aims[1], 1.0), draws.rest[row]
    aim = log(age + rule.least_s)
    right, high = 0, size
    while right < high:
        middle = (right + high) // 2
        if clock[grown.live[middle]] < now - age:
            right = middle + 1
        else:
            high = middle
    left, parent, share = right - 1, NONE, 0
    left_cost = _apart(grown, clock, now, left, size, aim, rule.least_s)
    right_cost = _apart(grown, clock, now, right, size, aim, rule.least_s)
    for _ in range(2 * REACH):
        apart = min(left_cost, right_cost)
        if apart >= best:
            break
        if left_cost <= right_cost:
            at, left = grown.live[left], left - 1
            left_cost = _apart(grown, clock, now, left, size, aim, rule.least_s)
        else:
            at, right = grown.live[right], right + 1
            right_cost = _apart(grown, clock, now, right, size, aim, rule.least_s)
        if _closed(grown, at) or (not any_state and _is_stale(grown, at) != draws.stale[row]):
            continue
        wrong, depth_there = _cost(grown, at, depth, rest, branch, rule.depth_weight)
        wrong += rule.turn_weight * abs(log(grown.turn[at] + 1.0) - draws.turn[row])
        if apart + wrong < best:
            best, parent, share = apart + wrong, at, depth_there
    return best, parent, share


@_compiled
def _choose(
    grown: Grown, size: int, clock: F64, now: float, draws: Draws, queue: Queue, which: int, rule: Rule
) -> tuple[int, int, int]:
    """Return (draw, parent, depth) that fit each other best among the outstanding draws."""
    head = queue.head[which]
    aims = exp(_limited(queue.owed_age[which] / HORIZON)), exp(_limited(queue.owed_depth[which] / HORIZON))
    taken, parent, share = head, NONE, 0
    for any_state in (False, True):
        best, row, seen = inf, head, 0
        most = 1 if queue.served[which] - head > PATIENCE * rule.choice else rule.choice
        while seen < most and row < draws.age_s.size:
            if not draws.used[row]:
                seen += 1
                cost, there, depth = _nearest(
                    grown, size, clock, now, draws, row, aims, which == BRANCH, any_state, rule, best
                )
                if there != NONE:
                    best, taken, parent, share = cost, row, there, depth
            row += 1
        if parent != NONE:
            break
    return taken, parent, share


@_compiled
def _limited(owed: float) -> float:
    return min(max(owed, -MOST_OWED), MOST_OWED)


@_compiled
def _derive(
    grown: Grown, size: int, clock: F64, i: int, draws: Draws, queue: Queue, which: int, mean: float, rule: Rule
) -> None:
    """Let request i continue an earlier one."""
    row, parent, depth = _choose(grown, size, clock, clock[i], draws, queue, which, rule)
    draws.used[row] = True
    queue.served[which] += 1
    while queue.head[which] < draws.used.size and draws.used[queue.head[which]]:
        queue.head[which] += 1
    if parent == NONE:  # nothing to continue yet: all of the prompt is new
        grown.blocks[i] = int(draws.depth[row] + 0.5) + draws.new[row]
        return
    queue.owed_depth[which] += (draws.depth[row] - depth) / mean
    age = clock[i] - clock[parent]
    queue.owed_age[which] += log(draws.age_s[row] + rule.least_s) - log(age + rule.least_s)
    grown.parent[i], grown.hits[i] = parent, depth
    grown.blocks[i] = depth + draws.new[row]
    grown.turn[i] = grown.turn[parent] + 1
    grown.under[i] = grown.under[parent]
    _take(grown, i, parent, depth)


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
    clock: F64, kind: I64, under: I64, beyond: I64, continuations: Draws, branches: Draws, rule: Rule, grown: Grown
) -> None:
    """Find every request's parent, in order of arrival.

    Args:
        clock: float64[n] seconds, not descending.
        kind: int64[n], 0 root, 1 continuation, 2 branch.
        under: int64[n], of roots: blocks of the common prefix.
        beyond: int64[n], of roots: blocks beyond it.
        continuations: As many draws as `kind` has.
        branches: As many draws as `kind` has.
        rule: How parents are found.
        grown: `new_grown(n)`, filled.
    """
    size = np.int64(0)  # and `kind[i]` below: for every literal all that is called would be compiled once more
    queue = Queue(np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3), np.zeros(3))
    long = max(continuations.depth.sum() / max(continuations.depth.size, 1), 1.0)
    part = max(branches.depth.sum() / max(branches.depth.size, 1), 1.0)
    for i in range(clock.size):
        if kind[i] == CONTINUATION:
            _derive(grown, size, clock, i, continuations, queue, kind[i], long, rule)
        elif kind[i] == BRANCH:
            _derive(grown, size, clock, i, branches, queue, kind[i], part, rule)
        else:
            grown.hits[i] = grown.under[i] = under[i]
            grown.blocks[i] = under[i] + beyond[i]
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
