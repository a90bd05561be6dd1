"""64-bit numbers to dense ones, in order of first appearance.

Knows a hash table. Must not know what the numbers mean. Sorting (`np.unique`) costs several times as much.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from workloads.columns import I32

U64 = npt.NDArray[np.uint64]


@njit(cache=True, nogil=True)
def _number(values, table, dense, known):  # type: ignore[no-untyped-def]
    """Fill `dense`; `table` (a power of two, at least twice the values, all -1) and `known` receive what is found."""
    mask, n = np.uint64(table.size - 1), 0
    for i in range(values.size):
        value = values[i]
        at = ((value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & mask
        while table[at] >= 0 and known[table[at]] != value:
            at = (at + np.uint64(1)) & mask
        if table[at] < 0:
            table[at] = n
            known[n] = value
            n += 1
        dense[i] = table[at]
    return n


def numbered(values: U64) -> tuple[I32, U64]:
    """Number values 0..k-1 in order of first appearance.

    Args:
        values: uint64[n].

    Returns:
        int32[n], and the k distinct values.
    """
    table = np.full(1 << max(2 * len(values), 2).bit_length(), -1, np.int32)
    dense, known = np.empty(len(values), np.int32), np.empty(len(values), np.uint64)
    n = _number(values, table, dense, known)
    return dense, known[:n].copy()
