"""Replays a trace: `simulate(trace, policy, capacity)`.

Checks and names what the user gives, calls one kernel, and reports. Must not know how a policy is scored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.core import engine as core
from sim.core import fields, lru, replay, residency
from sim.core import state as st
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy
from sim.prepared import Prepared, prepare
from sim.registry import load_policy
from sim.result import Result, latency_of
from workloads.trace import Trace

ENGINES = ("vllm>=0.23", "vllm<=0.22")
MODES = ("serial", "overlap")


class PolicyError(RuntimeError):
    """A policy misbehaved while it ran; the message says at which request and what it returned."""


@dataclass(frozen=True)
class Options:
    """How requests run, apart from policy and capacity.

    Attributes:
        engine: "vllm>=0.23" or "vllm<=0.22"; user policies run under ">=0.23" accounting only.
        mode: "serial" (one request at a time) or "overlap" (constant-rate server, first come first served).
        decode: "none", "private" or "infer", see `sim.prepared.DECODE`.
        orphans: Let a block be evicted while a block that continues it is resident (vLLM does; SGLang and
            TensorRT-LLM cannot). Off for user policies by default; the native engine needs no such rule.
        ghost_blocks: Blocks remembered beyond the cache, 0 for none; about 176 bytes each in this simulator, in an
            engine an id and the numbers a policy reads.
        prefill_tokens_per_s: Rate of the server.
        decode_s_per_token: Time per generated token.
        max_running: Most requests at a time in overlap mode.
        clock_origin: Where the clocks shown to the policy begin; a policy must not care.
    """

    engine: str = "vllm>=0.23"
    mode: str = "serial"
    decode: str = "none"
    orphans: bool = False
    ghost_blocks: int = fields.GHOST_BLOCKS
    prefill_tokens_per_s: float = 8000.0
    decode_s_per_token: float = 0.02
    max_running: int = 256
    clock_origin: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}; choose one of {', '.join(ENGINES)}")
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}")
        if not self.prefill_tokens_per_s > 0 or not self.decode_s_per_token >= 0:
            raise ValueError("prefill_tokens_per_s must be positive and decode_s_per_token not negative")
        if self.max_running < 1 or self.ghost_blocks < 0 or not 0 <= self.clock_origin < 2**40:
            raise ValueError("max_running must be >= 1, ghost_blocks >= 0 and clock_origin within 0..2**40")

    @property
    def server(self) -> replay.Server:
        """The kernel's view of the server."""
        overlap = self.mode == "overlap"
        return replay.Server(
            overlap,
            float(self.prefill_tokens_per_s),
            float(self.decode_s_per_token),
            self.max_running if overlap else 1,
        )


@dataclass(frozen=True, eq=False)
class Replay:
    """Raw outcome of a kernel, before it is put into a `Result`."""

    counts: dict[str, int]
    hits: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.float64]
    state: st.State | None
    logged: int = 0
    pool: lru.Pool | None = None
    rules: residency.Rules | None = None


def simulate(
    trace: Trace,
    policy: str | Path | Policy | Compiled = "vllm",
    capacity: int | float | str = 0.05,
    **options: Any,
) -> Result:
    """Replay a trace against a policy.

    Args:
        trace: What to replay.
        policy: "vllm" for the engine's own LRU, a name of `sim.registry.policies()`, a path, or a `Policy`.
        capacity: Blocks (int or "4096"), or a share of the trace's distinct blocks (float below 1, or "5%").
        options: Fields of `Options`.

    Returns:
        The result, per-request arrays included.

    Raises:
        ValueError: If an option, name or capacity makes no sense.
        PolicyRejected: If the policy breaks the contract.
        PolicyError: If a priority is not finite.
    """
    chosen = Options(**options)
    capacity_blocks = parse_capacity(capacity, trace.n_blocks)
    prepared = prepare(trace, chosen.decode)
    if policy == "vllm":
        return _result(trace, "vllm", chosen, capacity_blocks, run_engine(prepared, capacity_blocks, chosen))
    compiled = policy if isinstance(policy, Compiled) else compile_policy(load_policy(policy))
    if chosen.engine != ENGINES[0]:
        raise ValueError(f"policies run under {ENGINES[0]!r} accounting only, not {chosen.engine!r}")
    outcome = run_policy(prepared, compiled, capacity_blocks, chosen)
    return _result(trace, compiled.policy.name, chosen, capacity_blocks, outcome)


