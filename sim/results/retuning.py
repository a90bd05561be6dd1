"""Policies with their literals tuned for chosen places; kept in the user cache.

Knows the tuner and the mean gap closed over places. Must not know splits: the caller gives training traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy, clock_origin
from sim.prepared import prepare
from sim.result import counted_hits
from sim.results import store
from sim.results.places import LRU_RUNNER, OPTIMUM_RUNNER, Measured, Place, measure
from sim.simulation import Options, PolicyError, run_policy
from workloads.trace import Trace

SEED = 1


class MeanGap:
    """An objective of the tuner: mean gap closed, each at least -1, over places."""

    def __init__(self, traces: Mapping[str, Trace], places: Sequence[Place]) -> None:
        """Measure LRU and the optimum, once.

        Raises:
            ValueError: If there is no gap at any of the places.
        """
        measured = measure(traces, places, [])
        self.places = [place for place in places if measured.cell(OPTIMUM_RUNNER, place).counts]
        if not self.places:
            raise ValueError(f"nothing to tune on: no gap between LRU and the optimum in {', '.join(traces)}")
        self.traces, self._ends = traces, {place: _ends(measured, place) for place in self.places}

    def score(self, policy: Policy) -> float:
        """Return the mean of a policy."""
        return self._mean(compile_policy(policy), None)

    def of_literals(self, policy: Policy) -> Callable[[Sequence[float]], float]:
        """Return the mean as a function of the policy's literals; compiled once."""
        compiled = compile_policy(policy, lift=True)
        return lambda values: self._mean(compiled, values)

    def _mean(self, compiled: Compiled, values: Sequence[float] | None) -> float:
        literals = None if values is None else np.asarray(values, np.float64)
        options = Options(clock_origin=clock_origin(compiled.policy.source))
        total = 0.0
        for place in self.places:
            prepared = prepare(self.traces[place.trace])
            try:
                hits = run_policy(prepared, compiled, place.capacity_blocks, options, literals).hits
            except PolicyError:
                return -1.0
            lru, gap = self._ends[place]
            total += max((counted_hits(hits, place.first_counted) * prepared.block_tokens - lru) / gap, -1.0)
        return total / len(self.places)


def retuned(
    policy: Policy, traces: Mapping[str, Trace], places: Sequence[Place], passes: int, name: str, seed: int = SEED
) -> Policy:
    """Return a policy with its literals tuned for places, the policy itself if nothing is better.

    Args:
        policy: What to tune.
        traces: By name; those of the places.
        places: Where the mean gap closed is to grow.
        passes: Evaluations over all places; 0 leaves the policy as it is.
        name: Of the result.
        seed: Of the tuner.

    Raises:
        ModuleNotFoundError: Without the package `cmaes`.
    """
    from sim.search.tuner import tune

    if not passes or not policy.literals:
        return Policy.from_source(policy.source, name)
    used = {place.trace: traces[place.trace].fingerprint for place in places}
    said = [store.replay_code(), policy.source, used, [vars(place) for place in places], passes, seed]
    path = store.path_of(said, "tuned.py")
    source = store.read(path, lambda kept: kept.read_text(encoding="utf-8"))
    if source is None:
        source = tune(policy, MeanGap({key: traces[key] for key in used}, places), passes, seed).policy.source
        store.keep(path, source.encode())
    return Policy.from_source(source, name)


def _ends(measured: Measured, place: Place) -> tuple[int, int]:
    lru, best = (measured.hit_tokens(runner, place) for runner in (LRU_RUNNER, OPTIMUM_RUNNER))
    return lru, best - lru
