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
from sim.engines.outputs import check_finite, named, new_counts
from sim.options import Options, Replay
from sim.policy.compiler import Compiled
from sim.prepared import Prepared
from sim.steps import Step, whole


class NativeSteps:
    """The engine's own LRU, replaying a trace in one step or several.

    Args:
        n_ids: Dense ids are below this.
        block_tokens: Tokens per block.
        capacity_blocks: Size of the cache.
        options: How requests run.
    """

    def __init__(self, n_ids: int, block_tokens: int, capacity_blocks: int, options: Options) -> None:
        self.pool = lru.new_pool(capacity_blocks, n_ids)
        self.running = replay.new_running(options.server.max_running)
        self.counts = new_counts()
        self._rows: lru.Rows | None = None
        self._block_tokens, self._capacity_blocks, self._options = block_tokens, capacity_blocks, options

    def step(self, step: Step) -> None:
        """Replay the next requests; see `lru.replay_lru`."""
        server, capacity, requests = self._options.server, self._capacity_blocks, step.requests
        if self._rows is None:
            self._rows = lru.new_rows(requests, capacity, server.max_running)
        else:
            self._rows = lru.next_rows(self._rows, requests, step.carried, capacity)
        newer, out = self._options.engine == VLLM[0], (step.hits, step.start_s, self.counts)
        lru.replay_lru(requests, self.pool, self._rows, self.running, self._block_tokens, newer, server, *out)

    def known(self) -> npt.NDArray[np.bool_]:
        """Return, per id, whether the cache holds the block."""
        held: npt.NDArray[np.bool_] = self.pool.first_copy != replay.NONE
        return held


class PolicySteps:
    """A user policy under the accounting of >= 0.23, replaying a trace in one step or several.

    Args:
        parents: int32 (n_ids,), -1 for the first block of a prompt; read at every step.
        exact_multiples: Requests of the whole trace whose last block is full.
        block_tokens: Tokens per block.
        compiled: The policy; compiled with `lift` if `literals` are given.
        capacity_blocks: Size of the cache.
        options: How requests run.
        literals: Values for the policy's lifted literals.
        log_evictions: How many evictions to log in the state.
    """

    def __init__(
        self,
        parents: npt.NDArray[np.int32],
        exact_multiples: int,
        block_tokens: int,
        compiled: Compiled,
        capacity_blocks: int,
        options: Options,
        literals: npt.NDArray[np.float64] | None = None,
        log_evictions: int = 0,
    ) -> None:
        self.rules = rules_of(block_tokens, compiled, options)
        touch = self.rules.scoring == residency.AT_RELEASE
        copies = min(exact_multiples, capacity_blocks)
        self.state = st.new_state(parents, capacity_blocks, copies, options.ghost_blocks, touch, log_evictions)
        for i, value in enumerate(() if literals is None else literals):
            self.state.cache[f"k{i}"] = value
        self.running = replay.new_running(options.server.max_running)
        self.counts = new_counts()
        self._hooks = core.Hooks(*(getattr(compiled, name) for name in core.Hooks._fields))
        self._rows = core.new_rows(0, options.server.max_running)
        self._name, self._options = compiled.policy.name, options

    def step(self, step: Step) -> None:
        """Replay the next requests; see `sim.core.engine.replay_policy`.

        Raises:
            PolicyError: If a priority is not finite.
        """
        server, origin = self._options.server, float(self._options.clock_origin)
        self._rows = core.next_rows(self._rows, step.requests.input_tokens.size, step.carried)
        state, running, out = self.state, self.running, (step.hits, step.start_s, self.counts)
        core.replay_policy(
            step.requests, step.labels, state, self._rows, running, self._hooks, self.rules, server, origin, *out
        )
        check_finite(state, self._name, step.number)

    def known(self) -> npt.NDArray[np.bool_]:
        """Return, per id, whether the cache holds the block or remembers it."""
        known: npt.NDArray[np.bool_] = self.state.status != st.ABSENT
        return known


def run_engine(prepared: Prepared, capacity_blocks: int, options: Options) -> Replay:
    """Replay against the engine's own LRU."""
    steps = NativeSteps(prepared.parents.size, prepared.block_tokens, capacity_blocks, options)
    step = whole(prepared)
    steps.step(step)
    return Replay(named(steps.counts), step.hits, step.start_s, None, pool=steps.pool)


def run_policy(
    prepared: Prepared,
    compiled: Compiled,
    capacity_blocks: int,
    options: Options,
    literals: npt.NDArray[np.float64] | None = None,
    log_evictions: int = 0,
) -> Replay:
    """Replay against a compiled policy; arguments and errors as of `PolicySteps`."""
    parents, exact, size = prepared.parents, prepared.exact_multiples, prepared.block_tokens
    steps = PolicySteps(parents, exact, size, compiled, capacity_blocks, options, literals, log_evictions)
    step = whole(prepared)
    steps.step(step)
    logged = int(steps.state.n[st.LOGGED])
    return Replay(named(steps.counts), step.hits, step.start_s, steps.state, logged, rules=steps.rules)


def rules_of(block_tokens: int, compiled: Compiled, options: Options) -> residency.Rules:
    """Return the switches of a replay of a policy."""
    scoring = residency.AT_RELEASE if compiled.policy.scoring == "touch" else residency.AT_EVICTION
    if compiled.policy.timeless and not options.orphans:
        scoring = residency.WHEN_CANDIDATE
    defined = (name in compiled.defined for name in ("admit", "on_hit", "on_insert", "on_evict"))
    rules = residency.Rules(block_tokens, scoring, options.orphans, *defined)
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
