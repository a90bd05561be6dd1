"""Replays a policy with the oracle of `sim.core.shadow` beside it, or in its place, and returns the decisions.

Knows the future; no policy process may import it. Must not know what is made of the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.bounds import Bound
from sim.core import engine as core
from sim.core import residency, shadow
from sim.core import state as st
from sim.core.decision_log import Log, new_log
from sim.engines.outputs import named, new_counts
from sim.engines.vllm import rules_of
from sim.options import Options, Replay
from sim.policy.compiler import Compiled
from sim.prepared import prepare
from workloads import chains
from workloads.trace import Trace


@dataclass(frozen=True, eq=False)
class Foreknowledge:
    """What is known of each reference of a trace at a capacity.

    Attributes:
        next_use: int64 (n_refs,), position of the next reference that may hit the block, n_refs if there is none.
        wanted: uint8 (n_refs,), 1 if the optimum hits the block there.
        request_of: int32 (n_refs,).
        best: The optimum.
    """

    next_use: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.uint8]
    request_of: npt.NDArray[np.int32]
    best: Bound


@dataclass(frozen=True, eq=False)
class Shadowed:
    """A replay and its decisions.

    Attributes:
        counts: As of `sim.options.Replay`.
        hits: int32 (n,), -1 for unserved requests.
        log: `sim.core.decision_log.Log`; its arrays have exactly as many entries as there were decisions.
        stride: Whole records are kept of every so many-th decision.
    """

    counts: dict[str, int]
    hits: npt.NDArray[np.int32]
    log: Log
    stride: int


def foresee(trace: Trace, best: Bound) -> Foreknowledge:
    """Look ahead from every reference; requests that are not served use nothing."""
    request_of = np.repeat(np.arange(trace.n_requests, dtype=np.int32), trace.full_blocks)
    depth = np.arange(trace.n_refs, dtype=np.int64) - trace.offsets[request_of]
    place = np.flatnonzero((best.hit_blocks_per_request >= 0)[request_of])
    following = np.append(place, trace.n_refs)[chains.next_use(trace.block_ids[place])]
    limit = (trace.input_tokens.astype(np.int64) - 1) // trace.block_tokens
    usable = np.append(depth < limit[request_of], False)
    hit = np.append(depth < best.hit_blocks_per_request[request_of], False)
    next_use = np.full(trace.n_refs, trace.n_refs, np.int64)
    next_use[place] = np.where(usable[following], following, trace.n_refs)
    wanted = np.zeros(trace.n_refs, np.uint8)
    wanted[place] = hit[following]
    return Foreknowledge(next_use, wanted, request_of, best)


def replay_shadowed(
    trace: Trace,
    compiled: Compiled,
    known: Foreknowledge,
    options: Options,
    *,
    oracle_eviction: bool = False,
    oracle_admission: bool = False,
    logged: Replay | None = None,
    records: int = 400_000,
) -> Shadowed:
    """Replay a policy, or what is left of it where the oracle decides.

    Args:
        trace: What to replay.
        compiled: The policy.
        known: `foresee(...)` at the wanted capacity.
        options: Serial mode, no decode, no orphans, clocks from 0.
        oracle_eviction: Whether the oracle evicts in the policy's place.
        oracle_admission: Whether the oracle admits in the policy's place.
        logged: The same replay by `run_policy`, to log all its decisions; None logs nothing.
        records: Most decisions of a kind whose whole record is kept.
    """
    prepared, capacity = prepare(trace), known.best.capacity_blocks
    n_ids = prepared.parents.size
    copies = min(prepared.exact_multiples, capacity)
    rules = rules_of(prepared.block_tokens, compiled, options)
    if oracle_eviction:
        rules = rules._replace(scoring=residency.AT_EVICTION)
    touch = rules.scoring == residency.AT_RELEASE
    state = st.new_state(prepared.parents, capacity, copies, options.ghost_blocks, touch)
    future = shadow.new_future(known.next_use, known.wanted, n_ids + copies, n_ids, capacity)
    evictions = logged.counts["evicted_blocks"] if logged else 0
    decisions = logged.counts["admitted_blocks"] + logged.counts["bypassed_blocks"] if logged else 0
    stride = max(1, -(-max(evictions, decisions) // records))
    log = new_log(evictions, decisions, stride, n_ids + copies)
    hits, counts = np.zeros(trace.n_requests, np.int32), new_counts()
    hooks = core.Hooks(*(getattr(compiled, name) for name in core.Hooks._fields))
    modes = shadow.Modes(oracle_eviction, oracle_admission, stride)
    shadow.replay_shadowed(prepared.requests, prepared.labels, state, future, log, hooks, rules, modes, hits, counts)
    return Shadowed(named(counts), hits, log, stride)
