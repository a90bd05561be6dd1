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

    Without seconds, one request arrives per second, in the same order: what a session does is known in numbers of
    requests alone. A timeline that was made by a rule (idle gaps cut at a number of seconds, say) then cannot be told
    by that number.
    """
    return trace if clock == SECONDS else replace(trace, arrival_s=np.arange(trace.n_requests, dtype=np.float64))
