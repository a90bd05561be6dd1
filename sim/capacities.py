"""Ranges of cache sizes, as users write them.

Knows text and numbers; must not know policies or engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.simulation import parse_capacity
from workloads.kv_bytes import is_memory, memory_blocks

Capacities = str | int | float | Sequence[int | float | str]


def parse_capacities(given: Capacities, points: int, n_blocks: int) -> tuple[int, ...]:
    """Return ascending cache sizes in blocks, each once.

    Args:
        given: "0.5%..50%" (from..to, spaced evenly in the logarithm), "1%,2%,5000", or a sequence of what
            `sim.simulate` takes as capacity.
        points: How many sizes a range becomes.
        n_blocks: Distinct blocks of the trace, for shares.

    Raises:
        ValueError: If a size makes no sense, or a range does not ascend.
    """
    parts: Sequence[int | float | str]
    parts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int | float) else given
    found: set[int] = set()
    for part in parts:
        first, dots, last = part.partition("..") if isinstance(part, str) else (part, "", "")
        low = parse_capacity(first, n_blocks)
        if not dots:
            found.add(low)
            continue
        high = parse_capacity(last, n_blocks)
        if high < low or points < 2:
            raise ValueError(f"capacities {part!r} with {points} points: give an ascending range and at least 2 points")
        found.update(round(float(size)) for size in np.geomspace(low, high, points))
    if not found:
        raise ValueError("no capacities given; for example '0.5%..50%' or '1%,5%,20%'")
    return tuple(sorted(found))


def without_memory(given: str, block_tokens: int, model: str | int | None) -> str:
    """Return capacities as a user writes them, sizes of memory turned into blocks.

    Args:
        given: "40GiB", "10GiB..160GiB,5%".
        block_tokens: Tokens per block.
        model: See `workloads.kv_bytes.kv_bytes_per_token`; None if the user named none.

    Raises:
        ValueError: If there is a size of memory, and no model or not room for a block.
    """

    def blocks(text: str) -> str:
        return str(memory_blocks(text, block_tokens, model)) if is_memory(text) else text

    return ",".join("..".join(map(blocks, part.split(".."))) for part in given.split(","))
