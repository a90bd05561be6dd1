"""Mooncake Store's master: objects with leases, evicted in batches above a watermark; beside the compute pool, serial.

From source, not measured: Mooncake `master_service.cpp`, one replica per object, no hard pins, groups or disk. Asking
for the blocks of a prompt grants a lease to all that are stored, first to last, behind a gap too (`BatchExistKey`); the
missing ones are put first to last, without a lease. When more than the watermark is used, or a put has failed for lack
of room, a batch is evicted: of all objects max(ratio, used - watermark + ratio), oldest lease first, expired leases and
no soft pins only; then, if less than max(half of that, used - watermark) went, soft pins too, oldest lease first. The
engine's thread looks every 10 ms, here it looks at every arrival and before every put. Nothing knows of prefixes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import lists, replay
from sim.core.compiled import kernel

LISTS = 4


class Settings(NamedTuple):
    """Flags of the master."""

    watermark: float
    """Share of the capacity above which a batch is evicted."""
    ratio: float
    """Least share of the objects in a batch."""
    lease_s: float
    """What asking for an object grants."""
    soft_pin_s: float
    """How long a soft pin holds after the put or the last lease."""
    soft_pin_priority: int
    """Least priority of a request that puts its objects with a soft pin, 0 for none."""
    evict_soft_pinned: bool
    """Whether soft pins may be evicted at all."""


class Objects(NamedTuple):
    """The stored objects; an object is there if it is linked."""

    nodes: npt.NDArray[np.void]
    """`lists.new_nodes` with four lists, each by end of lease: put and not asked for since, asked for since the put,
    and the same two of objects put with a soft pin. `lease_s`, `soft_pin_s`: when they end; `soft`: 1 if put with a
    soft pin; `wanted`: 1 + the request that last found it missing."""
    failed: npt.NDArray[np.int64]
    """Shape (1,): 1 if a put has found no room since the last batch."""


def new_objects(n_blocks: int) -> Objects:
    """Return an empty store."""
    fields = (("lease_s", np.float64), ("soft_pin_s", np.float64), ("wanted", np.uint32), ("soft", np.uint32))
    return Objects(lists.new_nodes(n_blocks, LISTS, *fields), np.zeros(1, np.int64))


@kernel(inline=True)
def _oldest(nodes, now_s, soft_pinned):
    """Return the object of the oldest lease that has ended, with or without a soft pin, or `replay.NONE`."""
    oldest = replay.NONE
    for k in range(LISTS):
        head = np.uint32(nodes.size - LISTS + k)
        first = nodes[head].next
        if first == head or nodes[first].lease_s > now_s or (nodes[first].soft_pin_s > now_s) != soft_pinned:
            continue
        if oldest == replay.NONE or nodes[first].lease_s < nodes[oldest].lease_s:
            oldest = first
    return oldest


@kernel(inline=True)
def _evict(nodes, now_s, soft_pinned, most):
    """Evict up to `most` objects; return how many."""
    evicted = 0
    while evicted < most:
        victim = _oldest(nodes, now_s, soft_pinned)
        if victim == replay.NONE:
            break
        lists.drop(nodes, victim)
        evicted += 1
    return evicted


@kernel(inline=True)
def _look(objects, now_s, capacity, settings, counts):
    """What the eviction thread does when it wakes up."""
    objects_stored = counts[replay.RESIDENT]
    used = objects_stored / capacity
    if used <= settings.watermark and objects.failed[0] == 0:
        return
    target = max(settings.ratio, used - settings.watermark + settings.ratio)
    least = max(target * 0.5, used - settings.watermark)
    evicted = _evict(objects.nodes, now_s, False, np.int64(np.ceil(objects_stored * target)))
    if settings.evict_soft_pinned:
        evicted += _evict(objects.nodes, now_s, True, np.int64(np.ceil(objects_stored * least)) - evicted)
    if evicted > 0:
        objects.failed[0] = 0
    counts[replay.EVICTED] += evicted
    counts[replay.RESIDENT] -= evicted


@kernel(inline=True)
def _ask(nodes, requests, i, now_s, settings):
    """Grant leases to the stored blocks of request `i`, note the others as wanted; return the leading ones stored."""
    start, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
    found = 0
    for k in range(full):
        block = requests.block_ids[start + k]
        if not lists.linked(nodes, block):
            nodes[block].wanted = np.uint32(i + 1)
            continue
        found += found == k
        nodes[block].lease_s = now_s + settings.lease_s
        nodes[block].soft_pin_s = now_s + settings.soft_pin_s if nodes[block].soft else -np.inf
        lists.move_back(nodes, np.uint32(nodes.size - LISTS + 1) + np.uint32(2) * nodes[block].soft, block)
    return found


@kernel(inline=True)
def _put(objects, block, now_s, soft, capacity, settings, counts):
    """Put an object; return whether there was room."""
    if counts[replay.RESIDENT] == capacity:
        objects.failed[0] = 1
        return False
    node = objects.nodes[block]
    node.soft = soft
    node.lease_s, node.soft_pin_s = now_s, now_s + settings.soft_pin_s if soft else -np.inf
    lists.push_back(objects.nodes, np.uint32(objects.nodes.size - LISTS) + np.uint32(2) * node.soft, block)
    counts[replay.RESIDENT] += 1
    return True


def _signature() -> Any:
    values = (
        replay.sample_requests(),
        replay.frozen(np.zeros(0), np.int32),
        new_objects(1),
        Settings(0.0, 0.0, 0.0, 0.0, 0, True),
    )
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    return types.void(*(numba.typeof(value) for value in values), types.int64, types.int64, *outputs)


@kernel(_signature())
def replay_mooncake_store(requests, priorities, objects, settings, capacity, block_tokens, hits_out, start_out, counts):
    """Replay all requests, one at a time.

    Args:
        requests: `replay.Requests`; a block is an object.
        priorities: int32 (n,), or empty where `settings.soft_pin_priority` is 0.
        objects: `new_objects(n_blocks)`.
        settings: `Settings`.
        capacity: Objects.
        block_tokens: Tokens per block.
        hits_out: int32 (n,), filled with hit blocks; every request is served.
        start_out: float64 (n,), filled with arrival times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    for i in range(requests.input_tokens.size):
        full, now_s = requests.offsets[i + 1] - requests.offsets[i], requests.arrival_s[i]
        soft = settings.soft_pin_priority > 0 and priorities[i] >= settings.soft_pin_priority
        _look(objects, now_s, capacity, settings, counts)
        found, put = _ask(objects.nodes, requests, i, now_s, settings), 0
        for k in range(requests.offsets[i], requests.offsets[i + 1]):
            if objects.nodes[requests.block_ids[k]].wanted == i + 1:
                _look(objects, now_s, capacity, settings, counts)
                put += _put(objects, requests.block_ids[k], now_s, soft, capacity, settings, counts)
        hits = max(min(found, replay.hit_limit(requests, i, block_tokens)), 0)
        replay.tally(counts, full, hits, put)
        replay.account(counts, 0)
        hits_out[i], start_out[i] = hits, now_s
