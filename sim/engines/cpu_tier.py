"""The CPU tier of vLLM (`OffloadingConnector`), alone or behind vLLM's GPU pool: LRU, ARC and user policies.

Source: vLLM 0.33.0 `CPUOffloadingManager`, `cpu/policies/{lru,arc}.py`, `OffloadingConnectorScheduler`. The tier alone
(`gpu_blocks` = 0) is equal request by request to the hits recorded from the manager; behind a GPU pool it follows the
source, not measured: the GPU's prefix first, then the tier's contiguous continuation is loaded; what is behind it is
offered in one call (vLLM: one per scheduler step), the whole prompt if nothing was loaded. What is loaded and what is
computed enter the GPU pool alike, so the pool's own hits do not depend on the tier.

A user policy takes the place of LRU or ARC. `admit` is asked for every missing block of an offer, in prefix order, and
a refused one does not end the store (vLLM's own `CachePolicy` can refuse a whole store only). `store_threshold` is an
admission rule of vLLM's; a policy has `block.seen` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.core import cpu_tier as core
from sim.engines import VLLM, Engine
from sim.engines.chunks import run_chunks
from sim.engines.outputs import new_outputs, require
from sim.engines.vllm import run_engine
from sim.options import Options, Replay
from sim.policy.compiler import Compiled
from sim.prepared import Prepared

NAME = "vllm-cpu-tier"
POLICIES = {"lru": core.LRU, "arc": core.ARC}


@dataclass(frozen=True)
class CpuTierParameters:
    """Parameters of the tier.

    Attributes:
        store_threshold: Offers a block needs before it is stored; 0 is vLLM's default and off, 1 has the same effect.
        max_tracker_size: Blocks whose offers are counted, least recently offered forgotten first.
        gpu_blocks: Usable blocks of the GPU pool in front, 0 for the tier alone.

    Raises:
        ValueError: If a number is out of range.
    """

    store_threshold: int = 0
    max_tracker_size: int = 64_000
    gpu_blocks: int = 0

    def __post_init__(self) -> None:
        if self.store_threshold < 0 or self.max_tracker_size < 1 or self.gpu_blocks < 0:
            raise ValueError("store_threshold and gpu_blocks must be >= 0 and max_tracker_size >= 1")


def _gpu_hits(prepared: Prepared, parameters: CpuTierParameters) -> npt.NDArray[np.int32]:
    """Return the hits of the GPU pool, -1 for requests it cannot run."""
    if parameters.gpu_blocks == 0:
        return np.zeros(prepared.requests.input_tokens.size, np.int32)
    return run_engine(prepared, parameters.gpu_blocks, Options(engine=VLLM[0])).hits


def _by_tier(outcome: Replay, gpu_hits: npt.NDArray[np.int32], parameters: CpuTierParameters) -> Replay:
    if parameters.gpu_blocks:
        beyond = np.where(gpu_hits < 0, -1, outcome.hits - gpu_hits).astype(np.int32)
        return replace(outcome, tier_hits={"gpu": gpu_hits, "cpu": beyond})
    return outcome


def _native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: CpuTierParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    outputs, gpu_hits = new_outputs(prepared), _gpu_hits(prepared, parameters)
    gpu_hits.flags.writeable = False
    n_blocks, threshold = prepared.parents.size, parameters.store_threshold
    tracker = core.new_tracker(n_blocks if threshold >= 2 else 0)
    core.replay_cpu_tier(
        prepared.requests,
        gpu_hits,
        core.new_tier(n_blocks),
        tracker,
        POLICIES[policy],
        capacity_blocks,
        threshold,
        parameters.max_tracker_size,
        prepared.block_tokens,
        *outputs,
    )
    return _by_tier(outputs.replay(), gpu_hits, parameters)


def _user(
    prepared: Prepared, compiled: Compiled, capacity_blocks: int, options: Options, parameters: CpuTierParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    if parameters.store_threshold >= 2:
        raise ValueError("store_threshold goes with lru and arc; give the policy an admit that reads block.seen")
    gpu_hits = _gpu_hits(prepared, parameters)
    outcome = run_chunks(prepared, compiled, capacity_blocks, options, atomic=True, gpu_hits=gpu_hits)
    return _by_tier(outcome, gpu_hits, parameters)


ENGINES = (Engine(NAME, "vLLM 0.33.0", True, tuple(POLICIES), CpuTierParameters, _native, _user),)
