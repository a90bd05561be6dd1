"""A job in a module of its own, to see that Ray sends it, and this code, to a cluster elsewhere."""

from __future__ import annotations

from workloads import Trace


def places(trace: Trace, argument: int) -> tuple[str, str]:
    """Return where this code and this job were found."""
    import sim.executor

    return sim.executor.__file__, __file__
