"""The cache sizes a trace is replayed at.

Knows sizes as a panel names them: ``5%``, ``4096`` blocks, ``40GiB``. Must not know panels or policies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from workloads.errors import TraceError
from workloads.kv_bytes import is_memory, memory_blocks
from workloads.trace import Trace

Capacity = str | int
"""A share of the distinct blocks ("5%"), blocks (4096), or memory ("40GiB")."""


@dataclass(frozen=True)
class Cell:
    """One trace at one cache capacity.

    Attributes:
        trace_name: Key into the traces of the panel.
        fraction: Nominal capacity as a share of the trace's distinct blocks.
        capacity_blocks: Capacity in blocks: the nominal one, rounded down but at least 1, raised to the largest
            request.
        raised: True if it had to be raised: an engine refuses to start with less than its longest prompt needs.
        label: The capacity as the panel names it.
        first_counted: Requests before this one warm the cache up: they are replayed, their hits and tokens not counted.
    """

    trace_name: str
    fraction: float
    capacity_blocks: int
    raised: bool
    label: str = ""
    first_counted: int = 0


def ladder(
    trace_name: str,
    trace: Trace,
    capacities: Sequence[Capacity],
    model: str | int | None = None,
    first_counted: int = 0,
) -> tuple[list[Cell], list[str]]:
    """Return the cells of one trace, from the smallest up, and notes on rungs that were dropped or hold everything.

    Rungs that are raised to the same capacity would count one cell twice: only the largest is kept.

    Args:
        trace_name: Key of the trace in the panel.
        trace: The trace.
        capacities: Nominal capacities.
        model: For capacities in memory, see `workloads.kv_bytes.kv_bytes_per_token`.
        first_counted: First request that counts.

    Raises:
        TraceError: no capacities, or one that makes no sense.
    """
    if not capacities:
        raise TraceError(f"{trace_name}: no capacities - fix: give some, for example 5%, 4096 or 40GiB")
    if not trace.n_blocks:
        raise TraceError(f"{trace_name}: no request has a full block - fix: use another trace or smaller blocks")
    floor_blocks = max(1, int(trace.occupied_blocks.max()))
    kept: dict[int, Cell] = {}
    notes = []
    for share, capacity in sorted(((_share(c, trace, model), c) for c in capacities), key=lambda pair: pair[0]):
        nominal = max(1, int(share * trace.n_blocks))
        blocks = max(nominal, floor_blocks)
        cell = Cell(trace_name, float(share), blocks, nominal < floor_blocks, str(capacity), first_counted)
        if blocks in kept:
            notes.append(
                f"{trace_name}: {kept[blocks].label} dropped, with {blocks:,} blocks (the longest prompt needs"
                f" {floor_blocks:,}) it equals {capacity}"
            )
        if blocks >= trace.n_blocks + floor_blocks:
            notes.append(f"{trace_name}: {capacity} holds all of its {trace.n_blocks:,} blocks: no policy can differ")
        kept[blocks] = cell
    return list(kept.values()), notes


def _share(capacity: Capacity, trace: Trace, model: str | int | None) -> Fraction:
    """Return a capacity as an exact share of the trace's distinct blocks."""
    text = str(capacity).strip()
    if is_memory(text):
        return Fraction(memory_blocks(text, trace.block_tokens, model), trace.n_blocks)
    try:
        if text.endswith("%") and math.isfinite(float(text[:-1])) and 0 < Fraction(text[:-1]) <= 100:
            return Fraction(text[:-1]) / 100
        if int(text) > 0:
            return Fraction(int(text), trace.n_blocks)
    except ValueError:
        pass
    raise TraceError(
        f"capacity {capacity!r}: expected a share of the distinct blocks above 0 and up to 100 ('5%'), blocks (4096),"
        " or memory ('40GiB')"
    )
