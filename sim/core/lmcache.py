"""LMCache's `LocalCPUBackend` with its own policies: one chunk per block id, LRU, LFU, FIFO or MRU.

Source: LMCache 0.5.6 `LocalCPUBackend` and `cache_policy`, equal request by request to the recorded hits of all four.
A lookup pins the contiguous cached prefix and touches it last to first; missing chunks are put first to last, one
candidate evicted at a time while the store is full; a chunk just put is a candidate. Knows nothing of user policies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import lists, replay
from sim.core.compiled import kernel

LRU, LFU, FIFO, MRU = range(4)


class Chunks(NamedTuple):
    """The store. A chunk is there if it is linked."""

    nodes: npt.NDArray[np.void]
    """`lists.new_nodes`; the only list is in order of put (FIFO) or of last access (LRU, MRU), oldest first. LFU has a
    list per frequency, list 0 for frequency 1. `pinned`: 1 + the request that has pinned it. `uses`: its list."""
    head: np.uint32
    """Head of list 0."""
    lowest: npt.NDArray[np.uint32]
    """Shape (1,), LFU only: the head of a list below which every list is empty."""


def new_chunks(n_blocks: int, n_requests: int, policy: int) -> Chunks:
    """Return an empty store; a chunk is used at most once per request, so no frequency exceeds 1 + `n_requests`."""
    nodes = lists.new_nodes(
        n_blocks, n_requests + 2 if policy == LFU else 1, ("pinned", np.uint32), ("uses", np.uint32)
    )
    return Chunks(nodes, np.uint32(n_blocks), np.full(1, n_blocks, np.uint32))


@kernel(inline=True)
def _touch(chunks, block, policy):
    nodes = chunks.nodes
    if policy == LFU:
        nodes[block].uses += np.uint32(1)
        lists.move_back(nodes, chunks.head + nodes[block].uses, block)
    elif policy != FIFO:
        lists.move_back(nodes, chunks.head, block)


@kernel(inline=True)
def _put(chunks, block):
    chunks.nodes[block].uses = np.uint32(0)
    chunks.lowest[0] = chunks.head
    lists.push_back(chunks.nodes, chunks.head, block)


@kernel(inline=True)
def _skip_pinned(nodes, at, mark):
    """Return the last of the chunks pinned by request `mark` that follow `at` without a gap, or `at`."""
    while nodes[nodes[at].next].pinned == mark:
        at = nodes[at].next
    return at


@kernel(inline=True)
def _least_frequent(chunks, mark):
    """Return the oldest chunk of the lowest frequency that request `mark` has not pinned; there is one."""
    nodes = chunks.nodes
    while nodes[chunks.lowest[0]].next == chunks.lowest[0]:
        chunks.lowest[0] += np.uint32(1)
    head = chunks.lowest[0]
    at = nodes[_skip_pinned(nodes, head, mark)].next
    while at == head:
        head += np.uint32(1)
        at = nodes[_skip_pinned(nodes, head, mark)].next
    return at


@kernel(inline=True)
def _most_recent(chunks, mark):
    """Return the last chunk in order of access that request `mark` has not pinned; there is one."""
    at = chunks.nodes[chunks.head].prev
    while chunks.nodes[at].pinned == mark:
        at = chunks.nodes[at].prev
    return at


@kernel(inline=True)
def _store(chunks, requests, i, found, policy, resident, capacity, counts):
    """Put the missing chunks behind the `found` leading ones; return how many there was room for."""
    nodes = chunks.nodes
    mark, behind = np.uint32(i + 1), chunks.head
    evicted, put = 0, 0
    for k in range(requests.offsets[i] + found, requests.offsets[i + 1]):
        block = requests.block_ids[k]
        if lists.linked(nodes, block):
            continue  # behind a gap: recomputed, but what is there stays as it is
        if resident + put - evicted == capacity:
            if found == capacity:
                break  # everything is pinned
            if policy == MRU:
                victim = _most_recent(chunks, mark)
            elif policy == LFU:
                victim = _least_frequent(chunks, mark)
            else:
                behind = _skip_pinned(nodes, behind, mark)
                victim = nodes[behind].next
            lists.drop(nodes, victim)
            evicted += 1
        _put(chunks, block)
        put += 1
    counts[replay.EVICTED] += evicted
    counts[replay.RESIDENT] += put - evicted
    return put


def _signature() -> Any:
    values = (replay.sample_requests(), new_chunks(1, 1, LRU))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    return types.void(*(numba.typeof(value) for value in values), *(types.int64,) * 3, *outputs)


@kernel(_signature())
def replay_lmcache(requests, chunks, policy, capacity, block_tokens, hits_out, start_out, counts):
    """Replay all requests, one at a time.

    Args:
        requests: `replay.Requests`; a block is a chunk.
        chunks: `new_chunks(n_blocks, n_requests, policy)`.
        policy: LRU, LFU, FIFO or MRU.
        capacity: Chunks.
        block_tokens: Tokens per chunk.
        hits_out: int32 (n,), filled with hit blocks; every request is served.
        start_out: float64 (n,), filled with arrival times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    for i in range(requests.input_tokens.size):
        start, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
        found = 0
        while found < full and lists.linked(chunks.nodes, requests.block_ids[start + found]):
            found += 1
        for k in range(start + found - 1, start - 1, -1):
            chunks.nodes[requests.block_ids[k]].pinned = np.uint32(i + 1)
            _touch(chunks, requests.block_ids[k], policy)
        put = _store(chunks, requests, i, found, policy, counts[replay.RESIDENT], capacity, counts)
        hits = max(min(found, replay.hit_limit(requests, i, block_tokens)), 0)
        replay.tally(counts, full, hits, put)
        replay.account(counts, 0)
        hits_out[i], start_out[i] = hits, requests.arrival_s[i]
