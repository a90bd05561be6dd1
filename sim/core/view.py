"""What a policy is shown of a replay: the `request` and `cache` records, and the labels of a trace behind them.

Knows the units policies see; must not know how a request is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import fields, replay
from sim.core.compiled import kernel
from sim.core.conversations import Turns, new_turns

AVERAGE = 1.0 / 64.0
"""Weight of the newest request in the moving averages of the `cache` record."""

TICKS_PER_S = 1024.0
"""Policies see time in 1/1024 s, so that a shifted clock leaves every difference exact."""


class Labels(NamedTuple):
    """Columns of the trace of shape (n,): the first four are empty if unknown, the others always there."""

    turn: npt.NDArray[np.int32]
    tenant: npt.NDArray[np.int32]
    type: npt.NDArray[np.int32]
    priority: npt.NDArray[np.int32]
    inferred_turn: npt.NDArray[np.int32]
    """This and the following are `conversations.Turns`."""
    turn_gap: npt.NDArray[np.int32]
    turn_gap_s: npt.NDArray[np.float64]
    continued: npt.NDArray[np.float64]
    usual_gap: npt.NDArray[np.float64]


def labels_of(known: Sequence[npt.NDArray[Any] | None], turns: Turns) -> Labels:
    """Return the labels of requests.

    Args:
        known: turn, tenant, type and priority; None if unknown, -1 where unknown.
        turns: Of the same requests.
    """
    columns = (np.zeros(0, np.int32) if column is None else np.maximum(column, 0) for column in known)
    given = (replay.frozen(column, np.int32) for column in columns)
    return Labels(*given, *(replay.frozen(column, column.dtype) for column in turns))


def sample_labels() -> Labels:
    """Return empty labels of the exact types kernels are compiled for."""
    return labels_of((None,) * 4, new_turns(0))


@kernel(inline=True)
def observe(cache, now_s, origin, running_blocks, counts):
    """Bring the `cache` record up to date; `running_blocks` are held by running requests."""
    cache.now_s = np.floor(now_s * TICKS_PER_S) / TICKS_PER_S + origin
    cache.resident_blocks = counts[replay.RESIDENT]
    cache.running_blocks = running_blocks
    cache.hit_rate = counts[replay.HIT] / max(counts[replay.LOOKED_UP], 1)


@kernel(inline=True)
def present(request, requests, labels, i, hits, known):
    """Fill the `request` record; `known` full blocks from the start are in the cache or remembered."""
    request.input_tokens = requests.input_tokens[i]
    request.blocks = requests.offsets[i + 1] - requests.offsets[i]
    request.hit_blocks = hits
    request.known_blocks = known
    request.output_tokens = requests.output_tokens[i]
    request.inferred_turn = labels.inferred_turn[i]
    request.turn_gap = labels.turn_gap[i] if labels.turn_gap[i] > 0 else fields.NEVER
    request.turn_gap_s = labels.turn_gap_s[i] if labels.turn_gap[i] > 0 else fields.NEVER
    request.turn = labels.turn[i] if labels.turn.size > 0 else 0
    request.tenant = labels.tenant[i] if labels.tenant.size > 0 else 0
    request.type = labels.type[i] if labels.type.size > 0 else 0
    request.priority = labels.priority[i] if labels.priority.size > 0 else 0


@kernel(inline=True)
def follow(cache, labels, i):
    """Bring the averages over conversations up to date, request `i` included."""
    cache.continued = labels.continued[i]
    cache.usual_gap = labels.usual_gap[i]


@kernel(inline=True)
def average(cache, full, hits, evicted):
    """Move the averages of the `cache` record by a request of `full` blocks."""
    if full > 0:
        cache.recent_hit_rate += (hits / full - cache.recent_hit_rate) * AVERAGE
    cache.pressure += (evicted - cache.pressure) * AVERAGE
    cache.request_blocks += (full - cache.request_blocks) * AVERAGE
