"""Makes a trace from tables: requests in order of arrival, each told what kind it is and what it continues.

Knows the tables and how they are drawn from. Must not know how they were fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from workloads.columns import F64, I64, INT32_MAX
from workloads.errors import TraceError
from workloads.fitted import kernels
from workloads.fitted.forest import BRANCH, CONTINUATION, ROOT
from workloads.fitted.kernels import NONE, Draws, Grown, Rule
from workloads.fitted.quantiles import Conditional, stratified, whole
from workloads.fitted.tables import Beyond, Derived, Stretch, Tables
from workloads.synthetic.draws import stream
from workloads.trace import Trace

MOST_PREFIX_BLOCKS = 1 << 24


def generate(tables: Tables, seed: int, requests: int, block_tokens: int) -> Trace:
    """Return a trace like the one the tables were fitted to.

    Args:
        tables: Fitted tables.
        seed: Seed, >= 0.
        requests: Requests in the trace; their rate stays that of the tables.
        block_tokens: Tokens per block. What is shared is known to a block of the tables: with smaller blocks a prompt
            parts from another no later than there.

    Raises:
        TraceError: the trace would hold more block references than fit.
    """
    rng = stream("fitted", seed)
    place = np.arange(requests) / requests
    kind = _kinds(rng, tables, requests)
    clock = _clock(rng, tables, requests)
    prefix, under, beyond = _roots(rng, tables, kind, place)
    grown = kernels.new_grown(requests)
    least_s = max(float(clock[-1] - clock[0]) / requests, 1e-6)
    draws = [
        _draws(rng, tables, derived, place[kind == which])
        for which, derived in ((CONTINUATION, tables.continuations), (BRANCH, tables.branches))
    ]
    match = tables.match
    rule = Rule(match.depth_weight, match.turn_weight, match.choice, least_s)
    kernels.grow(clock, kind, under, beyond, *draws, rule, grown)
    prompt, output = _tokens(rng, tables, kind, grown.blocks)
    offsets, ids = _ids(tables, grown, prefix, prompt, block_tokens)
    session = _sessions(grown.parent)
    quantum = tables.arrivals.quantum_s
    return Trace.build(
        name=f"fitted-seed{seed}",
        block_tokens=block_tokens,
        offsets=offsets,
        block_ids=ids,
        arrival_s=np.floor(clock / quantum) * quantum if quantum else np.round(clock, 4),
        input_tokens=prompt,
        output_tokens=output,
        session=session,
        turn=grown.turn,
    )


def _kinds(rng: np.random.Generator, tables: Tables, requests: int) -> I64:
    """Return each request's kind: in every stretch as many of each as the tables say, in random order."""
    shares = np.array(tables.kinds)
    edges = np.arange(len(shares) + 1) * requests // len(shares)
    kind = np.empty(requests, np.int64)
    owed = np.zeros(3)
    for row, (start, stop) in enumerate(pairwise(edges.tolist())):
        owed += shares[row] * (stop - start)
        counts = np.maximum(np.floor(owed), 0).astype(np.int64)
        while counts.sum() < stop - start:
            counts[np.argmax(owed - counts)] += 1
        while counts.sum() > stop - start:
            counts[np.argmax(counts - owed)] -= 1
        owed -= counts
        kind[start:stop] = rng.permutation(np.repeat(np.arange(3), counts))
    return kind


def _clock(rng: np.random.Generator, tables: Tables, requests: int) -> F64:
    """Return arrival times: gaps as the tables have them, laid along their profile."""
    steps = np.cumsum(tables.arrivals.gaps.draw(rng, requests))
    span = steps[-1] - steps[0]
    along = (steps - steps[0]) / span if span > 0 else np.zeros(requests)
    profile = np.array(tables.arrivals.profile_s) * (requests / tables.requests)
    clock: F64 = np.interp(along, np.linspace(0, 1, len(profile)), profile)
    return clock


def _roots(rng: np.random.Generator, tables: Tables, kind: I64, place: F64) -> tuple[I64, I64, I64]:
    """Return, for roots, the common prefix, its length and the blocks beyond it."""
    n = len(kind)
    prefix, under, beyond = np.full(n, NONE), np.zeros(n, np.int64), np.zeros(n, np.int64)
    lengths = np.array([0, *(item.blocks for item in tables.prefixes)])
    rows = np.flatnonzero(kind == ROOT)
    part = (place[rows] * len(tables.roots.popularity)).astype(np.int64)
    entry = np.zeros(len(rows), np.int64)
    for number, popularity in enumerate(tables.roots.popularity):
        members = np.flatnonzero(part == number)
        share = np.cumsum(popularity) / max(sum(popularity), 1)
        entry[members] = np.searchsorted(share[:-1], stratified(rng, len(members), len(members)), side="right")
    prefix[rows], under[rows] = entry - 1, lengths[entry]
    group = np.array(tables.roots.group)[entry]
    for number, stretches in enumerate(tables.roots.beyond):
        members = rows[group == number]
        for stretch, chosen in zip(stretches, _within(stretches, place[members]), strict=True):
            beyond[members[chosen]] = whole(stretch.blocks.draw(rng, len(chosen)))
    return prefix, under, beyond


