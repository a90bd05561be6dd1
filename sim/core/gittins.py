"""The Gittins index of a block: the most hits per second of a slot that keeping it can give, from an age on.

max over horizons h of P(used within h | unused so far) / E[seconds kept until use or h]. For blocks that are used
independently, priced by the time of a slot, evicting the lowest index is optimal (Gittins 1979, Whittle 1988).
Knows hazards by age; must not know where they come from.
"""

from __future__ import annotations

from numba import types

from sim.core.compiled import kernel


@kernel(types.void(types.Array(types.float32, 2, "C", readonly=True), types.Array(types.float64, 1, "C", readonly=True),
                   types.float32[:, ::1]))  # fmt: skip
def indices(hazards, widths_s, out):
    """Fill the index at the start of each age bin.

    Args:
        hazards: float32 (rows, bins): probability of a use within a bin, given none before.
        widths_s: float64 (bins,): how long each bin is; uses fall in its middle.
        out: float32 (rows, bins), hits per second.
    """
    for row in range(hazards.shape[0]):
        for first in range(widths_s.size):
            unused, kept_s, best = 1.0, 0.0, 0.0
            for bin_ in range(first, widths_s.size):
                hazard = hazards[row, bin_]
                kept_s += unused * widths_s[bin_] * (1.0 - 0.5 * hazard)
                unused *= 1.0 - hazard
                best = max(best, (1.0 - unused) / kept_s)
            out[row, first] = best
