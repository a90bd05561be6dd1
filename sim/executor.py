"""Runs independent jobs on traces: one after another here, behind the one interface that other executors share.

Knows calls and jobs; must not know what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workloads.trace import Trace

EXECUTORS = ("serial",)


def run(
    call: Callable[[Trace, Any], Any],
    traces: Mapping[str, Trace],
    jobs: Sequence[tuple[str, Any]],
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Any]:
    """Return `call(traces[name], job)` for each (name, job), in the order of the jobs.

    Args:
        call: A module-level function.
        traces: By name.
        jobs: Name of the trace and what `call` gets beside it.
        executor: One of `EXECUTORS`.
        workers: Processes, where the executor has any.
        progress: Called with (jobs done, jobs) after each.

    Raises:
        ValueError: If there is no such executor.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor {executor!r}; choose one of {', '.join(EXECUTORS)}")
    results = []
    for name, job in jobs:
        results.append(call(traces[name], job))
        if progress:
            progress(len(results), len(jobs))
    return results
