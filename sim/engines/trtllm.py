"""TensorRT-LLM's V1 block manager natively: retention priorities and durations.

From source (TensorRT-LLM `evictionPolicy.cpp`, `kvCacheManager.cpp`), not measured; see `sim.core.trtllm` for the
rules. A request of a trace with a `priority` column retains its whole prompt at that priority (0 evicted first, 100
last; a request whose priority is unknown counts as 0), one of a trace without retains it at `default_priority`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim.core import replay
from sim.core import trtllm as core
from sim.engines import Engine
from sim.engines.outputs import new_outputs, require
from sim.options import Options, Replay
from sim.prepared import Prepared

NAME = "tensorrt-llm"


@dataclass(frozen=True)
class TrtllmParameters:
    """The `KvCacheRetentionConfig` of every request.

    Attributes:
        default_priority: 0..100, of all requests of a trace without priorities (`kDefaultRetentionPriority`: 35).
        duration_s: How long a priority other than 35 holds after the release of a block, after which it is 35; the
            engine's default is for ever.

    Raises:
        ValueError: If a number is out of range.
    """

    default_priority: int = core.DEFAULT_PRIORITY
    duration_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.default_priority <= core.LAST_PRIORITY or not self.duration_s >= 0:
            raise ValueError("default_priority must be within 0..100 and duration_s not negative")


def _native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: TrtllmParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    priorities, outputs = prepared.labels.priority, new_outputs(prepared)
    if priorities.max(initial=0) > core.LAST_PRIORITY:
        raise ValueError(
            f"engine {NAME!r} knows priorities 0..100 only, the trace has {priorities.max()}; scale its priority column"
        )
    if not priorities.size:
        priorities = replay.frozen(np.full(outputs.hits.size, parameters.default_priority), np.int32)
    parents = replay.frozen(prepared.parents.astype(np.int32, copy=False).view(np.uint32), np.uint32)
    core.replay_trtllm(
        prepared.requests,
        parents,
        priorities,
        core.new_pool(parents.size, capacity_blocks),
        float(parameters.duration_s),
        capacity_blocks,
        prepared.block_tokens,
        *outputs,
    )
    return outputs.replay()


ENGINES = (Engine(NAME, "TensorRT-LLM V1", False, ("priority",), TrtllmParameters, _native, None),)
