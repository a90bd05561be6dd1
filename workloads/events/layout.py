"""What a parse of events fills, and what it calls its faults.

Knows shapes and words. Must not know bytes. Apart from the kernels, which numba compiles anew when their file changes:
nothing here may become a constant of theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

EXPECTED = (
    *("", ""),
    "a payload that fills its frame",
    "three frames: topic, sequence number of 8 bytes, payload",
    "a batch: an array of time, events and rank",
    "a time in seconds since 1970",
    "an array of events",
    "an event: a tagged map or array",
    "a tag BlockStored, BlockRemoved or AllBlocksCleared, or the name of a field",
    "an array of block hashes",
    "a block hash: an integer or bytes",
    "a number of tokens from 1 to 2147483647",
    "a text or nil",
    "an integer from 0 to 2147483647, or nil",
    "a msgpack value",
    "an event with its tag and its block_hashes",
)
"""What a fault found missing, by status."""


class Parsed(NamedTuple):
    """What a parse fills, from row 0."""

    messages: npt.NDArray[np.int64]
    """Shape (n, 7)."""
    events: npt.NDArray[np.int64]
    """Shape (n, 10)."""
    hashes: npt.NDArray[np.uint64]
    """Those that events list, in order."""


def room(size: int) -> Parsed:
    """Return room for all that so many bytes can hold: a message takes 4 or more, an event 17, a hash 1."""
    return Parsed(
        np.empty((size // 4 + 2, 7), np.int64), np.empty((size // 17 + 2, 10), np.int64), np.empty(size + 1, np.uint64)
    )
