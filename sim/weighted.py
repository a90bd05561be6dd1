"""Bounds on weighted value: a certified ceiling on what any policy saves, and what a feasible schedule does save.

Between two uses a block may be kept, which is worth the value of the hit; while a request runs, its own blocks and
those kept share the capacity. Without the rule that a hit needs its whole prefix this is a packing of intervals: a
linear program whose matrix is totally unimodular, a flow along time (HiGHS, through scipy). Any prices of the
requests' room give a ceiling by weak duality, so the ceiling is computed from the solver's prices with the exact
values and does not rest on its tolerances. Decode is not modelled, one request runs at a time.

Needs the future; processes that run candidates must not import this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.bounds import optimum
from sim.simulation import parse_capacity
from sim.value import FLOPS_PER_S, depth_values
from workloads.trace import Trace

MOST_ARCS = 300_000
"""Intervals with equal ends and nearly equal value are one arc of the flow; the classes widen until so few remain."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WeightedBound:
    """What can be saved at a capacity, in the unit of the objective.

    Attributes:
        upper: No policy saves more (certified by weak duality).
        lower: A schedule that knows the future saves this much; parents may leave before their children.
        greedy: The schedule with the most hit blocks (`sim.optimum`) saves this much; at most `lower`.
        ceiling: An infinite cache saves this much.
        arcs: Size of the flow problem, after merging.
    """

    objective: str
    capacity_blocks: int
    upper: float
    lower: float
    greedy: float
    ceiling: float
    arcs: int

    @property
    def gap(self) -> float:
        """How far the two bounds are apart, as a share of the upper one."""
        return (self.upper - self.lower) / self.upper if self.upper > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Intervals:
    """The times between consecutive uses of a block, of requests that fit.

    Attributes:
        first: int64 (m,), request of the earlier use.
        last: int64 (m,), request of the later use, where keeping yields a hit.
        reference: int64 (m,), reference (index into `trace.block_ids`) of the later use.
        depth: int64 (m,), depth of the block.
        room: int64 (n,), blocks free for keeping while each request runs.
    """

    first: Ints
    last: Ints
    reference: Ints
    depth: Ints
    room: Ints


def weighted_bound(
    trace: Trace,
    capacity: int | float | str,
    objective: str = "flops",
    model: str = "llama-3.1-8b",
    flops_per_s: float = FLOPS_PER_S,
) -> WeightedBound:
    """Return bounds on what prefix hits can save.

    Args:
        trace: What is replayed.
        capacity: As for `sim.simulate`.
        objective: One of `sim.value.OBJECTIVES`.
        model: See `sim.value.depth_values`.
        flops_per_s: Rate at which prefill runs, for "seconds".

    Raises:
        ValueError: If an argument makes no sense, or scipy (extra "bounds") is not installed.
        RuntimeError: If the solver gives up.
    """
    capacity_blocks = parse_capacity(capacity, trace.n_blocks)
    deepest = int(trace.full_blocks.max(initial=0))
    values = depth_values(objective, deepest, trace.block_tokens, model, flops_per_s)
    found = intervals(trace, capacity_blocks)
    value = values[found.depth]
    saved = np.concatenate([[0.0], np.cumsum(values)])
    hits = np.maximum(optimum(trace, capacity_blocks).hit_blocks_per_request, 0)
    greedy = float(saved[hits].sum())
    if not value.size:
        return WeightedBound(objective, capacity_blocks, 0.0, 0.0, greedy, 0.0, 0)
    arc_of, order = _merge(found, value)
    kept, prices = _solve(found, value, arc_of)
    upper = min(_certified(found, value, prices), float(value.sum()))
    lower = max(_repaired(trace, found, saved, _kept_intervals(arc_of, order, kept)), greedy)
    return WeightedBound(objective, capacity_blocks, upper, lower, greedy, float(value.sum()), int(arc_of.max()) + 1)


def intervals(trace: Trace, capacity_blocks: int) -> Intervals:
    """Return the intervals in which keeping a block yields a hit."""
    occupied = trace.occupied_blocks.astype(np.int64)
    served = occupied <= capacity_blocks
    request = np.repeat(np.arange(trace.n_requests), trace.full_blocks)
    depth = np.arange(trace.n_refs) - trace.offsets[request]
    limit = (trace.input_tokens.astype(np.int64) - 1) // trace.block_tokens
    asked = np.flatnonzero(served[request])
    asked = asked[np.argsort(trace.block_ids[asked], kind="stable")]
    again = trace.block_ids[asked[1:]] == trace.block_ids[asked[:-1]]
    earlier, later = asked[:-1][again], asked[1:][again]
    is_use = depth[later] < limit[request[later]]
    earlier, later = earlier[is_use], later[is_use]
    room = np.where(served, capacity_blocks - occupied, capacity_blocks)
    return Intervals(request[earlier], request[later], later, depth[later], room)


