"""The zoo: classic caching policies by name, replayed natively.

A family of policies per module of `sim.core.zoo`, compiled when first used. Knows names and how to run a policy under
either accounting; must not know how one decides.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.core import replay
from sim.engines.outputs import new_outputs
from sim.options import Options, Replay
from workloads import chains

if TYPE_CHECKING:
    from sim.prepared import Prepared

PREFIX = "zoo:"
"""Before a name: the zoo's policy, whatever else has that name."""

_ZOO = {
    "fifo": ("queues", "oldest in the cache leaves first"),
    "lru": ("queues", "least recently used leaves first"),
    "mru": ("queues", "most recently used leaves first"),
    "lfu": ("ranks", "fewest accesses while resident leaves first"),
    "lfu-ghost": ("ranks", "fewest accesses ever leaves first"),
    "lfuda": ("ranks", "LFU with dynamic aging (Arlitt 2000, as libCacheSim codes it)"),
    "gdsf": ("ranks", "age plus accesses (Cherkasova 1998), unit size and cost"),
    "lru-k": ("ranks", "oldest last but one access leaves first, K = 2 (O'Neil 1993)"),
    "slru": ("slru", "four LRU segments (Karedla 1994)"),
    "2q": ("twoq", "FIFO, ghost FIFO and LRU (Johnson and Shasha 1994)"),
    "mq": ("mq", "eight LRU queues by access count, with lifetimes and ghosts (Zhou 2001)"),
    "arc": ("arc", "recency and frequency lists, border moved by ghosts (Megiddo and Modha 2003)"),
    "lirs": ("lirs", "low inter-reference recency set (Jiang and Zhang 2002)"),
    "sieve": ("sieve", "FIFO with a hand that spares what was accessed (Zhang 2024)"),
    "s3-fifo": ("s3fifo", "small, main and ghost FIFO (Yang 2023)"),
    "w-tinylfu": ("wtinylfu", "LRU window, admission by approximate counts, SLRU (Einziger 2017)"),
    "hyperbolic": ("hyperbolic", "fewest accesses per time among 64 drawn (Blankstein 2017)"),
    "lhd": ("lhd", "least hit density among a few drawn (Beckmann 2018)"),
    "lecar": ("lecar", "LRU or LFU, by regret (Vietri 2018)"),
    "cacheus": ("cacheus", "scan-resistant LRU or churn-resistant LFU, by regret (Rodriguez 2021)"),
    "belady": ("belady", "farthest next use leaves first, offline; engine flat only (Belady 1966)"),
}
"""Name: module of `sim.core.zoo`, what the policy does."""

OFFLINE = ("belady",)
"""Policies that read the future; flat accounting only."""

NAMES = tuple(_ZOO)


def find(policy: str) -> str | None:
    """Return the zoo's name for "arc" or "zoo:arc", or None if it has none.

    Raises:
        ValueError: If "zoo:" stands before a name that the zoo does not have.
    """
    name = policy.removeprefix(PREFIX)
    if name in _ZOO:
        return name
    if policy.startswith(PREFIX):
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"; did you mean {PREFIX + near[0]!r}?" if near else ""
        raise ValueError(f"the zoo has no policy {name!r}{hint}; it has: {', '.join(NAMES)}")
    return None


def describe() -> dict[str, str]:
    """Return what each policy does, in a line."""
    return {name: text for name, (_, text) in _ZOO.items()}


def run_flat(prepared: Prepared, capacity_blocks: int, options: Options, name: str) -> Replay:
    """Replay full blocks as independent objects, see `sim.core.zoo.driver_flat`."""
    from sim.core.zoo import driver_flat

    future = chains.next_use(prepared.requests.block_ids.view(np.int32)) if name in OFFLINE else np.zeros(0, np.int64)
    kit, state = _start(prepared, capacity_blocks, name, True, future)
    outputs = new_outputs(prepared)
    driver_flat.replay_flat(prepared.requests, state, kit.hooks, *outputs)
    return outputs.replay()


def run_prefix(prepared: Prepared, capacity_blocks: int, options: Options, name: str) -> Replay:
    """Replay under vLLM's accounting, see `sim.core.zoo.driver_prefix`.

    Raises:
        ValueError: If generated blocks are to be modelled, or the policy is offline.
    """
    from sim.core.zoo import driver_prefix

    if options.decode != "none":
        raise ValueError(f"zoo policy {name!r}: decode={options.decode!r} is not supported; use decode='none'")
    if name in OFFLINE:
        raise ValueError(f"zoo policy {name!r} needs engine='flat'; for the optimum under prefix rules: sim.optimum")
    kit, state = _start(prepared, capacity_blocks, name, False, np.zeros(0, np.int64))
    outputs = new_outputs(prepared)
    running = replay.new_running(options.server.max_running)
    held = np.zeros(2, np.int64)
    driver_prefix.replay_prefix(
        prepared.requests,
        state,
        held,
        running,
        prepared.block_tokens,
        kit.hooks,
        options.server,
        *outputs,
    )
    return outputs.replay()


def _start(prepared: Prepared, capacity: int, name: str, strict: bool, future: Any) -> Any:
    from sim.core.zoo import state as st

    kit = importlib.import_module(f"sim.core.zoo.{_ZOO[name][0]}").KITS[name]
    state = st.new_state(prepared.parents.size, capacity, kit.needs(capacity), strict, future)
    kit.setup(state)
    return kit, state
