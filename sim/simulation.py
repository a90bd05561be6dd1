"""Replays a trace: `simulate(trace, policy, capacity)`.

Checks and names what the user gives, lets an engine replay it, and reports. Must not know how a policy is scored.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sim import engines, zoo
from sim.engines.vllm import run_engine, run_policy
from sim.options import Options, PolicyError, Replay
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy, policies
from sim.result import Result, latency_of
from workloads.trace import Trace

__all__ = ["Options", "PolicyError", "Replay", "parse_capacity", "run_engine", "run_policy", "simulate"]

NATIVE = "native"
"""The engine's own default policy."""


class Replayed(Protocol):
    """What a result says about the requests: a `Trace`, or the columns of one that was never in memory as a whole."""

    @property
    def name(self) -> str: ...
    @property
    def block_tokens(self) -> int: ...
    @property
    def n_requests(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def arrival_s(self) -> npt.NDArray[np.float64]: ...
    @property
    def input_tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def output_tokens(self) -> npt.NDArray[np.int32]: ...


def simulate(
    trace: Trace,
    policy: str | Path | Policy | Compiled = NATIVE,
    capacity: int | float | str = 0.05,
    **options: Any,
) -> Result:
    """Replay a trace against a policy.

    Args:
        trace: What to replay.
        policy: "native" for the engine's own default, one of the engine's own policies ("vllm", "slru", ...), a name
            of `sim.registry.policies()`, a path, a name of the zoo ("arc", `sim.zoo.NAMES`), or a `Policy`; the first
            of these wins where names are equal, and "zoo:arc" is always the zoo's.
        capacity: Blocks (int or "4096"), or a share of the trace's distinct blocks (float below 1, or "5%").
        options: Fields of `Options`, and parameters of the engine.

    Returns:
        The result, per-request arrays included.

    Raises:
        ValueError: If an option, name or capacity makes no sense.
        PolicyRejected: If the policy breaks the contract.
        PolicyError: If a priority is not finite.
    """
    chosen, engine, parameters = configure(options)
    capacity_blocks = parse_capacity(capacity, trace.n_blocks)
    found = resolve(policy, engine)
    if chosen.eviction_sample and (isinstance(found, str) or engine.name != engines.VLLM[0]):
        raise ValueError(f"eviction_sample is for user policies of engine {engines.VLLM[0]!r}; leave it out here")
    prepared = prepare(trace, chosen.decode)
    if not isinstance(found, str):
        assert engine.run_user
        compiled = found if isinstance(found, Compiled) else compile_policy(found)
        name = compiled.policy.name
        outcome = engine.run_user(prepared, compiled, capacity_blocks, chosen, parameters)
    elif found.startswith(zoo.PREFIX):
        assert engine.run_zoo
        name = found
        outcome = engine.run_zoo(prepared, capacity_blocks, chosen, found.removeprefix(zoo.PREFIX))
    else:
        name = found
        outcome = engine.run(prepared, capacity_blocks, chosen, found, parameters)
    return result_of(trace, name, chosen, capacity_blocks, outcome)


def resolve(policy: str | Path | Policy | Compiled, engine: engines.Engine) -> str | Policy | Compiled:
    """Return what a policy argument means: the name of an engine's own policy, "zoo:NAME", or a user policy.

    Raises:
        ValueError: If there is no such policy, or the engine cannot run it.
        PolicyRejected: If a file breaks the contract.
    """
    if policy == NATIVE:
        return engine.policies[0]
    if isinstance(policy, str) and policy in engine.policies:
        return policy
    if engine.run_zoo and isinstance(policy, str):
        taken = policy in policies() or Path(policy).is_file()
        classic = None if taken else zoo.find(policy)
        if classic:
            return zoo.PREFIX + classic
    if engine.run_user is None:
        raise ValueError(f"engine {engine.name!r} runs its own policies only: {', '.join(engine.policies)}")
    if engine.run_zoo is None and isinstance(policy, str) and policy.startswith(zoo.PREFIX):
        raise ValueError(f"engine {engine.name!r} does not replay the zoo, {policy!r}; vllm>=0.23 and flat do")
    return policy if isinstance(policy, Compiled) else load_policy(policy)


def configure(options: dict[str, Any]) -> tuple[Options, engines.Engine, Any]:
    """Split keyword arguments into options and the engine's parameters."""
    known = [field.name for field in dataclasses.fields(Options)]
    chosen = Options(**{key: value for key, value in options.items() if key in known})
    rest = {key: value for key, value in options.items() if key not in known}
    try:
        return chosen, *engines.find(chosen.engine, rest)
    except engines.UnknownParameter as error:
        raise ValueError(f"{error}; options of every engine: {', '.join(known)}") from None


def parse_capacity(capacity: int | float | str, n_blocks: int | None) -> int:
    """Return blocks for 4096, "4096", 0.05 or "5%".

    Raises:
        ValueError: If it is neither a positive number of blocks nor a share in (0, 1), or a share of an unknown number.
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
        raise ValueError(
            f"capacity {capacity!r}: give blocks (4096) or a share of the distinct blocks (0.05 or '5%');"
            " workloads.kv_bytes.memory_blocks turns memory ('40GiB') into blocks"
        )
    if n_blocks is None:
        raise ValueError(f"capacity {capacity!r}: the number of distinct blocks is not known here; give blocks (4096)")
    return max(1, int(share * n_blocks))


def result_of(trace: Replayed, policy: str, options: Options, capacity_blocks: int, outcome: Replay) -> Result:
    """Return what a user sees of a replay."""
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
        tier_hits_per_request=outcome.tier_hits,
        **kept,
    )
