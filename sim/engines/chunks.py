"""User policies on engines that keep single chunks beside the compute pool: LMCache and vLLM's CPU tier.

Knows how a policy is set up for `sim.core.chunks`; must not know either engine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.core import chunks as core
from sim.core import engine, residency
from sim.core import state as st
from sim.engines.outputs import check_finite, new_outputs
from sim.options import Options, Replay
from sim.policy.compiler import Compiled
from sim.prepared import Prepared


def run_chunks(
    prepared: Prepared,
    compiled: Compiled,
    capacity_blocks: int,
    options: Options,
    atomic: bool,
    gpu_hits: npt.NDArray[np.int32] | None = None,
    log_evictions: int = 0,
) -> Replay:
    """Replay against a compiled policy, one request at a time.

    Args:
        prepared: The trace.
        compiled: The policy.
        capacity_blocks: Chunks.
        options: `ghost_blocks` and `clock_origin` are read.
        atomic: Whether a request's missing chunks are stored in one call or not at all (vLLM), else one by one.
        gpu_hits: Leading blocks per request found in a pool in front; None without one.
        log_evictions: How many evictions to log in the state.

    Raises:
        PolicyError: If a priority is not finite.
    """
    policy, outputs = compiled.policy, new_outputs(prepared)
    once = policy.scoring == "touch" or policy.timeless  # a chunk is a candidate from its release on
    scoring = residency.AT_RELEASE if once else residency.AT_EVICTION
    defined = (name in compiled.defined for name in ("admit", "on_hit", "on_insert", "on_evict"))
    rules = residency.Rules(prepared.block_tokens, scoring, True, *defined)
    state = st.new_state(prepared.parents, capacity_blocks, 0, options.ghost_blocks, once, log_evictions)
    marks = core.new_marks(prepared.parents.size)
    hooks = engine.Hooks(*(getattr(compiled, name) for name in engine.Hooks._fields))
    in_front = np.zeros(outputs.hits.size, np.int32) if gpu_hits is None else gpu_hits
    in_front.flags.writeable = False
    origin = float(options.clock_origin)
    core.replay_chunks(
        prepared.requests, prepared.labels, in_front, state, marks, hooks, rules, atomic, origin, *outputs
    )
    check_finite(state, policy.name)
    return Replay(outputs.totals, outputs.hits, outputs.start_s, state, int(state.n[st.LOGGED]), rules=rules)
