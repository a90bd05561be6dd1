"""The rungs of successive halving: which cells of a panel are replayed first, and which only for survivors.

Knows what cells cost and which belong together; must not know policies or scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TARGETS = (0.15, 0.45)
"""Share of a full pass that the first rungs may cost, together with those before them; the last rung is the rest."""


def rungs(
    shares: Sequence[float], groups: Sequence[str], targets: Sequence[float] = TARGETS
) -> tuple[tuple[int, ...], ...]:
    """Split the cells of a panel into rungs, cheap ones first.

    A rung takes what fits, cheapest trace first: one cell of each trace, its middle capacity, before a second of any.

    Args:
        shares: Part of a full pass of each cell.
        groups: Trace of each cell, capacities of a trace in order.
        targets: Share of a pass after each rung but the last, rising.

    Returns:
        Indices of cells per rung; every cell is in exactly one, no rung is empty.
    """
    order = list(_order(shares, groups))
    found: list[tuple[int, ...]] = []
    spent = 0.0
    for target in targets:
        rung: list[int] = []
        for cell in list(order):
            if spent + shares[cell] <= target or not (rung or found):
                spent += shares[cell]
                rung.append(cell)
                order.remove(cell)
        if rung and order:
            found.append(tuple(rung))
        else:
            order = rung + order
    return (*found, tuple(order))


def _order(shares: Sequence[float], groups: Sequence[str]) -> Iterator[int]:
    """Yield every cell: the middle one of each trace, cheapest trace first, then their neighbours, and so on."""
    traces: dict[str, list[int]] = {}
    for cell, trace in enumerate(groups):
        traces.setdefault(trace, []).append(cell)
    middle_first = [
        sorted(cells, key=lambda cell, cells=cells: abs(2 * cells.index(cell) - len(cells) + 1))  # type: ignore[misc]
        for cells in sorted(traces.values(), key=lambda cells: min(shares[cell] for cell in cells))
    ]
    for place in range(max(map(len, middle_first))):
        for cells in middle_first:
            if place < len(cells):
                yield cells[place]
