"""How well a preset follows an engine: what the engine reported, against what the preset would have, event by event.

Knows streams of events. Must not know engines or files. Blocks are matched by their place: the first block ever stored
behind a given one is the first that the simulator stores there, the second the second. So the trace has to be what the
engine served, in its order. Blocks the simulator never stores stay without a match.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from sim.tables import table
from workloads.columns import I32, I64
from workloads.events.stream import CLEARED, HIT, NAMES, NONE, REMOVED, STORED, Stream

CHECKPOINTS = 64
CONTEXT = 4
"""Events shown before and behind the first difference."""


@dataclass(frozen=True)
class Difference:
    """Where two streams part.

    Attributes:
        event: Number of the first block that differs, of all that events list.
        request: The simulator is at, None if it has nothing more.
        message: The engine is at, None if it has nothing more.
        time_s: Of that message, since the first.
        context: (number, engine, simulator) of what happens around it.
    """

    event: int
    request: int | None
    message: int | None
    time_s: float | None
    context: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class Comparison:
    """An engine's events against a simulator's; counts are of blocks, pairs are (engine, simulator).

    Attributes:
        stored: Blocks stored.
        removed: Blocks removed.
        hit: Blocks found; None without full reports.
        equal_events: How many are equal, in order, before the first difference.
        equal_removals: The same of removals alone.
        common_removals: Removals that both have, in whatever order.
        unmatched_blocks: Blocks of the engine that have no match.
        resident: Per checkpoint (engine, simulator, both): distinct blocks there; checkpoints are equally many stores
            apart.
        first_difference: None if all is equal.
    """

    stored: tuple[int, int]
    removed: tuple[int, int]
    hit: tuple[int, int] | None
    equal_events: int
    equal_removals: int
    common_removals: int
    unmatched_blocks: int
    resident: tuple[tuple[int, int, int], ...]
    first_difference: Difference | None

    @property
    def resident_overlap(self) -> tuple[float, float]:
        """Smallest and mean share of the blocks resident in either that are in both."""
        shares = [both / max(engine + simulated - both, 1) for engine, simulated, both in self.resident]
        return min(shares, default=1.0), float(np.mean(shares)) if shares else 1.0

    def to_dict(self) -> dict[str, object]:
        """Return plain numbers and text, fit for JSON."""
        low, mean = self.resident_overlap
        return asdict(self) | {"resident_overlap_min": low, "resident_overlap_mean": mean}

    def __str__(self) -> str:
        """Return the counts, and the first difference with what is around it."""
        low, mean = self.resident_overlap
        pairs = {"stored": self.stored, "removed": self.removed, "hit": self.hit}
        rows = [[f"blocks {name}", *(f"{n:,}" for n in pair)] for name, pair in pairs.items() if pair]
        events = [sum(pair[side] for pair in pairs.values() if pair) for side in (0, 1)]
        lines = [
            table(["", "engine", "simulator"], rows),
            f"equal in order, before the first difference: {self.equal_events:,} of {max(events):,} events, "
            f"{self.equal_removals:,} of {max(self.removed):,} evictions",
            f"evictions of both, in any order: {self.common_removals:,}",
            f"resident in both, of those in either: {low:.2%} at worst, {mean:.2%} on average",
        ]
        if self.unmatched_blocks:
            lines.append(f"blocks only the engine has: {self.unmatched_blocks:,}")
        found = self.first_difference
        if found is None:
            return "\n".join([*lines, "no difference"])
        at = "the end" if found.time_s is None else f"message {found.message}, {found.time_s:.3f} s"
        where = "the end" if found.request is None else f"request {found.request}"
        lines += ["", f"first difference: event {found.event:,}; the engine at {at}, the simulator at {where}"]
        return "\n".join([*lines, table(["event", "engine", "simulator"], found.context, "rll")])


@dataclass(frozen=True)
class _Flat:
    """A stream block by block."""

    kind: npt.NDArray[np.uint8]
    block: I32
    event: I64

    def of(self, *kinds: int) -> _Flat:
        keep = np.isin(self.kind, kinds)
        return _Flat(self.kind[keep], self.block[keep], self.event[keep])


def compare(engine: Stream, simulated: Stream) -> Comparison:
    """Compare an engine's stream with a simulator's.

    Args:
        engine: As recorded.
        simulated: From `sim.engine_events.engine_events`.

    Raises:
        ValueError: Blocks of different sizes.
    """
    if engine.block_tokens not in (0, simulated.block_tokens):
        raise ValueError(
            f"the engine's blocks have {engine.block_tokens} tokens, the trace's {simulated.block_tokens}; "
            "read the trace with the engine's block size"
        )
    engine = engine.with_hits()
    full = bool((engine.kind == HIT).any())
    match, unmatched = _matched(engine, simulated)
    theirs, ours = _flat(engine), _flat(simulated)
    theirs = _Flat(theirs.kind, np.where(theirs.block < 0, theirs.block, match[theirs.block]), theirs.event)
    if not full:
        ours = ours.of(STORED, REMOVED)
    removals, our_removals = theirs.of(REMOVED).block, ours.of(REMOVED).block
    equal = _equal(theirs, ours, np.diff(engine.offsets))
    parted = equal < max(len(theirs.kind), len(ours.kind))
    counts = [np.bincount(side, minlength=simulated.n_blocks + unmatched) for side in (removals, our_removals)]
    return Comparison(
        (engine.listed(STORED), simulated.listed(STORED)),
        (len(removals), len(our_removals)),
        (engine.listed(HIT), simulated.listed(HIT)) if full else None,
        equal,
        _common_prefix(removals, our_removals),
        int(np.minimum(*counts).sum()),
        unmatched,
        _residents(theirs, ours, simulated.n_blocks + unmatched),
        _difference(equal, theirs, ours, engine, simulated) if parted else None,
    )


def _flat(stream: Stream) -> _Flat:
    """Return a stream block by block; a clear has a row of its own, without block, unless nothing was stored before."""
    sizes = np.diff(stream.offsets)
    clears = (stream.kind == CLEARED) & np.logical_or.accumulate(stream.kind == STORED)
    event = np.repeat(np.arange(stream.n_events), sizes + clears)
    block = np.full(len(event), NONE, np.int32)
    block[~clears[event]] = stream.block
    return _Flat(stream.kind[event], block, event)


def _matched(engine: Stream, simulated: Stream) -> tuple[I32, int]:
    """Return the simulator's number of each block of the engine, and how many got one of their own behind those."""
    below: dict[int, list[int]] = defaultdict(list)
    parents = simulated.parents().tolist()
    for block in _first_stored(simulated):
        below[parents[block]].append(block)
    match = np.full(engine.n_blocks, -2, np.int64)
    match_list, taken = match.tolist(), defaultdict[int, int](int)
    parents = engine.parents().tolist()
    for block in _first_stored(engine):
        parent = NONE if parents[block] == NONE else match_list[parents[block]]
        siblings = below.get(parent, [])
        if taken[parent] < len(siblings):
            match_list[block] = siblings[taken[parent]]
            taken[parent] += 1
    match = np.array(match_list, np.int64)
    lone = np.flatnonzero(match < 0)
    match[lone] = simulated.n_blocks + np.arange(len(lone))
    return match.astype(np.int32), len(lone)


