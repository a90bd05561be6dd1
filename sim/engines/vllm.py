"""vLLM's GPU pool: its own LRU natively, and user policies under the accounting of >= 0.23.

Source: vLLM 0.33.0 and 0.22.1, equal request by request to the hits recorded from both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim import zoo
from sim.core import engine as core
from sim.core import lru, replay, residency
from sim.core import state as st
from sim.engines import VLLM, Engine, NoParameters
from sim.engines.outputs import check_finite, new_outputs
from sim.options import Options, Replay
from sim.policy.compiler import Compiled
from sim.prepared import Prepared


def run_engine(prepared: Prepared, capacity_blocks: int, options: Options) -> Replay:
    """Replay against the engine's own LRU."""
    server, requests = options.server, prepared.requests
    hits, start_s, counts = new_outputs(prepared)
    pool = lru.new_pool(capacity_blocks, prepared.parents.size)
    rows = lru.new_rows(requests, capacity_blocks, server.max_running)
    running = replay.new_running(server.max_running)
    newer = options.engine == VLLM[0]
    lru.replay_lru(requests, pool, rows, running, prepared.block_tokens, newer, server, hits, start_s, counts)
    return Replay(dict(zip(replay.COUNTERS, counts.tolist(), strict=True)), hits, start_s, None, pool=pool)


def run_policy(
    prepared: Prepared,
    compiled: Compiled,
    capacity_blocks: int,
    options: Options,
    literals: npt.NDArray[np.float64] | None = None,
    log_evictions: int = 0,
) -> Replay:
    """Replay against a compiled policy.

    Args:
        prepared: The trace.
        compiled: The policy; compiled with `lift` if `literals` are given.
        capacity_blocks: Size of the cache.
        options: How requests run.
        literals: Values for the policy's lifted literals.
        log_evictions: How many evictions to log in the state.

    Raises:
        PolicyError: If a priority is not finite.
    """
    server, requests = options.server, prepared.requests
    hits, start_s, counts = new_outputs(prepared)
    rules = rules_of(prepared, compiled, options)
    touch = rules.scoring == residency.AT_RELEASE
    copies = min(prepared.exact_multiples, capacity_blocks)
    state = st.new_state(prepared.parents, capacity_blocks, copies, options.ghost_blocks, touch, log_evictions)
    for i, value in enumerate(() if literals is None else literals):
        state.cache[f"k{i}"] = value
    hooks = core.Hooks(*(getattr(compiled, name) for name in core.Hooks._fields))
    rows = core.new_rows(requests.input_tokens.size, server.max_running)
    running = replay.new_running(server.max_running)
    origin = float(options.clock_origin)
    core.replay_policy(
        requests, prepared.labels, state, rows, running, hooks, rules, server, origin, hits, start_s, counts
    )
    check_finite(state, compiled.policy.name)
    totals = dict(zip(replay.COUNTERS, counts.tolist(), strict=True))
    return Replay(totals, hits, start_s, state, int(state.n[st.LOGGED]), rules=rules)


def rules_of(prepared: Prepared, compiled: Compiled, options: Options) -> residency.Rules:
    """Return the switches of a replay of a policy."""
    scoring = residency.AT_RELEASE if compiled.policy.scoring == "touch" else residency.AT_EVICTION
    if compiled.policy.timeless and not options.orphans:
        scoring = residency.WHEN_CANDIDATE
    defined = (name in compiled.defined for name in ("admit", "on_hit", "on_insert", "on_evict"))
    rules = residency.Rules(prepared.block_tokens, scoring, options.orphans, *defined)
    return rules._replace(eviction_sample=options.eviction_sample, eviction_seed=options.eviction_seed)


def _native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: NoParameters
) -> Replay:
    return run_engine(prepared, capacity_blocks, options)


def _user(
    prepared: Prepared, compiled: Compiled, capacity_blocks: int, options: Options, parameters: NoParameters
) -> Replay:
    return run_policy(prepared, compiled, capacity_blocks, options)


ENGINES = (
    Engine(VLLM[0], "vLLM 0.33.0", True, ("vllm",), NoParameters, _native, _user, zoo.run_prefix),
    Engine(VLLM[1], "vLLM 0.22.1", True, ("vllm",), NoParameters, _native, None),
)
