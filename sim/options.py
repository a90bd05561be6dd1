"""How requests run, and what a kernel leaves: `Options` in, `Replay` out.

Knows names and numbers; must not know any engine or policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim import engines
from sim.core import fields, lru, replay, residency
from sim.core import state as st

if TYPE_CHECKING:
    from sim.core import radix

MODES = ("serial", "overlap")


class PolicyError(RuntimeError):
    """A policy misbehaved while it ran; the message says at which request and what it returned."""


@dataclass(frozen=True)
class Options:
    """How requests run, apart from policy and capacity.

    Attributes:
        engine: Name of `sim.engines.names()`, parameters may follow: "vllm-cpu-tier?store_threshold=2".
        mode: "serial" (one request at a time) or "overlap" (constant-rate server, first come first served).
        decode: "none", "private" or "infer", see `sim.prepared.DECODE`.
        orphans: Let a block be evicted while a block that continues it is resident (vLLM does; SGLang and
            TensorRT-LLM cannot). Off for user policies by default; the native engine needs no such rule.
        ghost_blocks: Blocks remembered beyond the cache, 0 for none; about 176 bytes each in this simulator, in an
            engine an id and the numbers a policy reads.
        prefill_tokens_per_s: Rate of the server.
        decode_s_per_token: Time per generated token.
        max_running: Most requests at a time in overlap mode.
        eviction_sample: Score so many random candidates per eviction instead of all, as Redis does (its default is 5);
            0: all, exact. User policies of "vllm>=0.23" only.
        eviction_seed: Of those draws.
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
    eviction_sample: int = 0
    eviction_seed: int = 0

    def __post_init__(self) -> None:
        engines.check_name(self.engine)
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}")
        if not self.prefill_tokens_per_s > 0 or not self.decode_s_per_token >= 0:
            raise ValueError("prefill_tokens_per_s must be positive and decode_s_per_token not negative")
        if self.max_running < 1 or self.ghost_blocks < 0 or not 0 <= self.clock_origin < 2**40:
            raise ValueError("max_running must be >= 1, ghost_blocks >= 0 and clock_origin within 0..2**40")
        if self.eviction_sample < 0 or not 0 <= self.eviction_seed < 2**63:
            raise ValueError("eviction_sample must be >= 0 and eviction_seed within 0..2**63 - 1")

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
    tree: radix.Tree | None = None
    tier_hits: dict[str, npt.NDArray[np.int32]] | None = None
    """Per tier, fastest first: the blocks of each request found there, -1 for unserved ones; they sum to `hits`."""
