"""Tells a writer of policies what to fix: the weakest cell, which evictions cost hits, the rank among baselines.

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
from sim.groups import auc, by_size
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


class Judged(NamedTuple):
    """Evictions, one entry each; see `judge_evictions`."""

    regretted: npt.NDArray[np.bool_]
    """Whether the next request for the block hits it in the optimum's replay."""
    request: npt.NDArray[np.int32]
    asked_at: npt.NDArray[np.int32]
    """The request that asks for the block next; only where regretted."""
    depth: npt.NDArray[np.int64]
    age: npt.NDArray[np.int64]
    """Requests since the last use."""
    accesses: npt.NDArray[np.int64]
    """Requests that had used the block; `block.seen` unless the ghost list has forgotten some."""


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


def judge_evictions(
    trace: Trace,
    capacity_blocks: int,
    request: npt.NDArray[np.int32],
    block: npt.NDArray[np.int64],
    first_counted: int = 0,
) -> Judged:
    """Judge evictions by the offline optimum, from a log alone: no candidate's process needs to know the future.

    `sim.explanation` says more, but needs the candidates of every eviction.

    Args:
        trace: What was replayed.
        capacity_blocks: Size of the cache.
        request: int32 (m,), requests that needed the room.
        block: int64 (m,), blocks evicted for them.
        first_counted: Requests before this one warm the cache up: no eviction is regretted for their sake.
    """
    uses = _uses(trace)
    place = np.searchsorted(uses.keys, block * (trace.n_refs + 1) + trace.offsets[request.astype(np.int64) + 1])
    use = uses.order[np.minimum(place, trace.n_refs - 1)]
    asked_at = uses.request_of[use]
    again = (place < trace.n_refs) & (trace.block_ids[use] == block)
    hits = optimum(trace, capacity_blocks, first_counted).hit_blocks_per_request
    before = uses.order[np.maximum(place - 1, 0)]
    last = uses.request_of[before]
    return Judged(
        again & (use - trace.offsets[asked_at] < hits[asked_at]),
        request,
        asked_at,
        before - trace.offsets[last],
        np.maximum(request.astype(np.int64) - last, 0),  # a forged log may name a block nobody had used
        place - uses.first[block],
    )


def costliest_evictions(judged: Judged, block_tokens: int, most: int = 3) -> list[Regret]:
    """Return the evictions that cost most, dearest first.

    Evictions by one request that one later request regrets are taken together.

    Args:
        judged: `judge_evictions(...)`.
        block_tokens: Tokens per block.
        most: Length of the list.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i in np.flatnonzero(judged.regretted).tolist():
        groups.setdefault((int(judged.request[i]), int(judged.asked_at[i])), []).append(i)
    dearest = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:most]
    found = []
    for (evicted_at, asked_at), members in dearest:
        top = min(members, key=lambda i: int(judged.depth[i]))
        facts = int(judged.depth[top]), int(judged.age[top]), int(judged.accesses[top])
        found.append(Regret(evicted_at, asked_at, len(members), len(members) * block_tokens, *facts))
    return found


def describe_evictions(judged: Judged) -> str:
    """Return which evictions are regretted, by the two fields that tell most."""
    share = np.count_nonzero(judged.regretted) / max(judged.regretted.size, 1)
    lines = [f"{share:.1%} of {judged.regretted.size} evictions lost a block that the offline optimum hits next"]
    if not 0 < share < 1:
        return lines[0]
    fields = {"block.seen": judged.accesses, "block.depth": judged.depth, "block.age": judged.age}
    telling = {name: auc(values.astype(np.float64), judged.regretted) for name, values in fields.items()}
    for name in sorted(telling, key=lambda name: -abs(telling[name] - 0.5))[:2]:
        groups = by_size(fields[name].astype(np.int32), judged.regretted, judged.regretted)
        shown = ", ".join(
            f"{g.label} {g.mistakes / g.decisions:.0%}" for g in groups if g.decisions * 100 >= judged.regretted.size
        )
        side = "higher" if telling[name] > 0.5 else "lower"
        lines.append(f"- {name} is {side} where regretted (AUC {telling[name]:.2f}); regretted by value, {shown}")
    return "\n".join(lines)


def describe_bypasses(judged: Judged, missing_blocks: int, bypassed_blocks: int) -> str:
    """Return what admission cost: of what the optimum hits and the policy does not, what no eviction explains.

    Args:
        judged: All evictions of a replay.
        missing_blocks: Hits of the optimum less those of the policy.
        bypassed_blocks: Blocks the policy did not admit.
    """
    evicted = np.count_nonzero(judged.regretted)
    least = min(max(missing_blocks - evicted, 0), bypassed_blocks)
    return (
        f"admission kept out {bypassed_blocks} blocks; the offline optimum hits at least {least} of them next, against "
        f"{evicted} lost to evictions"
    )


def describe_regrets(judged: Judged, regrets: Sequence[Regret], cell: Cell) -> str:
    """Return what is wrong with the evictions, and the costliest, as text for a prompt."""
    head = f"trace {cell.trace}, capacity {cell.capacity_blocks} blocks; {describe_evictions(judged)}"
    lines = [
        f"- {r.blocks} blocks ({r.tokens} hit tokens lost) from depth {r.depth}, idle for {r.age} requests, used by "
        f"{r.accesses} before; asked for again {r.asked_at - r.evicted_at} requests later"
        for r in regrets
    ]
    return "\n".join([head, *["costliest:"] * bool(lines), *lines])


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
