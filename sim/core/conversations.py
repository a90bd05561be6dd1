"""Which request continues which, seen from block ids alone: turns of conversations, and the time between them.

A request continues the one whose last full block is the deepest such block in its prompt, unless another request has
gone on from there before: then it branches off, as from a shared system prompt, and starts anew. The same prompt sent
again counts as a turn. Only the last `REMEMBERED` requests are looked at, so an engine can keep the same table: one
entry per request. Knows ids and order; must not know caches or policies. Trace columns with recorded sessions are not
used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import replay
from sim.core.compiled import kernel

REMEMBERED = 64_000
"""Requests after which a last block is forgotten; the default of `fields.GHOST_BLOCKS` for blocks."""

PART_REFS = 1 << 20
"""Block references of a whole trace looked at in one part."""

AVERAGE = 1.0 / 64.0
"""Weight of the newest request, or turn, in the moving averages, once there have been as many."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 / golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4)."""


PLACES, REQUESTS, WITH_BLOCKS, CONTINUING = range(4)


class Tails(NamedTuple):
    """Last full blocks of requests, by open addressing with linear probing, and the moving averages."""

    key: npt.NDArray[np.uint64]
    """Shape (a power of two,): id of the block."""
    turn: npt.NDArray[np.int32]
    """Turn of the request that ended there; 0: the place is empty; negative: another request has gone on from it."""
    last: npt.NDArray[np.int64]
    """Number of that request."""
    last_s: npt.NDArray[np.float64]
    """Its arrival."""
    counts: npt.NDArray[np.int64]
    """Shape (4,): `PLACES` taken, `REQUESTS` in all, of them `WITH_BLOCKS`, of them `CONTINUING` another."""
    average: npt.NDArray[np.float64]
    """Shape (2,): share of requests that continue one, mean of ln(turn gap)."""


class Turns(NamedTuple):
    """Columns of n requests."""

    inferred_turn: npt.NDArray[np.int32]
    """1 for a request that continues none."""
    turn_gap: npt.NDArray[np.int32]
    """Requests since the one it continues; 0 if none."""
    turn_gap_s: npt.NDArray[np.float64]
    """The same in seconds."""
    continued: npt.NDArray[np.float64]
    """Share of requests that continue one, moving average, this one included."""
    usual_gap: npt.NDArray[np.float64]
    """Geometric mean of turn gaps in requests, moving average, this one included; 0 before the first."""


def new_tails(n_requests: int) -> Tails:
    """Return an empty table for `n_requests`, or for any number if that is `REMEMBERED`."""
    places = 1 << (4 * min(n_requests, REMEMBERED) + 3).bit_length()
    return Tails(
        np.zeros(places, np.uint64),
        np.zeros(places, np.int32),
        np.zeros(places, np.int64),
        np.zeros(places),
        np.zeros(4, np.int64),
        np.zeros(2),
    )


def new_turns(n_requests: int) -> Turns:
    """Return columns to be filled."""
    n = n_requests
    return Turns(np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n), np.zeros(n), np.zeros(n))


def follow(tails: Tails, offsets: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], arrival_s: Any) -> Turns:
    """Return the columns of the next requests, given their full blocks (CSR) and arrival times in seconds."""
    turns = new_turns(arrival_s.size)
    inputs = replay.frozen(offsets, np.int64), replay.frozen(keys, np.uint64), replay.frozen(arrival_s, np.float64)
    first = infer(tails, *inputs, 0, turns)
    while first < arrival_s.size:
        _forget(tails, int(tails.counts[REQUESTS]))
        first = infer(tails, *inputs, first, turns)
    return turns