def _merge(found: Intervals, value: Floats) -> tuple[Ints, Ints]:
    """Return (arc per interval, intervals ordered by arc and depth).

    Intervals of an arc have equal ends and values within a class of constant ratio.
    """
    ends = found.first * (found.room.size + 1) + found.last
    ratio = 0.0
    while True:
        group = np.zeros(value.size, np.int64)
        if ratio == 0.0:
            group = np.unique(value, return_inverse=True)[1].astype(np.int64)
        elif np.isfinite(ratio):
            group = np.floor(np.log(value) / np.log1p(ratio)).astype(np.int64)
        order = np.lexsort((found.depth, group, ends))
        new = np.diff(ends[order]).astype(bool) | np.diff(group[order]).astype(bool)
        arc_of = np.empty(value.size, np.int64)
        arc_of[order] = np.concatenate([[0], np.cumsum(new)])
        if new.sum() < MOST_ARCS or not np.isfinite(ratio):
            return arc_of, order
        ratio = 0.01 if ratio == 0.0 else 2.0 * ratio if ratio < 4.0 else np.inf


def _solve(found: Intervals, value: Floats, arc_of: Ints) -> tuple[Ints, Floats]:
    """Return (intervals kept per arc, price of a block of room while each request runs)."""
    try:
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix
    except ImportError as error:
        raise ValueError(f"weighted bounds need scipy ({error}); install kvevolve[bounds]") from None
    arcs, requests = int(arc_of.max()) + 1, found.room.size
    size = np.bincount(arc_of)
    mean = np.bincount(arc_of, value) / size
    scale = float(mean.max())
    tail, head = np.empty(arcs, np.int64), np.empty(arcs, np.int64)
    tail[arc_of], head[arc_of] = found.first + 1, found.last
    time = np.arange(requests)
    columns = np.arange(arcs + requests)
    ends = np.concatenate([tail, time]), np.concatenate([head, time + 1])
    ones = np.ones(arcs + requests)
    matrix = csr_matrix((np.r_[ones, -ones], (np.r_[ends], np.r_[columns, columns])), (requests + 1, columns.size))
    supply = np.diff(np.concatenate([[0], found.room, [0]])).astype(np.float64)
    most = np.concatenate([size, np.full(requests, found.room.max(initial=0))])
    answer: Any = linprog(
        np.concatenate([-mean / scale, np.zeros(requests)]),
        A_eq=matrix,
        b_eq=supply,
        bounds=np.column_stack([np.zeros(most.size), most]),
        method="highs-ds",
    )
    if answer.status != 0:
        raise RuntimeError(f"the solver gave up: {answer.message}")
    potential = np.asarray(answer.eqlin.marginals, np.float64) * scale
    return np.floor(answer.x[:arcs] + 0.5).astype(np.int64), np.maximum(np.diff(potential), 0.0)


def _certified(found: Intervals, value: Floats, prices: Floats) -> float:
    """Return the ceiling that prices of room give: room sold at its price, and what intervals are worth beyond it."""
    paid = np.concatenate([[0.0], np.cumsum(prices)])
    cost = paid[found.last] - paid[found.first + 1]
    return float((prices * found.room).sum() + np.maximum(value - cost, 0.0).sum())


def _kept_intervals(arc_of: Ints, order: Ints, kept: Ints) -> npt.NDArray[np.bool_]:
    """Return which intervals are kept: of each arc the shallowest."""
    arcs = arc_of[order]
    starts = np.flatnonzero(np.concatenate([[True], arcs[1:] != arcs[:-1]]))
    rank = np.arange(arcs.size) - starts[arcs]
    chosen = np.empty(arcs.size, np.bool_)
    chosen[order] = rank < kept[arcs]
    return chosen


def _repaired(trace: Trace, found: Intervals, saved: Floats, kept: npt.NDArray[np.bool_]) -> float:
    """Return what a schedule saves when a hit needs its whole prefix.

    Raises:
        RuntimeError: If it keeps more than there is room for.
    """
    n = found.room.size
    load = np.cumsum(np.bincount(found.first[kept] + 1, minlength=n) - np.bincount(found.last[kept], minlength=n))
    if (load > found.room).any():
        raise RuntimeError("the solver's schedule keeps more than there is room for")
    missing = np.ones(trace.n_refs, np.bool_)
    missing[found.reference[kept]] = False
    at = np.flatnonzero(missing)
    stop = np.searchsorted(at, trace.offsets[:-1])
    first = np.concatenate([at, [trace.n_refs]])[stop]
    hits = np.minimum(first, trace.offsets[1:]) - trace.offsets[:-1]
    return float(saved[hits].sum())
