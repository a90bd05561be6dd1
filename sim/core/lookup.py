"""A native `priority` that reads scores from a table: by the reference that touched a block last, and its age.

For predictors that no policy could be: the table may hold anything. Knows addresses; must not know what made the table.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sim.core import fields


@intrinsic
def _pointer(typing_context, address):
    """Return a pointer to an address."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


def priority_of(
    table: npt.NDArray[np.float32],
    row_of: npt.NDArray[np.int32],
    edges_s: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.int64],
) -> Any:
    """Return a native function of block and cache; the arrays must outlive it. For clocks that begin at 0.

    Args:
        table: float32 (rows, bins), C-contiguous: the score at the lower edge of each bin, linear in between.
        row_of: int32 (references,): the row of a reference.
        edges_s: float64 (bins,): ages in seconds, rising, the first 0.
        offsets: int64 (n + 1,): first reference of each request; every request must be served.
    """
    rows, bins = table.shape
    references, ends = row_of.size, offsets.size
    at = (table.ctypes.data, row_of.ctypes.data, edges_s.ctypes.data, offsets.ctypes.data)
    table_at, row_at, edges_at, offsets_at = at

    def priority(block, cache):
        scores = numba.carray(_pointer(table_at), (rows, bins), np.float32)
        row = numba.carray(_pointer(row_at), (references,), np.int32)
        edges = numba.carray(_pointer(edges_at), (bins,), np.float64)
        first = numba.carray(_pointer(offsets_at), (ends,), np.int64)
        place = row[first[np.int64(block.last_access) - 1] + np.int64(block.depth)]
        age_s = cache.now_s - block.last_access_s
        low, high = 0, bins
        while high - low > 1:
            middle = (low + high) // 2
            if edges[middle] <= age_s:
                low = middle
            else:
                high = middle
        if low == bins - 1:
            return np.float64(scores[place, low])
        share = (age_s - edges[low]) / (edges[low + 1] - edges[low])
        return scores[place, low] * (1.0 - share) + scores[place, low + 1] * share

    signature = types.float64(*(numba.from_dtype(dtype) for dtype in (fields.BLOCK_DTYPE, fields.CACHE_DTYPE)))
    return numba.cfunc(signature, error_model="numpy")(priority)  # carray is not compiled without numba's NRT
