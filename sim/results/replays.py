"""Replays whose outcome is kept on disk: hits per request, and latency, of a policy on a trace at a capacity.

Knows what a replay depends on: the trace's bytes, the policy's source, the code that replays. Must not know panels,
scores or tables. An interrupted run continues where it stopped: each replay is one file in the user cache.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.bounds import optimum
from sim.executor import run
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy, clock_origin
from sim.results import store
from sim.simulation import simulate
from workloads import progress
from workloads.trace import Trace

OPTIMUM = "optimum"
"""In the place of a policy: the offline optimum."""
LATENCIES = ("ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "queue_mean_s")
"""What is kept of the latency of a replay in overlap mode."""


@dataclass(frozen=True)
class Runner:
    """What replays: a policy of the engine or the zoo by name, a user policy by source, or the optimum."""

    name: str
    source: str | None = None
    engine: str = "vllm>=0.23"


@dataclass(frozen=True)
class Job:
    """One replay of a trace."""

    runner: Runner
    capacity_blocks: int
    mode: str = "serial"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a replay gave.

    Attributes:
        hits: int32 (n,), hit blocks per request; -1 where it was not served.
        latency: Seconds by name (`LATENCIES`); empty in serial mode.
    """

    hits: npt.NDArray[np.int32]
    latency: Mapping[str, float]


@dataclass(frozen=True)
class Workers:
    """Where replays run, see `sim.executor.run`."""

    executor: str = "serial"
    count: int | None = None


SERIAL = Workers()


def replays(
    traces: Mapping[str, Trace], jobs: Sequence[tuple[str, Job]], workers: Workers = SERIAL, what: str = "replays"
) -> list[Outcome]:
    """Return the outcome of each (trace name, job), from the cache where it was computed by this very code.

    Args:
        traces: By name.
        jobs: What to replay; the same one may stand there twice.
        workers: Where.
        what: Name of the work, for whoever listens to progress.
    """
    paths = [_path(traces[name], job) for name, job in jobs]
    found: dict[Path, Outcome] = {}
    for path in dict.fromkeys(paths):
        known = store.read(path, _parsed)
        if known:
            found[path] = known
    fresh = {path: job for path, job in zip(paths, jobs, strict=True) if path not in found}
    if fresh:
        order = list(fresh)

        def keep(index: int, outcome: Outcome) -> None:
            found[order[index]] = outcome
            store.keep(order[index], _content(outcome))

        def tell(done: int, total: int) -> None:
            progress.tell(what, done, total)

        run(replay, traces, list(fresh.values()), workers.executor, workers.count, tell, keep)
    return [found[path] for path in paths]


def replay(trace: Trace, job: Job) -> Outcome:
    """Replay; the job of an executor."""
    runner, capacity = job.runner, job.capacity_blocks
    if runner.name == OPTIMUM and runner.source is None:
        return Outcome(optimum(trace, capacity).hit_blocks_per_request, {})
    options: dict[str, Any] = {"engine": runner.engine, "mode": job.mode}
    if runner.source is None:
        result = simulate(trace, runner.name, capacity, **options)
    else:
        compiled = _compiled(runner.name, runner.source)
        result = simulate(trace, compiled, capacity, clock_origin=clock_origin(compiled.policy.source), **options)
    latency = {} if result.latency is None else {name: getattr(result.latency, name) for name in LATENCIES}
    return Outcome(result.hit_blocks_per_request, latency)


@lru_cache(maxsize=4)  # jobs come policy by policy
def _compiled(name: str, source: str) -> Compiled:
    return compile_policy(Policy.from_source(source, name))


def _path(trace: Trace, job: Job) -> Path:
    runner = job.runner
    said = [store.replay_code(), trace.fingerprint, runner.name if runner.source is None else "", runner.source]
    return store.path_of([*said, runner.engine, job.capacity_blocks, job.mode], "npz")


def _parsed(path: Path) -> Outcome:
    with np.load(path, allow_pickle=False) as stored:
        latency = dict(zip(stored["names"].tolist(), stored["seconds"].tolist(), strict=True))
        return Outcome(stored["hits"], latency)


def _content(outcome: Outcome) -> bytes:
    buffer = io.BytesIO()
    names = np.array(list(outcome.latency), dtype="U32")
    np.savez_compressed(buffer, hits=outcome.hits, names=names, seconds=np.array(list(outcome.latency.values())))
    return buffer.getvalue()
