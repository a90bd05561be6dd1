"""The rungs of successive halving: which cells of a panel are replayed first, and which only for survivors.

Knows what cells cost and which belong together; must not know policies or scores.
"""

from __future__ import annotations

from collections.abc import Sequence

CHEAP = 0.1
"""Share of a full pass that the first rung may spend on further capacities of cheap traces."""


def rungs(shares: Sequence[float], groups: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Split the cells of a panel into two rungs.

    Every trace is in the first: traces want different things, and what is not asked is lost. One capacity, the middle
    one, speaks for the others of its trace, unless the trace is so short that all of them cost next to nothing.

    Args:
        shares: Part of a full pass of each cell.
        groups: Trace of each cell, the cells of a trace in order of capacity.

    Returns:
        Indices of cells per rung; every cell is in exactly one, no rung is empty.
    """
    traces: dict[str, list[int]] = {}
    for cell, trace in enumerate(groups):
        traces.setdefault(trace, []).append(cell)
    first = [cells[len(cells) // 2] for cells in traces.values()]
    left = CHEAP
    for cells in sorted(traces.values(), key=lambda cells: sum(shares[cell] for cell in cells)):
        others = [cell for cell in cells if cell not in first]
        left -= sum(shares[cell] for cell in others)
        if left < 0:
            break
        first += others
    rest = tuple(cell for cell in range(len(shares)) if cell not in first)
    return (tuple(sorted(first)), rest) if rest else (tuple(sorted(first)),)
