"""The clocks a predictor may be given: seconds, or only the order of requests.

Knows arrival times. Must not know features or models.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workloads.trace import Trace

SECONDS, REQUESTS = "seconds", "requests only"
CLOCKS = (SECONDS, REQUESTS)


def on_clock(trace: Trace, clock: str) -> Trace:
    """Return a trace as a predictor with this clock sees it.

    Without seconds, requests arrive in the same order, evenly spaced over the same time: what a session does is known
    only in numbers of requests. A timeline that was made by a rule (idle gaps cut at a number of seconds, say) then
    cannot be told by that number.
    """
    if clock == SECONDS:
        return trace
    return replace(trace, arrival_s=np.linspace(0.0, float(trace.arrival_s[-1]), trace.n_requests))
