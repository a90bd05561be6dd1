"""Explains where a policy loses hits: `explain(trace, policy, capacity)`.

Three readings, from the strictest to the loosest.

*The account* is exact. A block the offline optimum hits and the policy does not was in the cache when it was last used
and evicted since, or was bypassed then, so

    optimum hits - policy hits = lost to evictions + lost to bypasses - hit by the policy alone.

*The replays* are counterfactuals: the oracle of `sim.core.shadow` evicts, or admits, or both, in the policy's place,
and the hits are counted. Regret is the difference to the policy's own hits. In an engine's pool a bypassed block
occupies its place while its request runs, so a perfect order of eviction alone reaches the optimum if everything is
admitted (up to the second copies of recomputed last blocks): the two regrets overlap and do not add up.

*Each decision* is judged alone, which is no counterfactual: a mistake put right changes what later decisions meet.

- An eviction is a mistake if, among the same candidates, one was asked for later than the block evicted: the oracle
  would have taken that. It loses a hit block if the optimum hits the evicted block when it is asked for next.
- Admitting a block is a mistake, in vain, if nobody hits it before it leaves (or the trace ends) and the optimum does
  not hit it next either. It loses no hit by itself; it takes room. If the optimum hits it, its eviction is at fault.
- Bypassing a block is a mistake, and loses a hit block, if the optimum hits it when it is asked for next.

One request at a time, prompts only, leaves only. Knows the future; no policy process may import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.bounds import optimum
from sim.decisions import Decisions, Judge
from sim.engines import VLLM
from sim.explanation_text import describe
from sim.options import Options
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy
from sim.shadow import Foreknowledge, Shadowed, foresee, replay_shadowed
from sim.simulation import run_policy
from workloads.trace import Trace

SCHEMA = "kvevolve-explanation/1"

_HARD = {"engine": VLLM[0], "mode": "serial", "decode": "none", "orphans": False, "clock_origin": 0}


@dataclass(frozen=True)
class Explanation:
    """Where a policy loses hits on a trace.

    Attributes:
        hits: Hit blocks of the replays: "policy", "oracle_eviction" (the policy admits), "oracle_admission" (the
            policy evicts), "oracle_both", and of the offline "optimum".
        account: "lost_to_evictions", "lost_to_bypasses", "hit_by_policy_alone", in hit blocks.
        no_better_victim: Of `lost_to_evictions`, evictions that no other candidate could have spared.
        evictions, admitted, bypassed: Decisions one by one.
    """

    trace: str
    policy: str
    capacity_blocks: int
    block_tokens: int
    requests: int
    looked_up_blocks: int
    hits: Mapping[str, int]
    account: Mapping[str, int]
    no_better_victim: int
    evictions: Decisions
    admitted: Decisions
    bypassed: Decisions

    @property
    def eviction_regret(self) -> int:
        """Hit blocks gained if the oracle evicts in the policy's place."""
        return self.hits["oracle_eviction"] - self.hits["policy"]

    @property
    def admission_regret(self) -> int:
        """Hit blocks gained if the oracle admits in the policy's place."""
        return self.hits["oracle_admission"] - self.hits["policy"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, fit for JSON."""
        regrets = {"eviction_regret": self.eviction_regret, "admission_regret": self.admission_regret}
        return {"schema": SCHEMA, **dataclasses.asdict(self), **regrets}

    def __str__(self) -> str:
        return describe(self)


def explain(
    trace: Trace,
    policy: str | Path | Policy | Compiled = "lru",
    capacity: int | float | str = 0.05,
    *,
    costliest: int = 5,
    progress: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Explanation:
    """Replay a policy with the oracle in its shadow, then with the oracle in its place.

    Args:
        trace: What to replay.
        policy: As for `sim.simulate`; the engine's own LRU ("native", "vllm") is explained by the contract's `lru`.
        capacity: As for `sim.simulate`.
        costliest: Length of the lists of the costliest decisions.
        progress: Called with what is about to be done.
        options: `ghost_blocks`; other fields of `Options` only at their defaults.

    Raises:
        ValueError: If an option, name or capacity makes no sense, or asks for what is not explained.
        PolicyRejected: If the policy breaks the contract.
        PolicyError: If a priority is not finite.
    """
    chosen = Options(**options)
    for name, wanted in _HARD.items():
        if getattr(chosen, name) != wanted:
            raise ValueError(f"explain: {name}={getattr(chosen, name)!r} is not explained; leave it at {wanted!r}")
    progress("compiling")
    if isinstance(policy, str) and policy in ("native", "vllm"):
        policy = "lru"
    compiled = policy if isinstance(policy, Compiled) else compile_policy(load_policy(policy))
    progress("looking for the optimum")
    best = optimum(trace, capacity)
    known = foresee(trace, best)
    progress(f"replaying {compiled.policy.name}")
    plain = run_policy(prepare(trace), compiled, best.capacity_blocks, chosen)
    shadowed = replay_shadowed(trace, compiled, known, chosen, logged=plain)
    if not np.array_equal(shadowed.hits, plain.hits):
        raise RuntimeError("the shadowed replay differs from the engine's: please report the trace and the policy")
    hits = {"policy": plain.counts["hit_blocks"]}
    for name in ("eviction", "admission", "both"):
        progress(f"replaying with oracle {name}")
        crossed = replay_shadowed(
            trace, compiled, known, chosen, oracle_eviction=name != "admission", oracle_admission=name != "eviction"
        )
        hits[f"oracle_{name}"] = crossed.counts["hit_blocks"]
    hits["optimum"] = best.hit_blocks
    progress("judging the decisions")
    return _explanation(trace, compiled.policy.name, known, shadowed, hits, costliest)


def _explanation(
    trace: Trace, policy: str, known: Foreknowledge, replay: Shadowed, hits: dict[str, int], most: int
) -> Explanation:
    eviction, admission = replay.log.eviction, replay.log.admission
    wanted = eviction["wanted"] > 0
    wrong = eviction["next_use"] < eviction["instead_next_use"]
    enters, deserves = admission["admitted"] > 0, admission["wanted"] > 0
    judge = Judge(trace, known, replay, most)
    evictions = judge.decisions(eviction, np.ones(eviction.size, bool), wrong, wrong & wanted)
    in_vain = enters & ~deserves & (admission["hits"] == 0)
    admitted = judge.decisions(admission, enters, in_vain, np.zeros(admission.size, bool))
    bypassed = judge.decisions(admission, ~enters, ~enters & deserves, ~enters & deserves)
    alone = np.maximum(replay.hits - known.best.hit_blocks_per_request, 0).sum(dtype=np.int64)
    account = {
        "lost_to_evictions": int(np.count_nonzero(wanted)),
        "lost_to_bypasses": bypassed.hit_blocks_lost,
        "hit_by_policy_alone": int(alone),
    }
    return Explanation(
        trace=trace.name,
        policy=policy,
        capacity_blocks=known.best.capacity_blocks,
        block_tokens=trace.block_tokens,
        requests=trace.n_requests,
        looked_up_blocks=replay.counts["looked_up_blocks"],
        hits=hits,
        account=account,
        no_better_victim=int(np.count_nonzero(wanted & ~wrong)),
        evictions=evictions,
        admitted=admitted,
        bypassed=bypassed,
    )
