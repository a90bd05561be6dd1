"""What a policy is shown of a replay: the `request` and `cache` records, and the labels of a trace behind them.

Knows the units policies see; must not know how a request is served.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import replay
from sim.core.compiled import kernel

AVERAGE = 1.0 / 64.0
"""Weight of the newest request in the moving averages of the `cache` record."""

TICKS_PER_S = 1024.0
"""Policies see time in 1/1024 s, so that a shifted clock leaves every difference exact."""


class Labels(NamedTuple):
    """Optional columns of the trace, each of shape (n,) or empty if unknown."""

    turn: npt.NDArray[np.int32]
    tenant: npt.NDArray[np.int32]
    type: npt.NDArray[np.int32]
    priority: npt.NDArray[np.int32]


def sample_labels() -> Labels:
    """Return empty labels of the exact types kernels are compiled for."""
    return Labels(*(replay.frozen(np.zeros(0), np.int32) for _ in range(4)))


@kernel(inline=True)
def observe(cache, now_s, origin, running_blocks, counts):
    """Bring the `cache` record up to date; `running_blocks` are held by running requests."""
    cache.now_s = np.floor(now_s * TICKS_PER_S) / TICKS_PER_S + origin
    cache.resident_blocks = counts[replay.RESIDENT]
    cache.running_blocks = running_blocks
    cache.hit_rate = counts[replay.HIT] / max(counts[replay.LOOKED_UP], 1)


@kernel(inline=True)
def present(request, requests, labels, i, hits):
    """Fill the `request` record."""
    request.input_tokens = requests.input_tokens[i]
    request.blocks = requests.offsets[i + 1] - requests.offsets[i]
    request.hit_blocks = hits
    request.turn = labels.turn[i] if labels.turn.size > 0 else 0
    request.tenant = labels.tenant[i] if labels.tenant.size > 0 else 0
    request.type = labels.type[i] if labels.type.size > 0 else 0
    request.priority = labels.priority[i] if labels.priority.size > 0 else 0


@kernel(inline=True)
def average(cache, full, hits, evicted):
    """Move the averages of the `cache` record by a request of `full` blocks."""
    if full > 0:
        cache.recent_hit_rate += (hits / full - cache.recent_hit_rate) * AVERAGE
    cache.pressure += (evicted - cache.pressure) * AVERAGE
    cache.request_blocks += (full - cache.request_blocks) * AVERAGE