def turns_of(offsets: npt.NDArray[np.int64], block_ids: npt.NDArray[np.int32], arrival_s: Any) -> Turns:
    """Return the columns of a whole trace, given its dense ids; a part at a time, since keys are 64 bits wide."""
    tails, parts, first = new_tails(arrival_s.size), [new_turns(0)], 0
    while first < arrival_s.size:
        stop = max(first + 1, int(np.searchsorted(offsets, offsets[first] + PART_REFS, side="right")) - 1)
        keys = block_ids[offsets[first] : offsets[stop]].astype(np.uint64)
        parts.append(follow(tails, offsets[first : stop + 1] - offsets[first], keys, arrival_s[first:stop]))
        first = stop
    return Turns(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _forget(tails: Tails, now: int) -> None:
    """Build the table again from what is remembered."""
    alive = (tails.turn != 0) & (tails.last >= now - REMEMBERED)
    entries = tails.key[alive], tails.turn[alive], tails.last[alive], tails.last_s[alive]
    tails.turn[:] = 0
    tails.counts[PLACES] = 0
    restore(tails, *(replay.frozen(column, column.dtype) for column in entries))


@kernel(inline=True)
def _place_of(tails, key):
    """Return the place of a block, or the empty one where it belongs."""
    last = np.uint64(tails.key.size - 1)
    mixed = (key ^ (key >> np.uint64(32))) * _GOLDEN
    place = (mixed >> np.uint64(32)) & last
    while tails.turn[place] != 0 and tails.key[place] != key:
        place = (place + np.uint64(1)) & last
    return place


@kernel(inline=True)
def _put(tails, key, turn, last, last_s):
    place = _place_of(tails, key)
    tails.counts[PLACES] += tails.turn[place] == 0
    tails.key[place], tails.turn[place] = key, turn
    tails.last[place], tails.last_s[place] = last, last_s


@kernel(inline=True)
def _end(tails, key, turn, number, arrival_s):
    """Note where a request ended; a block from which another has gone on stays a branching point."""
    place = _place_of(tails, key)
    branching = tails.turn[place] < 0 and tails.last[place] >= number - REMEMBERED
    _put(tails, key, -turn if branching else turn, number, arrival_s)


@kernel(inline=True)
def _average(tails, turns, i):
    """Move the averages by a request with a full block."""
    continues = turns.turn_gap[i] > 0
    tails.counts[WITH_BLOCKS] += 1
    weight = max(AVERAGE, 1.0 / tails.counts[WITH_BLOCKS])
    tails.average[0] += weight * ((1.0 if continues else 0.0) - tails.average[0])
    if continues:
        tails.counts[CONTINUING] += 1
        weight = max(AVERAGE, 1.0 / tails.counts[CONTINUING])
        tails.average[1] += weight * (np.log(float(turns.turn_gap[i])) - tails.average[1])


def _table() -> Any:
    return numba.typeof(new_tails(1))


def _read_only(*kinds: Any) -> list[Any]:
    return [types.Array(kind, 1, "C", readonly=True) for kind in kinds]


@kernel(types.void(_table(), *_read_only(types.uint64, types.int32, types.int64, types.float64)))
def restore(tails, keys, turn, last, last_s):
    """Enter what was in a table before."""
    for k in range(keys.size):
        _put(tails, keys[k], turn[k], last[k], last_s[k])


@kernel(inline=True)
def _continued(tails, offsets, keys, i):
    """Return (place of the block request `i` goes on from, its position), or a position of -1."""
    for k in range(offsets[i + 1] - 1, offsets[i] - 1, -1):
        place = _place_of(tails, keys[k])
        if tails.turn[place] != 0 and tails.last[place] >= tails.counts[REQUESTS] - REMEMBERED:
            return place, k if tails.turn[place] > 0 else np.int64(-1)
    return np.uint64(0), np.int64(-1)


@kernel(
    types.int64(
        _table(),
        *_read_only(types.int64, types.uint64, types.float64),
        types.int64,
        numba.typeof(new_turns(1)),
    )
)
def infer(tails, offsets, keys, arrival_s, first, turns):
    """Fill the columns from request `first` on; return where the table was full, or the number of requests.

    Args:
        tails: `Tails`, kept from call to call.
        offsets: int64 (n + 1,), CSR over `keys`.
        keys: uint64, ids of full blocks in prefix order; equal id, equal whole prefix.
        arrival_s: float64 (n,).
        first: Request to begin with.
        turns: `Turns` of n requests.
    """
    for i in range(first, arrival_s.size):
        if 2 * tails.counts[PLACES] >= tails.key.size:
            return i
        number = tails.counts[REQUESTS]
        turns.inferred_turn[i] = 1
        if offsets[i + 1] > offsets[i]:
            place, k = _continued(tails, offsets, keys, i)
            if k >= 0:
                turns.inferred_turn[i] = tails.turn[place] + 1
                turns.turn_gap[i] = number - tails.last[place]
                turns.turn_gap_s[i] = arrival_s[i] - tails.last_s[place]
                if k < offsets[i + 1] - 1:
                    tails.turn[place] = -tails.turn[place]
            _average(tails, turns, i)
            _end(tails, keys[offsets[i + 1] - 1], turns.inferred_turn[i], number, arrival_s[i])
        tails.counts[REQUESTS] += 1
        turns.continued[i] = tails.average[0]
        turns.usual_gap[i] = np.exp(tails.average[1]) if tails.counts[CONTINUING] > 0 else 0.0
    return arrival_s.size
