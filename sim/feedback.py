"""Tells a writer of policies what to fix: the weakest cell, the costliest evictions, the rank among baselines.

Knows the future and the optimum; its words go into prompts, so it speaks of training traces only.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.bounds import optimum
from sim.score import Cell, Score
from workloads.trace import Trace


@dataclass(frozen=True)
class Regret:
    """Blocks one request pushed out that a later one asked for while the optimum still had them."""

    evicted_at: int
    asked_at: int
    blocks: int
    tokens: int
    depth: int
    """Of the first of them in its prefix, blocks."""
    age: int
    """Requests between their last use and the eviction."""
    accesses: int
    """Requests that had used the first of them before."""


class _Uses(NamedTuple):
    """References of a trace sorted by block, then time."""

    order: npt.NDArray[np.int64]
    """Positions in `block_ids`."""
    keys: npt.NDArray[np.int64]
    """block * (n_refs + 1) + position, ascending."""
    first: npt.NDArray[np.int64]
    """Per block: its first place in `order`."""
    request_of: npt.NDArray[np.int32]
    """Per position."""


_USES: weakref.WeakKeyDictionary[Trace, _Uses] = weakref.WeakKeyDictionary()


def _uses(trace: Trace) -> _Uses:
    if trace not in _USES:
        order = np.argsort(trace.block_ids, kind="stable")
        keys = trace.block_ids[order].astype(np.int64) * (trace.n_refs + 1) + order
        counts = np.bincount(trace.block_ids, minlength=trace.n_blocks)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        request_of = np.repeat(np.arange(trace.n_requests, dtype=np.int32), trace.full_blocks)
        _USES[trace] = _Uses(order, keys, first, request_of)
    return _USES[trace]


def weakest(cells: Sequence[Cell]) -> int:
    """Return the index of the cell with the lowest share of the gap closed, among those that count."""
    scored = [i for i, cell in enumerate(cells) if cell.counts]
    return min(scored, key=lambda i: cells[i].gap_closed)


def costliest_evictions(
    trace: Trace, capacity_blocks: int, request: npt.NDArray[np.int32], block: npt.NDArray[np.int64], most: int = 10
) -> list[Regret]:
    """Return the evictions that cost most against the offline optimum, dearest first.

    An eviction is regretted if the next request for the block hits it in the optimum's replay. Evictions by one
    request that one later request regrets are taken together.

    Args:
        trace: What was replayed.
        capacity_blocks: Size of the cache.
        request: int32 (m,), requests that needed the room.
        block: int64 (m,), blocks evicted for them.
        most: Length of the list.
    """
    if not request.size:
        return []
    uses = _uses(trace)
    place = np.searchsorted(uses.keys, block * (trace.n_refs + 1) + trace.offsets[request.astype(np.int64) + 1])
    known = np.minimum(place, trace.n_refs - 1)
    use = uses.order[known]
    asked = uses.request_of[use]
    depth = use - trace.offsets[asked]
    again = (place < trace.n_refs) & (trace.block_ids[use] == block)
    regretted = again & (depth < optimum(trace, capacity_blocks).hit_blocks_per_request[asked])
    groups: dict[tuple[int, int], list[int]] = {}
    for i in np.flatnonzero(regretted).tolist():
        groups.setdefault((int(request[i]), int(asked[i])), []).append(i)
    dearest = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:most]
    found = []
    for (evicted_at, asked_at), members in dearest:
        top = min(members, key=lambda i: int(depth[i]))
        age = evicted_at - int(uses.request_of[uses.order[place[top] - 1]])
        accesses = int(place[top] - uses.first[block[top]])
        tokens = len(members) * trace.block_tokens
        found.append(Regret(evicted_at, asked_at, len(members), tokens, int(depth[top]), age, accesses))
    return found


def describe_regrets(regrets: Sequence[Regret], cell: Cell) -> str:
    """Return the costliest evictions as text for a prompt."""
    if not regrets:
        return "none: the optimum keeps nothing that this policy evicted"
    head = f"trace {cell.trace}, capacity {cell.capacity_blocks} blocks; the offline optimum kept these blocks:"
    lines = [
        f"- {r.blocks} blocks ({r.tokens} hit tokens lost) from depth {r.depth}, idle for {r.age} requests, used by "
        f"{r.accesses} before; asked for again {r.asked_at - r.evicted_at} requests later"
        for r in regrets
    ]
    return "\n".join([head, *lines])


def describe_cells(cells: Sequence[Cell]) -> str:
    """Return one line per cell: hit rates of the candidate, LRU and the optimum."""
    lines = ["trace capacity_blocks hit_rate lru optimum gap_closed"]
    for cell in cells:
        rates = (cell.hit_tokens, cell.lru_hit_tokens, cell.optimum_hit_tokens)
        numbers = " ".join(f"{tokens / cell.prompt_tokens:.4f}" for tokens in rates)
        closed = f"{cell.gap_closed:+.3f}" if cell.counts else f"not scored, lost {cell.lost:+.4f}"
        lines.append(f"{cell.trace} {cell.capacity_blocks} {numbers} {closed}")
    return "\n".join(lines)


def describe_rank(result: Score, baselines: Mapping[str, Score]) -> str:
    """Return the place of a score among the baselines."""
    ranked = sorted([*((s.combined, name) for name, s in baselines.items()), (result.combined, "THIS POLICY")])[::-1]
    return "\n".join(f"{i}. {name} {value:+.4f}" for i, (value, name) in enumerate(ranked, 1))