def _within(stretches: Sequence[Stretch | Beyond], place: F64) -> list[I64]:
    """Return the places in each stretch."""
    number = np.searchsorted([stretch.start for stretch in stretches], place, side="right") - 1
    return [np.flatnonzero(np.maximum(number, 0) == wanted) for wanted in range(len(stretches))]


def _draws(rng: np.random.Generator, tables: Tables, derived: Derived, place: F64) -> Draws:
    """Return what is to be continued and how, for requests at the given places in the trace."""
    n = len(place)
    age, depth = np.zeros(n), np.zeros(n)
    for stretch, members in zip(derived.stretches, _within(derived.stretches, place), strict=True):
        age[members], depth[members] = _aged(rng, tables, stretch, len(members))
    stale = stratified(rng, n) < derived.stale_share
    new = _given(rng, derived.new, depth).astype(np.int64)
    turn = np.log1p(_given(rng, derived.turn, depth))
    rest = _given(rng, derived.rest, depth)
    return Draws(age, depth * tables.match.depth_scale, turn, rest, stale, new, np.zeros(n, np.bool_))


def _aged(rng: np.random.Generator, tables: Tables, stretch: Stretch, count: int) -> tuple[F64, F64]:
    age = stretch.age_s.draw(rng, count)
    return age * tables.match.age_scale, stretch.depth.draw(rng, age)


def _given(rng: np.random.Generator, conditional: Conditional | None, given: F64) -> F64:
    return np.zeros(len(given)) if conditional is None else conditional.draw(rng, given)


def _tokens(rng: np.random.Generator, tables: Tables, kind: I64, blocks: I64) -> tuple[I64, I64]:
    """Return prompt and generated tokens."""
    most = tables.block_tokens - 1
    tail = np.where(
        blocks > 0, tables.tokens.tail.draw(rng, len(kind)), tables.tokens.short.draw(rng, len(kind))
    ).astype(np.int64)
    prompt = blocks * tables.block_tokens + np.minimum(tail, most)
    output = np.zeros(len(kind), np.int64)
    for which, curve in enumerate(tables.tokens.output):
        members = np.flatnonzero(kind == which)
        output[members] = whole(curve.draw(rng, len(members)))
    return prompt, output


def _ids(tables: Tables, grown: Grown, prefix: I64, prompt: I64, block_tokens: int) -> tuple[I64, I64]:
    """Return offsets and block ids, in blocks of `block_tokens`."""
    sizes = prompt // block_tokens
    if prompt.max(initial=0) > INT32_MAX or sizes.sum() > INT32_MAX:
        raise TraceError(
            f"field 'requests': expected a trace of at most {INT32_MAX:,} block references, found {sizes.sum():,}"
            f" and prompts up to {prompt.max(initial=0):,} tokens - fix: fewer requests or larger blocks",
            field="requests",
        )
    offsets: I64 = np.concatenate(([0], np.cumsum(sizes)))
    prefix_offsets, prefix_ids = _prefix_ids(tables, block_tokens)
    ids = np.empty(int(offsets[-1]), np.int64)
    hits = grown.hits * tables.block_tokens // block_tokens
    kernels.fill_ids(offsets, grown.parent, hits, prefix, prefix_offsets, prefix_ids, ids)
    return offsets, ids


def _prefix_ids(tables: Tables, block_tokens: int) -> tuple[I64, I64]:
    """Return the ids of the common prefixes, those of each where the offsets say."""
    total = sum(item.blocks * tables.block_tokens // block_tokens for item in tables.prefixes)
    if total > MOST_PREFIX_BLOCKS:
        raise TraceError(
            f"field 'tables': expected common prefixes of at most {MOST_PREFIX_BLOCKS:,} blocks together, found"
            f" {total:,} - fix: larger blocks",
            field="tables",
        )
    paths: dict[int, list[int]] = {-1: []}
    used = 0
    for number in sorted(range(len(tables.prefixes)), key=lambda k: tables.prefixes[k].blocks):
        item = tables.prefixes[number]
        length = item.blocks * tables.block_tokens // block_tokens
        shared = paths[item.parent]
        paths[number] = [*shared, *range(used, used + length - len(shared))]
        used += length - len(shared)
    rows = [paths[number] for number in range(len(tables.prefixes))]
    offsets: I64 = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    return offsets, np.array([block for row in rows for block in row], np.int64)


def _sessions(parent: I64) -> I64:
    """Return each request's session: a root and all that continues it."""
    session = np.zeros(len(parent), np.int64)
    session[parent == NONE] = np.arange(np.count_nonzero(parent == NONE))
    for i in np.flatnonzero(parent != NONE):
        session[i] = session[parent[i]]
    return session
