"""What one cache reported: blocks stored, blocks removed, everything cleared, in order.

Knows blocks, their parents and times. Must not know formats, requests or simulators: an engine's recording and what a
simulator would have reported are both a `Stream`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from workloads.columns import F64, I32, I64
from workloads.events.msgpack import CLEARED, REMOVED, STORED

__all__ = ["CLEARED", "HIT", "REMOVED", "STORED", "Source", "Stream"]

HIT = 3
"""A request found these blocks. No engine calls it that: vLLM reports hits as stored, see `Stream.with_hits`."""

NAMES = ("stored", "removed", "cleared", "hit")
NONE = -1


@dataclass(frozen=True, order=True)
class Source:
    """Whose events they are.

    Attributes:
        topic: Topic of the publisher; "" where the recording does not have it.
        rank: Data-parallel rank, -1 for none. Each has a cache and a publisher of its own.
        medium: "GPU", "CPU", ...; "" for none: vLLM before 0.11 knew one.
        group: KV-cache group of a hybrid model, -1 for none.
    """

    topic: str = ""
    rank: int = NONE
    medium: str = ""
    group: int = NONE

    def __str__(self) -> str:
        shown = {"topic": self.topic, "medium": self.medium}
        shown |= {name: str(value) for name in ("rank", "group") if (value := getattr(self, name)) != NONE}
        return " ".join(f"{name}={text}" for name, text in sorted(shown.items()) if text) or "the only source"


@dataclass(frozen=True, eq=False)
class Stream:
    """The events of one source; `m` of them list `n` blocks.

    Attributes:
        source: Whose they are.
        block_tokens: Tokens per block; 0 if nothing was stored.
        kind: uint8[m] STORED, REMOVED, CLEARED or HIT.
        offsets: int64[m + 1]; event `e` lists `block[offsets[e]:offsets[e + 1]]`; if stored or hit, in a row.
        block: int32[n] dense numbers in order of first appearance.
        parent: int32[m] the block before the first one stored; -1 for none, and where nothing is stored.
        batch: int32[m] number of the message the event came in; of a simulator, the request.
        time_s: float64[batches] when each message was sent.
        session: int32[m] equal number, equal session; -1 unknown.
        hashes: uint64[blocks] what the engine calls each block; parents that no event lists included.
        provenance: Where this came from, and what is missing.
    """

    source: Source
    block_tokens: int
    kind: npt.NDArray[np.uint8]
    offsets: I64
    block: I32
    parent: I32
    batch: I32
    time_s: F64
    session: I32
    hashes: npt.NDArray[np.uint64]
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.kind)

    @property
    def n_blocks(self) -> int:
        """Number of distinct blocks."""
        return len(self.hashes)

    def listed(self, kind: int) -> int:
        """Return how many blocks the events of a kind list."""
        return int(np.diff(self.offsets)[self.kind == kind].sum())

    def event_of(self) -> I32:
        """int32[n]: the event that lists each block."""
        return np.repeat(np.arange(self.n_events, dtype=np.int32), np.diff(self.offsets))

    def before(self) -> I32:
        """int32[n]: the block before each block stored, -1 for the first of a prompt and where nothing is stored."""
        before = np.full(len(self.block), NONE, np.int32)
        before[1:] = self.block[:-1]
        full = np.diff(self.offsets) > 0
        before[self.offsets[:-1][full]] = self.parent[full]
        before[np.repeat(self.kind != STORED, np.diff(self.offsets))] = NONE
        return before

    def parents(self) -> I32:
        """int32[blocks]: the block before each block where it was first stored; -1 for none, -2 if it never was."""
        parents = np.full(self.n_blocks, -2, np.int32)
        stored = np.repeat(self.kind == STORED, np.diff(self.offsets))
        parents[self.block[stored][::-1]] = self.before()[stored][::-1]  # the last write wins: the first store
        return parents

    def with_hits(self) -> Stream:
        """Return the stream with full reports (see :mod:`workloads.events.accesses`) marked as hits.

        A full report is a store without parent of blocks that are all there. One block alone proves nothing: vLLM also
        stores a second copy of it for a prompt of exactly one block. So it counts only in streams with other reports.
        """
        copies, kind = [0] * self.n_blocks, self.kind.copy()
        listed, single = self.block.tolist(), list[int]()
        rows = zip(self.kind.tolist(), self.parent.tolist(), pairwise(self.offsets.tolist()), strict=True)
        for e, (what, parent, (start, stop)) in enumerate(rows):
            blocks = listed[start:stop]
            if what == STORED and parent == NONE and blocks and all(copies[block] > 0 for block in blocks):
                if len(blocks) > 1:
                    kind[e] = HIT
                else:
                    single.append(e)
                continue
            if what == CLEARED:
                copies = [0] * self.n_blocks
            change = 1 if what == STORED else -1
            for block in blocks:
                copies[block] += change
        if (kind == HIT).any():
            kind[single] = HIT
        return replace(self, kind=kind)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.listed(kind):,} {NAMES[kind]}" for kind in (STORED, REMOVED, HIT))
        return (
            f"Stream({self.source}: {self.n_events:,} events, blocks {counts}, "
            f"{np.count_nonzero(self.kind == CLEARED)} clears, {self.n_blocks:,} distinct)"
        )
