"""A trace made ready for the kernels, once per decode mode: request arrays, ids of generated blocks, parents.

Knows traces and kernels' input; must not know policies or capacities.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.core.continuation import find_continuations
from sim.core.conversations import turns_of
from sim.core.replay import Requests, frozen
from sim.core.view import Labels, labels_of
from workloads.trace import Trace

DECODE = ("none", "private", "infer")
"""Blocks filled by generated tokens: not modelled; cached under ids nobody asks for; under the ids of the request
that continues this one, else private ids."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a replay reads.

    Attributes:
        requests: Arrays for the kernels.
        labels: Optional columns for policies.
        parents: int32 per id, -1 for the first block of a prompt; generated private ids included.
        exact_multiples: Requests whose last block is full: their recomputed last block can be a second copy.
        largest_blocks: Blocks of the largest prompt.
    """

    requests: Requests
    labels: Labels
    parents: npt.NDArray[np.int32]
    exact_multiples: int
    largest_blocks: int
    block_tokens: int


_CACHE: weakref.WeakKeyDictionary[Trace, dict[str, Prepared]] = weakref.WeakKeyDictionary()


def prepare(trace: Trace, decode: str = "none") -> Prepared:
    """Return the arrays of a trace, computed once per trace and decode mode.

    Raises:
        ValueError: If the decode mode is unknown.
    """
    if decode not in DECODE:
        raise ValueError(f"unknown decode mode {decode!r}; choose one of {', '.join(DECODE)}")
    modes = _CACHE.setdefault(trace, {})
    if decode not in modes:
        modes[decode] = _prepare(trace, decode)
    return modes[decode]


def _prepare(trace: Trace, decode: str) -> Prepared:
    offsets, ids, parents = np.zeros(trace.n_requests + 1, np.int64), np.zeros(0, np.int32), trace.parents
    total: npt.NDArray[np.int64] = trace.occupied_blocks.astype(np.int64)
    if decode != "none":
        offsets, ids, parents = _generated(trace, infer=decode == "infer")
        computed = trace.input_tokens.astype(np.int64) + np.maximum(trace.output_tokens, 1) - 1
        total = -(-computed // trace.block_tokens)
    requests = Requests(
        frozen(trace.offsets, np.int64),
        frozen(trace.block_ids.view(np.uint32), np.uint32),
        frozen(offsets, np.int64),
        frozen(ids.astype(np.int32, copy=False).view(np.uint32), np.uint32),
        frozen(np.maximum(total, trace.occupied_blocks), np.int32),
        frozen(trace.input_tokens, np.int32),
        frozen(trace.output_tokens, np.int32),
        frozen(trace.arrival_s, np.float64),
    )
    turns = turns_of(trace.offsets, trace.block_ids, trace.arrival_s)
    labels = labels_of((trace.turn, trace.tenant, trace.request_type, trace.priority), turns)
    exact = int(np.count_nonzero((trace.input_tokens % trace.block_tokens == 0) & (trace.input_tokens > 0)))
    largest = int(trace.occupied_blocks.max(initial=0))
    return Prepared(requests, labels, parents, exact, largest, trace.block_tokens)


def _generated(trace: Trace, infer: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return (offsets, ids, parents) of generated blocks; the last sampled token has no KV yet."""
    n = trace.n_requests
    full = trace.full_blocks.astype(np.int64)
    computed = trace.input_tokens.astype(np.int64) + np.maximum(trace.output_tokens, 1) - 1
    counts = np.maximum(computed // trace.block_tokens - full, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(n), counts)
    rank = np.arange(offsets[-1]) - offsets[owner]
    ids = trace.n_blocks + np.arange(offsets[-1])
    if infer:
        continued_by = np.empty(n, np.int32)
        request_of = np.repeat(np.arange(n, dtype=np.int32), full)
        arguments = (trace.offsets, trace.next_use, request_of, trace.input_tokens, trace.output_tokens)
        kinds = (np.int64, np.int64, np.int32, np.int32, np.int32)
        inputs = [frozen(np.asarray(a), kind) for a, kind in zip(arguments, kinds, strict=True)]
        find_continuations(*inputs, continued_by)
        later = continued_by[owner]
        known = later >= 0
        ids[known] = trace.block_ids[trace.offsets[later[known]] + full[owner[known]] + rank[known]]
        ids[~known] = trace.n_blocks + np.arange(np.count_nonzero(~known))
    private = ids >= trace.n_blocks
    last = np.full(n, -1, np.int64)
    last[full > 0] = trace.block_ids[trace.offsets[1:][full > 0] - 1]
    before = np.where(rank > 0, np.roll(ids, 1), last[owner])
    parents = np.concatenate([trace.parents, before[private]]).astype(np.int32)
    return offsets, ids.astype(np.int32), parents
