"""Arrivals and lengths, and rates over time.

Knows what such traces hold. Must not know files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workloads.columns import F64, I32


@dataclass(frozen=True)
class LengthTrace:
    """Requests of which only time and lengths are known.

    Attributes:
        name: Short name.
        arrival_s: float64[n] seconds from the first request, not decreasing.
        input_tokens: int32[n] prompt lengths.
        output_tokens: int32[n] generated tokens.
        session: int32[n] or None; equal number, equal session; -1 where unknown.
        provenance: Source, and what was dropped or reordered.
    """

    name: str
    arrival_s: F64
    input_tokens: I32
    output_tokens: I32
    session: I32 | None = None
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def n_requests(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last request."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def requests_per_s(self) -> float:
        """Mean rate over the span."""
        return self.n_requests / self.span_s if self.span_s else float("inf")

    @property
    def burstiness(self) -> float:
        """Coefficient of variation of the times between requests; 0 for fewer than two."""
        gaps = np.diff(self.arrival_s)
        return float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else 0.0


@dataclass(frozen=True)
class RateTrace:
    """Rates per window of time.

    Attributes:
        name: Short name.
        t_s: float64[k] start of each window in which there was traffic, ascending.
        rate_per_s: float64[k] requests per second in it.
        window_s: Length of a window.
        burstiness: Coefficient of variation of the times between requests within a window (mean, weighted by rate), or
            None where it is not recorded.
        provenance: Source and options.
    """

    name: str
    t_s: F64
    rate_per_s: F64
    window_s: float
    burstiness: float | None = None
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def span_h(self) -> float:
        """Hours from the start of the first window to that of the last."""
        return float(self.t_s[-1] - self.t_s[0]) / 3600

    def whole(self) -> tuple[F64, F64]:
        """Return starts and rates with the idle windows, which are not recorded, put in at rate 0."""
        idle = np.flatnonzero(np.diff(self.t_s) > 1.5 * self.window_s)
        starts = np.insert(self.t_s, idle + 1, self.t_s[idle] + self.window_s)
        return starts, np.insert(self.rate_per_s, idle + 1, 0.0)
