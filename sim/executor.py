"""Runs many independent calls over a few shared inputs: in this process, in processes, or on a Ray cluster.

Knows the order of jobs, how progress is told and how errors reach the caller. Must not know what a job computes, nor
schedule anything: that is left to concurrent.futures and Ray.
"""

from __future__ import annotations

import importlib
import os
import pickle
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

Job = tuple[str, Any]
"""(name of the shared input, argument)."""

SharedInput = TypeVar("SharedInput")

EXECUTORS = {"serial": "sim.executor", "process": "sim.processes", "ray": "sim.cluster"}
"""Home of each backend: a generator `outcomes(call, shared, jobs, workers)` of (job index, result or `Failed`), in the
order in which jobs end. Jobs must start in the order given; closing the generator stops what still runs."""

RETRIES = 2
"""How often a job is run again after its worker died: a killed process, a lost node."""


class WorkerLost(RuntimeError):
    """The worker of a job died, and so did those of its retries."""


@dataclass(frozen=True)
class Failed:
    """The exception a job ended with."""

    error: Exception


def run(
    call: Callable[[SharedInput, Any], Any],
    traces: Mapping[str, SharedInput],
    jobs: Sequence[Job],
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Return `[call(traces[name], argument) for name, argument in jobs]`; results do not depend on the executor.

    Args:
        call: Function of a module, so that workers can import it; its result depends on its arguments alone. Results
            and exceptions are pickled.
        traces: What jobs share, by name: traces, or anything that can be pickled. Each reaches a worker once (Ray: a
            node once), its arrays read-only and not copied.
        jobs: (trace name, argument) pairs.
        executor: "serial"; "process", on this machine; "ray", on `$RAY_ADDRESS`, else on this machine.
        workers: Most jobs at a time; default the cores this process may use (Ray: those of the cluster).
        progress: Called as progress(jobs ended well, all jobs) in this thread after each.
        keep: Called as keep(job index, result) before that, in the order in which jobs end: what a run that stops
            half-way has found.

    Raises:
        ValueError: If executor, workers or a job's trace name make no sense.
        ModuleNotFoundError: If Ray is asked for and not installed.
        WorkerLost: If the worker of a job died `RETRIES` + 1 times.
        Exception: Of the first job, in their order, that raises; a note names the job.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor {executor!r}; choose one of {', '.join(EXECUTORS)}")
    if "<" in getattr(call, "__qualname__", "<"):
        raise ValueError(f"{call!r}: expected a function of a module, workers have to import it")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    for index, job in enumerate(jobs):
        if job[0] not in traces:
            raise ValueError(f"{named(index, job)}: there is no such trace; known: {', '.join(traces)}")
    used = {name: traces[name] for name in dict.fromkeys(job[0] for job in jobs)}
    if not used:
        return []
    backend = importlib.import_module(EXECUTORS[executor])
    with closing(backend.outcomes(call, used, jobs, workers)) as ended:
        return _collect(ended, jobs, progress, keep)


@contextmanager
def session(executor: str, workers: int | None = None) -> Iterator[None]:
    """Keep what an executor takes seconds to start, a Ray session, for all runs within."""
    if executor == "ray":
        with importlib.import_module(EXECUTORS[executor]).session(workers):
            yield
    else:
        yield


def outcomes(
    call: Callable[[Any, Any], Any], shared: Mapping[str, Any], jobs: Sequence[Job], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Run jobs one after the other in this process, whatever `workers` says; see `EXECUTORS`."""
    for index, job in enumerate(jobs):
        try:
            outcome = call(shared[job[0]], job[1])
        except Exception as error:
            outcome = Failed(error)
        yield index, outcome


def portable(call: Callable[[Any, Any], Any], shared: Any, argument: Any) -> Any:
    """Call in a worker; what it raises is sure to survive the way home.

    An exception whose class cannot be rebuilt from its pickle would take the worker pool down with it.
    """
    try:
        return call(shared, argument)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named(index: int, job: Job) -> str:
    """Return a job as messages call it."""
    return f"job {index} {reprlib.repr(job)}"


def _collect(
    ended: Iterator[tuple[int, Any]],
    jobs: Sequence[Job],
    progress: Callable[[int, int], None] | None,
    keep: Callable[[int, Any], None] | None,
) -> list[Any]:
    """Return results in job order, or raise the error a serial run would have met: that of the earliest failing job."""
    results: dict[int, Any] = {}
    stop, failed = len(jobs), None
    for index, outcome in ended:
        if isinstance(outcome, Failed):
            if index < stop:
                stop, failed = index, outcome
        else:
            results[index] = outcome
            if keep:
                keep(index, outcome)
            if progress:
                progress(len(results), len(jobs))
        if failed and all(earlier in results for earlier in range(stop)):
            failed.error.add_note(f"in {named(stop, jobs[stop])}")
            raise failed.error
    return [results[index] for index in range(len(jobs))]