def _first_stored(stream: Stream) -> list[int]:
    """Return the blocks in the order in which they were first stored."""
    stored = stream.block[np.repeat(stream.kind == STORED, np.diff(stream.offsets))]
    blocks, first = np.unique(stored, return_index=True)
    order: list[int] = blocks[np.argsort(first)].tolist()
    return order


def _equal(theirs: _Flat, ours: _Flat, sizes: I64) -> int:
    """Return how many rows are equal before the first that differ.

    A report of one block, and its second copy stored, look the same: what the simulator says it is, it is.
    """
    n = min(len(theirs.kind), len(ours.kind))
    same = theirs.kind[:n] == ours.kind[:n]
    same |= (theirs.kind[:n] == HIT) & (ours.kind[:n] == STORED) & (sizes[theirs.event[:n]] == 1)
    same &= theirs.block[:n] == ours.block[:n]
    return n if same.all() else int(np.argmin(same))


def _common_prefix(a: I32, b: I32) -> int:
    n = min(len(a), len(b))
    same = a[:n] == b[:n]
    return n if same.all() else int(np.argmin(same))


def _residents(theirs: _Flat, ours: _Flat, n_blocks: int) -> tuple[tuple[int, int, int], ...]:
    """Return how many distinct blocks are resident in each and in both, at equal numbers of stores."""
    stores = min(int((side.kind == STORED).sum()) for side in (theirs, ours))
    if stores == 0:
        return ()
    marks = np.unique(np.linspace(1, stores, min(CHECKPOINTS, stores)).astype(np.int64))
    positions = [np.searchsorted(np.cumsum(side.kind == STORED), marks) + 1 for side in (theirs, ours)]
    copies = [np.zeros(n_blocks, np.int64) for _ in positions]
    found, begins = [], [0, 0]
    for k in range(len(marks)):
        for i, side in enumerate((theirs, ours)):
            begin, end = begins[i], int(positions[i][k])
            cleared = np.flatnonzero(side.kind[begin:end] == CLEARED)
            if cleared.size:
                copies[i][:] = 0
                begin += int(cleared[-1]) + 1
            for kind, sign in ((STORED, 1), (REMOVED, -1)):
                part = side.block[begin:end][side.kind[begin:end] == kind]
                copies[i] += sign * np.bincount(part, minlength=n_blocks)
            begins[i] = end
        there = [side > 0 for side in copies]
        found.append((int(there[0].sum()), int(there[1].sum()), int((there[0] & there[1]).sum())))
    return tuple(found)


def _difference(at: int, theirs: _Flat, ours: _Flat, engine: Stream, simulated: Stream) -> Difference:
    """Describe the first rows that differ."""
    message = int(engine.batch[theirs.event[at]]) if at < len(theirs.event) else None
    request = int(simulated.batch[ours.event[at]]) if at < len(ours.event) else None
    context = tuple(
        (row, _shown(theirs, row, engine, "message"), _shown(ours, row, simulated, "request"))
        for row in range(max(at - CONTEXT, 0), min(at + CONTEXT + 1, max(len(theirs.kind), len(ours.kind))))
    )
    time_s = None if message is None else float(engine.time_s[message] - engine.time_s[0])
    return Difference(at, request, message, time_s, context)


def _shown(side: _Flat, row: int, stream: Stream, unit: str) -> str:
    if row >= len(side.kind):
        return "-"
    text = NAMES[side.kind[row]] + (f" block {side.block[row]}" if side.block[row] >= 0 else "")
    return f"{text}, {unit} {stream.batch[side.event[row]]}"
