"""Replays of one trace: hits per request of LRU, of the optimum, or of a policy; the jobs of this package.

Knows traces, capacities and how a policy is named. Must not know panels, scores or rules. Policies run in this process
or its workers, after the gate and an isolated run (`sim.promotion.rescoring`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from sim.bounds import optimum
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy, clock_origin
from sim.prepared import Prepared, prepare
from sim.result import counted_hits
from sim.simulation import Options, run_engine, run_policy, simulate
from workloads.trace import Trace

Hits = npt.NDArray[np.int32]
"""Per request, blocks hit; -1 where it was not served."""


_KNOWN: WeakKeyDictionary[Trace, dict[tuple[int, int, str], Tokens]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Column:
    """What is replayed: a name, and the source of a user policy; None for what runs natively ("vllm", "zoo:arc")."""

    name: str
    source: str | None = None


@dataclass(frozen=True)
class Tokens:
    """Hit tokens of one cell, of the requests that count."""

    prompt: int
    lru: int
    optimum: int
    hits: int

    @property
    def gap_closed(self) -> float:
        """0 is LRU, 1 the optimum; 0 where they are equal."""
        gap = self.optimum - self.lru
        return (self.hits - self.lru) / gap if gap > 0 else 0.0


def hits_of(trace: Trace, column_and_capacity: tuple[Column, int]) -> Hits:
    """Return the hits per request of a column at a capacity in blocks."""
    column, capacity_blocks = column_and_capacity
    if column.source is None:
        return simulate(trace, column.name, capacity_blocks).hit_blocks_per_request
    return policy_hits(prepare(trace), column.source, capacity_blocks)


def policy_hits(prepared: Prepared, source: str, capacity_blocks: int) -> Hits:
    """Return the hits per request of a user policy; its clocks begin where its source says, as when it is scored."""
    options = Options(clock_origin=clock_origin(source))
    return run_policy(prepared, compiled(source), capacity_blocks, options).hits


def tokens_of(trace: Trace, capacity_blocks: int, first_counted: int, source: str) -> Tokens:
    """Return the tokens LRU, the optimum and a policy hit in one cell; replayed once as long as the trace lives."""
    known, key = _KNOWN.setdefault(trace, {}), (capacity_blocks, first_counted, source)
    if key not in known:
        known[key] = _tokens_of(trace, *key)
    return known[key]


def _tokens_of(trace: Trace, capacity_blocks: int, first_counted: int, source: str) -> Tokens:
    lru = run_engine(prepare(trace), capacity_blocks, Options()).hits
    found = (lru, policy_hits(prepare(trace), source, capacity_blocks))
    hit = [counted_hits(hits, first_counted) * trace.block_tokens for hits in found]
    prompt = int(trace.input_tokens[first_counted:].sum(dtype=np.int64))
    return Tokens(prompt, hit[0], optimum(trace, capacity_blocks, first_counted).hit_tokens, hit[1])


@lru_cache(maxsize=4)  # jobs come policy by policy
def compiled(source: str) -> Compiled:
    """Return a policy ready to run."""
    return compile_policy(Policy.from_source(source, "candidate"))
