"""Estimates the tables from a real trace.

Knows the derivation forest and which distributions are taken of it. Must not know how traces are made of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from workloads.columns import F64, I64, Bool
from workloads.errors import TraceError
from workloads.fitted.forest import BRANCH, CONTINUATION, KINDS, ROOT, Forest, forest
from workloads.fitted.quantiles import PER_BIN, spread, summarise, summarise_given
from workloads.trace import Trace

FEWEST_REQUESTS = 100
"""Fewer requests show no distribution."""
STRETCHES = 16
PER_STRETCH = 50
DEPTHS = 16
POINTS = 9
KIND_STRETCHES = 32
ROOT_STRETCHES = 32
PER_ROOT_STRETCH = 25
PROFILE_STEPS, PER_PROFILE_STEP = 64, 50


def fit(trace: Trace) -> dict[str, Any]:
    """Return the tables of a trace, plain numbers and lists, see :class:`workloads.fitted.tables.Tables`.

    Raises:
        TraceError: the trace has fewer than `FEWEST_REQUESTS` requests, or no time passes in it.
    """
    if trace.n_requests < FEWEST_REQUESTS or trace.span_s <= 0:
        raise TraceError(
            f"{trace.name}: {trace.n_requests} requests in {trace.span_s:g} s are no distribution - fix: fit a trace"
            f" of {FEWEST_REQUESTS} requests or more, with arrival times"
        )
    found = _without_rare_kinds(forest(trace))
    clock, quantum = even_clock(trace.arrival_s)
    return {
        "requests": trace.n_requests,
        "block_tokens": trace.block_tokens,
        "arrivals": _arrivals(clock, quantum),
        "kinds": _kinds(found.kind),
        "prefixes": [
            {"blocks": int(blocks), "parent": int(parent)}
            for blocks, parent in zip(found.prefix_blocks, found.prefix_parent, strict=True)
        ],
        "roots": _roots(found),
        "continuations": _derived(found, CONTINUATION, clock),
        "branches": _derived(found, BRANCH, clock),
        "tokens": _tokens(trace, found),
    }


def even_clock(arrival_s: F64) -> tuple[F64, float]:
    """Return times with those of one tick spread over it, and the tick; (as they are, 0) if times have none."""
    steps = np.diff(arrival_s)
    ahead = steps[steps > 0]
    if 2 * (len(ahead) + 1) > len(arrival_s):
        return arrival_s, 0.0
    quantum = float(f"{np.median(ahead):.2g}")
    starts = np.flatnonzero(np.concatenate(([True], steps > 0)))
    counts = np.diff(np.append(starts, len(arrival_s)))
    rank = np.arange(len(arrival_s)) - np.repeat(starts, counts)
    return arrival_s + quantum * (rank + 0.5) / np.repeat(counts, counts), quantum


def _without_rare_kinds(found: Forest) -> Forest:
    """Count continuations as branches, or branches as continuations, if too few to describe; if both are, as roots."""
    kind, hits = found.kind.copy(), found.hits.copy()
    counts = np.bincount(kind, minlength=len(KINDS))
    if counts[CONTINUATION] + counts[BRANCH] < PER_BIN:
        hits[kind != ROOT] = 0
        kind[:] = ROOT
    elif min(counts[CONTINUATION], counts[BRANCH]) < PER_BIN:
        kind[kind != ROOT] = CONTINUATION if counts[CONTINUATION] >= counts[BRANCH] else BRANCH
    return replace(found, kind=kind, hits=hits)


def _arrivals(clock: F64, quantum: float) -> dict[str, Any]:
    n = len(clock)
    steps = min(PROFILE_STEPS, max(1, n // PER_PROFILE_STEP))
    profile = np.interp(np.linspace(0, n - 1, steps + 1), np.arange(n), clock - clock[0])
    per_step = np.diff(profile) * steps / (n - 1)
    expected = np.interp((np.arange(n - 1) + 0.5) / (n - 1) * steps, np.arange(steps) + 0.5, per_step)
    gaps = np.diff(clock) / np.maximum(expected, 1e-9)
    return {
        "profile_s": [float(f"{at:.4g}") for at in profile],
        "gaps": summarise(gaps, 65),
        "quantum_s": quantum,
    }


def _kinds(kind: I64) -> list[list[float]]:
    rows = []
    for part in np.array_split(kind, KIND_STRETCHES):
        shares = np.round(np.bincount(part, minlength=len(KINDS)) / len(part), 5)
        rows.append([float(share) for share in (1 - shares[1:].sum(), *shares[1:])])
    return rows


def _stretches(members: Bool, most: int = STRETCHES, each: int = PER_STRETCH) -> list[I64]:
    """Return the members in up to `STRETCHES` parts, in order."""
    rows = np.flatnonzero(members)
    return np.array_split(rows, max(1, min(most, len(rows) // each)))


def _roots(found: Forest) -> dict[str, Any]:
    under, beyond = found.prefix + 1, found.blocks - found.hits
    roots = found.kind == ROOT
    uses = np.bincount(under[roots], minlength=len(found.prefix_blocks) + 1)
    group = np.where(uses >= PER_STRETCH, np.cumsum(uses >= PER_STRETCH), 0)
    members = [roots & (group[under] == number) for number in range(group.max() + 1)]
    stretches = [_stretches(rows, ROOT_STRETCHES, PER_ROOT_STRETCH) for rows in members]
    if members[0].sum() < PER_BIN:  # too few to describe: as long as roots are
        stretches[0] = _stretches(roots, 1)
    popularity = [
        np.bincount(under[part][roots[part]], minlength=len(uses)).tolist()
        for part in np.array_split(np.arange(len(roots)), KIND_STRETCHES)
    ]
    return {
        "popularity": popularity,
        "group": group.tolist(),
        "beyond": [
            [{"start": _share(part, found), "blocks": summarise(spread(beyond[part]), 33)} for part in parts]
            for parts in stretches
        ],
    }


def _derived(found: Forest, kind: int, clock: F64) -> dict[str, Any]:
    members = found.kind == kind
    if not members.any():
        return {"stretches": [], "turn": None, "new": None, "rest": None, "stale_share": 0.0}
    age = clock - clock[found.parent]
    stretches = [
        {
            "start": _share(part, found),
            "age_s": summarise(age[part], 32),
            "depth": summarise_given(age[part], found.hits[part], DEPTHS, POINTS),
        }
        for part in _stretches(members)
    ]
    hits = found.hits[members]
    rest = (found.parent_blocks - found.hits)[members]
    return {
        "stretches": stretches,
        "turn": summarise_given(hits, turns(found)[found.parent[members]], 12, 9),
        "new": summarise_given(hits, (found.blocks - found.hits)[members], 12, 16),
        "rest": summarise_given(hits, rest, 8, 12) if kind == BRANCH else None,
        "stale_share": round(float(found.stale[members].mean()), 4),
    }


def turns(found: Forest) -> I64:
    """Return how many requests each continues, one after another."""
    turn = np.zeros(len(found.kind), np.int64)
    for i in np.flatnonzero(found.kind != ROOT):
        turn[i] = turn[found.parent[i]] + 1
    return turn


def _share(part: I64, found: Forest) -> float:
    return round(float(part[0]) / len(found.kind), 4)


def _tokens(trace: Trace, found: Forest) -> dict[str, Any]:
    tail = trace.input_tokens % trace.block_tokens
    full = trace.full_blocks > 0
    output = []
    for kind in range(len(KINDS)):
        members = found.kind == kind
        output.append(
            summarise(spread(trace.output_tokens[members] if members.sum() >= PER_BIN else trace.output_tokens), 33)
        )
    return {
        "tail": summarise(spread(tail[full] if full.any() else [0]), 17),
        "short": summarise(spread(tail[~full] if (~full).any() else [0]), 17),
        "output": output,
    }
