"""A run of consecutive requests: what a trace too large for memory is handed around in.

Knows columns and how requests are cut into batches. Must not know files, caches or whether ids are chained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.columns import F64, I32, I64

if TYPE_CHECKING:
    from workloads.trace import Trace

U64 = npt.NDArray[np.uint64]

BATCH_REFS = 1 << 20
"""Block references per batch: 8 MiB of ids."""


@dataclass(frozen=True, eq=False)
class Batch:
    """``n`` consecutive requests; columns as in :class:`workloads.trace.Trace`, but ids as their source wrote them.

    Attributes:
        offsets: int64[n + 1] from 0; request ``i`` references ``block_ids[offsets[i]:offsets[i + 1]]``.
        block_ids: uint64[n_refs], any numbers; equal number, equal whole prefix.
        arrival_s: float64[n] seconds.
        input_tokens: int32[n].
        output_tokens: int32[n].
        session: int32[n] or None, like the columns below; -1 where unknown.
        place: Where the first request stands in its source, for messages: (row group, row).
    """

    offsets: I64
    block_ids: U64
    arrival_s: F64
    input_tokens: I32
    output_tokens: I32
    session: I32 | None = None
    turn: I32 | None = None
    tenant: I32 | None = None
    request_type: I32 | None = None
    priority: I32 | None = None
    place: tuple[int, int] = (0, 0)

    @property
    def n_requests(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def n_refs(self) -> int:
        """Number of references to full blocks."""
        return len(self.block_ids)

    def per_request(self) -> dict[str, Any]:
        """Return the columns with a value per request that are present, by name."""
        known = {**vars(self)}
        for name in ("offsets", "block_ids", "place"):
            del known[name]
        return {name: column for name, column in known.items() if column is not None}

    def slice(self, start: int, stop: int) -> Batch:
        """Return requests ``start`` to ``stop - 1``; views, nothing is copied but offsets."""
        offsets = self.offsets[start : stop + 1]
        cut: dict[str, Any] = {name: column[start:stop] for name, column in self.per_request().items()}
        ids = self.block_ids[offsets[0] : offsets[-1]]
        place = (self.place[0], self.place[1] + start)
        return replace(self, offsets=offsets - offsets[0], block_ids=ids, place=place, **cut)

    def pieces(self, refs: int) -> Iterator[Batch]:
        """Yield batches of at most ``refs`` references, or of one request that has more."""
        start = 0
        while start < self.n_requests:
            reached = int(np.searchsorted(self.offsets, self.offsets[start] + refs, side="right")) - 1
            stop = min(max(reached, start + 1), start + max(refs, 1), self.n_requests)
            yield self.slice(start, stop)
            start = stop


def batch_of(trace: Trace) -> Batch:
    """Return a whole trace as one batch."""
    columns: dict[str, Any] = trace.columns()
    return Batch(**(columns | {"block_ids": trace.block_ids.astype(np.uint64)}))