def parse_capacity(capacity: int | float | str, n_blocks: int) -> int:
    """Return blocks for 4096, "4096", 0.05 or "5%".

    Raises:
        ValueError: If it is neither a positive number of blocks nor a share in (0, 1).
    """
    share = math.nan
    try:
        if isinstance(capacity, str) and capacity.strip().endswith("%"):
            share = float(capacity.strip()[:-1]) / 100.0
        elif isinstance(capacity, float) and not capacity.is_integer():
            share = capacity
        elif int(capacity) > 0 and not isinstance(capacity, bool):
            return int(capacity)
    except ValueError:
        pass
    if not 0.0 < share <= 1.0:
        raise ValueError(f"capacity {capacity!r}: give blocks (4096) or a share of the distinct blocks (0.05 or '5%')")
    return max(1, int(share * n_blocks))


def run_engine(prepared: Prepared, capacity_blocks: int, options: Options) -> Replay:
    """Replay against the engine's own LRU."""
    server, requests = options.server, prepared.requests
    hits, start_s, counts = _outputs(requests)
    pool = lru.new_pool(capacity_blocks, prepared.parents.size)
    rows = lru.new_rows(requests, capacity_blocks, server.max_running)
    running = replay.new_running(server.max_running)
    newer = options.engine == ENGINES[0]
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
    hits, start_s, counts = _outputs(requests)
    rules = _rules(prepared, compiled, options)
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
    if state.n[st.BROKEN]:
        request = int(state.n[st.BROKEN]) - 1
        raise PolicyError(
            f"{compiled.policy.name}: priority returned a number that is not finite at request {request}; guard "
            "divisions and logarithms (a block's gap, hits and depth can be 0)"
        )
    totals = dict(zip(replay.COUNTERS, counts.tolist(), strict=True))
    return Replay(totals, hits, start_s, state, int(state.n[st.LOGGED]), rules=rules)


def _outputs(
    requests: replay.Requests,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    n = requests.input_tokens.size
    return np.zeros(n, np.int32), np.zeros(n), np.zeros(len(replay.COUNTERS), np.int64)


def _rules(prepared: Prepared, compiled: Compiled, options: Options) -> residency.Rules:
    scoring = residency.AT_RELEASE if compiled.policy.scoring == "touch" else residency.AT_EVICTION
    if compiled.policy.timeless and not options.orphans:
        scoring = residency.WHEN_CANDIDATE
    defined = (name in compiled.defined for name in ("admit", "on_hit", "on_insert", "on_evict"))
    return residency.Rules(prepared.block_tokens, scoring, options.orphans, *defined)


def _result(trace: Trace, policy: str, options: Options, capacity_blocks: int, outcome: Replay) -> Result:
    counts = outcome.counts
    hit_tokens = counts["hit_blocks"] * trace.block_tokens
    served = outcome.hits >= 0
    prefill_tokens = int(trace.input_tokens[served].sum(dtype=np.int64)) - hit_tokens
    admissions = max(int(served.sum()), 1)
    latency = None
    if options.mode == "overlap":
        uncached = trace.input_tokens - np.maximum(outcome.hits, 0).astype(np.int64) * trace.block_tokens
        tokens = trace.input_tokens.astype(np.int64) + trace.output_tokens
        decode_s = trace.output_tokens.astype(np.float64) * options.decode_s_per_token
        rate = options.prefill_tokens_per_s
        latency = latency_of(
            trace.arrival_s, outcome.start_s, uncached, tokens, decode_s, rate, counts["waited_requests"]
        )
    kept = {k: v for k, v in counts.items() if k not in ("sum_used_blocks", "waited_requests")}
    return Result(
        trace=trace.name,
        policy=policy,
        engine=options.engine,
        mode=options.mode,
        decode=options.decode,
        capacity_blocks=capacity_blocks,
        block_tokens=trace.block_tokens,
        requests=trace.n_requests,
        prompt_tokens=trace.prompt_tokens,
        hit_tokens=hit_tokens,
        mean_used_blocks=counts["sum_used_blocks"] / admissions,
        prefill_tokens=prefill_tokens,
        prefill_s=prefill_tokens / options.prefill_tokens_per_s,
        prefill_s_saved=hit_tokens / options.prefill_tokens_per_s,
        latency=latency,
        hit_blocks_per_request=outcome.hits,
        start_s=outcome.start_s,
        **kept,
    )
