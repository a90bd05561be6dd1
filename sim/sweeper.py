"""Hit rate against cache size: policies, the offline optimum and the infinite cache, at many capacities of one trace.

Knows what is replayed and what of it counts; must not know how results are drawn or where they are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sim import engines, executor
from sim.bounds import ceiling, optimum
from sim.capacities import Capacities, parse_capacities
from sim.core import compiled
from sim.curves import BOUNDLESS, LRU_FLAT, OPTIMUM, Point, Sweep
from sim.lru_curve import lru_curve
from sim.options import Options
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy
from sim.result import counted_hits
from sim.simulation import resolve, simulate
from workloads.sampling import Sample, spatial_sample
from workloads.trace import Trace
from workloads.warmup import first_counted

__all__ = ["LRU_FLAT", "OPTIMUM", "Progress", "SweepStopped", "sweep"]


class SweepStopped(KeyboardInterrupt):
    """A sweep was interrupted; `sweep` holds what was done."""

    def __init__(self, done: Sweep) -> None:
        super().__init__("sweep interrupted")
        self.sweep = done


@dataclass(frozen=True)
class Progress:
    """How far a sweep is. Replays differ in speed: `eta_s` assumes that those to come are like those done."""

    done: int
    total: int
    refs_per_s: float
    eta_s: float


@dataclass(frozen=True)
class Job:
    """One replay."""

    label: str
    capacity_blocks: int
    replayed_blocks: int
    """Size of the cache that is simulated: smaller than `capacity_blocks` if the trace is a sample."""
    source: str | None
    """Of a user policy; None for the engine's own policies and the optimum."""
    first: int
    options: tuple[tuple[str, Any], ...]


def sweep(
    trace: Trace,
    policies: Sequence[str | Path | Policy] = (),
    capacities: Capacities = "0.5%..50%",
    *,
    points: int = 12,
    warmup: int | float | str = 0,
    sample: float = 1.0,
    seed: int = 0,
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    done: Sweep | None = None,
    keep: Callable[[Sweep], None] | None = None,
    **options: Any,
) -> Sweep:
    """Replay a trace at many capacities.

    Args:
        trace: What to replay.
        policies: As for `sim.simulate`, and "lru-flat", LRU over independent blocks, all capacities in one pass. The
            engine's own default policy and the offline optimum are always there.
        capacities: "0.5%..50%", "1%,2%,5000", or a sequence of sizes.
        points: How many sizes a range becomes.
        warmup: Requests replayed but not counted, see `workloads.warmup.first_counted`; of the whole trace, also where
            a sample of it is replayed.
        sample: Share of the request groups to replay, the caches shrunk along, see `workloads.sampling`.
        seed: Of the sample.
        executor: See `sim.executor.run`.
        workers: See `sim.executor.run`.
        progress: Called as replays finish.
        done: What an earlier, equal sweep found; not replayed again.
        keep: Called with all that is done as replays finish.
        options: Fields of `Options`, and parameters of the engine; an `eviction_sample` is of the user policies alone.

    Raises:
        ValueError: If an argument makes no sense, or `done` is of another trace or other settings.
        PolicyRejected: If a policy breaks the contract.
        PolicyError: If a priority is not finite.
        SweepStopped: On Ctrl-C, with what was done.
    """
    drawn = spatial_sample(trace, sample, seed) if sample != 1 else None
    replayed, shrink = (trace, int) if drawn is None else (drawn.trace, drawn.capacity)
    first = _first_counted(trace, drawn, warmup)
    sizes = parse_capacities(capacities, points, trace.n_blocks)
    labels = _labels(policies, options)
    found = _empty(trace, replayed, labels, sizes, first, _settings(options, warmup, sample, seed))
    if done:
        found = found.take_over(done)
    if LRU_FLAT in labels:
        curve = lru_curve(replayed, first)
        flat = [Point(LRU_FLAT, c, shrink(c), curve.hit_blocks(shrink(c)) * replayed.block_tokens) for c in sizes]
        found = found.with_points(flat)
    jobs = [
        Job(label, size, shrink(size), policy.source if policy else None, first, _options_of(policy, options))
        for size in reversed(sizes)
        for label, policy in labels.items()
        if (label, size) not in found.points
    ]
    return _work(replayed, jobs, found, executor, workers, progress, keep)


