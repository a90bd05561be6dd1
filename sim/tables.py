"""Plain-text tables. Knows strings and numbers; must not know what they mean."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]], align: str = "") -> str:
    """Return an aligned table; floats with the digits they were formatted with.

    Args:
        head: Column titles.
        rows: One sequence per row.
        align: A letter per column, "l" or "r"; by default the first is left, the others right.
    """
    cells = [[str(value) for value in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    sides = align or "l" + "r" * (len(head) - 1)
    lines = [
        "  ".join(
            text.ljust(width) if side == "l" else text.rjust(width)
            for text, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
