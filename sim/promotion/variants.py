"""The same traffic under other conditions: other cache sizes, block sizes, clocks.

Knows traces and cells. Must not know policies. Every variant says whether it is exact: merging blocks is, splitting
them is not: what lies inside a partly equal block is unknown and counts as never shared; and prompts end with their
last full block, before and after, since what lies beyond is unknown too. (Counted as never shared, it would end every
prompt of a conversation in blocks that no later turn has.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workloads import chains
from workloads.cutting import coarsened
from workloads.panel import Cell
from workloads.scaling import compressed
from workloads.trace import Trace

CAPACITY, BLOCKS, TIME = "capacity", "block size", "time"

CAPACITY_FACTORS = (0.8, 1.2)
BLOCK_TOKENS = (16, 64, 256, 512)
TIME_FACTORS = (0.5, 2.0)

MOST_REFS = 2_000_000
"""Block references of a split trace; of longer ones the beginning is taken, and compared with itself unsplit."""


@dataclass(frozen=True)
class Variant:
    """One changed condition: a factor of capacity or time, or tokens per block."""

    kind: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}" if self.kind == BLOCKS else f"{self.kind} x {self.value:g}"


ALL = (
    *(Variant(CAPACITY, factor) for factor in CAPACITY_FACTORS),
    *(Variant(BLOCKS, size) for size in BLOCK_TOKENS),
    *(Variant(TIME, factor) for factor in TIME_FACTORS),
)


@dataclass(frozen=True)
class Case:
    """A trace before and after a change, and the cells that take part.

    Attributes:
        before: The trace as it was, or its beginning.
        after: The changed trace.
        cells: (index among the given cells, capacity before, capacity after), in blocks of each.
        note: What is not exact, or why nothing takes part.
    """

    before: Trace
    after: Trace
    cells: tuple[tuple[int, int, int], ...]
    note: str = ""


def varied(trace: Trace, cells: Sequence[Cell], variant: Variant) -> Case:
    """Return a trace under a changed condition.

    A capacity stays at least as large as the longest prompt. Cells that would not change, or whose warm-up is as long
    as what is replayed, take no part.
    """
    if variant.kind == CAPACITY:
        return _resized(trace, cells, variant.value)
    if variant.kind == TIME:
        same = tuple((i, cell.capacity_blocks, cell.capacity_blocks) for i, cell in enumerate(cells))
        return Case(trace, compressed(trace, variant.value), same)
    return _reblocked(trace, cells, int(variant.value))


def split(trace: Trace, block_tokens: int) -> Trace:
    """Cut every block of a trace whose prompts are `ended` into equal ones.

    Args:
        trace: The trace.
        block_tokens: Tokens per block of the result, a divisor of the trace's.
    """
    parts = trace.block_tokens // block_tokens
    assert parts * block_tokens == trace.block_tokens
    ids = (trace.block_ids.astype(np.int64)[:, None] * parts + np.arange(parts)).ravel()
    return replace(trace, block_tokens=block_tokens, offsets=trace.offsets * parts, block_ids=chains.densify(ids)[0])


def ended(trace: Trace) -> Trace:
    """Return a trace whose prompts end one token after their last full block, so that all of these can be hit."""
    tokens = trace.full_blocks.astype(np.int64) * trace.block_tokens + (trace.full_blocks > 0)
    return replace(trace, input_tokens=tokens.astype(np.int32))


def _resized(trace: Trace, cells: Sequence[Cell], factor: float) -> Case:
    floor_blocks = _floor_blocks(trace)
    sizes = [max(round(cell.capacity_blocks * factor), floor_blocks) for cell in cells]
    kept = tuple((i, c.capacity_blocks, n) for i, (c, n) in enumerate(zip(cells, sizes, strict=True)))
    kept = tuple(cell for cell in kept if cell[1] != cell[2])
    return Case(trace, trace, kept, "" if len(kept) == len(cells) else "some cells are as small as the longest prompt")


def _reblocked(trace: Trace, cells: Sequence[Cell], block_tokens: int) -> Case:
    before, note = trace, ""
    if block_tokens == trace.block_tokens:
        return Case(trace, trace, (), "the trace's own block size")
    if block_tokens % trace.block_tokens == 0:
        after = coarsened(trace, block_tokens)
    elif trace.block_tokens % block_tokens == 0:
        parts, note = trace.block_tokens // block_tokens, "split, not exact"
        fits = int(np.searchsorted(trace.offsets, MOST_REFS // parts, side="right")) - 1
        if 0 < fits < trace.n_requests:
            before, note = trace.slice(0, fits), f"split, not exact, first {fits:,} requests"
        before = ended(before)
        after = split(before, block_tokens)
    else:
        return Case(trace, trace, (), f"blocks of {trace.block_tokens} tokens cannot become {block_tokens}")
    floor_blocks = _floor_blocks(after)
    sizes = [max(cell.capacity_blocks * trace.block_tokens // block_tokens, floor_blocks) for cell in cells]
    kept = [(i, c.capacity_blocks, n) for i, (c, n) in enumerate(zip(cells, sizes, strict=True))]
    kept = [cell for cell in kept if cells[cell[0]].first_counted < before.n_requests and after.n_refs]
    return Case(before, after, tuple(kept), note)


def _floor_blocks(trace: Trace) -> int:
    return max(1, int(trace.occupied_blocks.max()))