def _options_of(policy: Policy | None, options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the options of a replay; only user policies can sample their evictions, the other columns do without."""
    return tuple((name, value) for name, value in options.items() if policy or not name.startswith("eviction_"))


def _first_counted(trace: Trace, drawn: Sample | None, warmup: int | float | str) -> int:
    """Return the first request that counts, of those replayed; the warm-up is of the whole trace."""
    first = first_counted(trace, warmup)
    if drawn is None:
        return first
    first = int(np.searchsorted(drawn.requests, first))
    if first == drawn.trace.n_requests:
        raise ValueError(f"warmup {warmup!r} leaves nothing of the sample to count; sample more, or warm up less")
    return first


def _settings(options: dict[str, Any], warmup: int | float | str, sample: float, seed: int) -> dict[str, Any]:
    """Return what points depend on beside trace, policy and capacity."""
    kernels = compiled.sources_digest(*(f"sim.core.{path.stem}" for path in sorted(compiled.ROOT.glob("*.py"))))
    drawn = {} if sample == 1 else {"sample": sample, "seed": seed}
    return {**options, **drawn, "warmup": str(warmup), "kernels": kernels}


def _empty(
    trace: Trace,
    replayed: Trace,
    labels: dict[str, Policy | None],
    sizes: tuple[int, ...],
    first: int,
    settings: dict[str, Any],
) -> Sweep:
    bound = ceiling(replayed, first)
    return Sweep(
        trace=trace.name,
        fingerprint=trace.fingerprint,
        n_blocks=trace.n_blocks,
        settings=settings,
        policies={label: _digest(policy) for label, policy in labels.items()},
        counted_requests=replayed.n_requests - first,
        counted_tokens=bound.prompt_tokens,
        ceiling_tokens=bound.hit_tokens,
        capacities=sizes,
    )


def _digest(policy: Policy | None) -> str:
    return policy.sha256 if policy else ""


def _labels(policies: Sequence[str | Path | Policy], options: dict[str, Any]) -> dict[str, Policy | None]:
    """Return user policies by label, None for those that need no compilation; native first, the optimum last."""
    home = engines.find(str(options.get("engine", Options.engine)))[0]
    labels: dict[str, Policy | None] = {home.policies[0]: None}
    for given in policies:
        if given == OPTIMUM:
            continue
        found = LRU_FLAT if given == LRU_FLAT else resolve(given, home)
        if not isinstance(found, Policy):
            labels[str(found)] = None
            continue
        label = found.name
        taken = label in labels or label in BOUNDLESS
        if taken and _digest(labels.get(label)) != _digest(found):
            label = f"{label}@{_digest(found)[:6]}"
        labels[label] = found
    if options.get("eviction_sample") and not any(labels.values()):
        raise ValueError("eviction_sample is for user policies; name one in policies, or leave it out")
    labels[OPTIMUM] = None
    return labels


def _work(
    trace: Trace,
    jobs: Sequence[Job],
    found: Sweep,
    kind: str,
    workers: int | None,
    progress: Callable[[Progress], None] | None,
    keep: Callable[[Sweep], None] | None,
) -> Sweep:
    """Run the jobs and note each point as it is found."""
    began = time.monotonic()

    def note(_: int, point: Point) -> None:
        nonlocal found
        found = found.with_points([point])
        if keep:
            keep(found)

    def tell(count: int, total: int) -> None:
        elapsed_s = max(time.monotonic() - began, 1e-9)
        if progress:
            left_s = elapsed_s / count * (total - count)
            progress(Progress(count, total, count * trace.n_refs / elapsed_s, left_s))

    try:
        executor.run(replay_job, {"trace": trace}, [("trace", job) for job in jobs], kind, workers, tell, note)
    except KeyboardInterrupt:
        raise SweepStopped(found) from None
    return found


def replay_job(trace: Trace, job: Job) -> Point:
    """Replay one job."""
    if job.label == OPTIMUM:
        best = optimum(trace, job.replayed_blocks, job.first)
        return Point(OPTIMUM, job.capacity_blocks, job.replayed_blocks, best.hit_tokens)
    policy: str | Compiled = job.label if job.source is None else _compiled(job.source, job.label)
    result = simulate(trace, policy, job.replayed_blocks, **dict(job.options))
    return Point(
        job.label,
        job.capacity_blocks,
        job.replayed_blocks,
        counted_hits(result.hit_blocks_per_request, job.first) * trace.block_tokens,
        result.peak_used_blocks,
        int(np.count_nonzero(result.hit_blocks_per_request[job.first :] < 0)),
    )


@cache
def _compiled(source: str, name: str) -> Compiled:
    return compile_policy(Policy.from_source(source, name))
