"""Dynamo KVBM: the inactive pools MultiLRU, LRU and Lineage natively.

From source (ai-dynamo `lib/kvbm-logical`), not measured; see `sim.core.kvbm` for the rules and what is exact in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.core import kvbm as core
from sim.core import replay
from sim.engines import Engine
from sim.engines.outputs import new_outputs, require
from sim.options import Options, Replay
from sim.prepared import Prepared

NAME = "kvbm"
POLICIES = {"multilru": core.MULTILRU, "lru": core.LRU, "lineage": core.LINEAGE}


@dataclass(frozen=True)
class KvbmParameters:
    """Parameters of MultiLRU.

    Attributes:
        warm, hot, very_hot: Frequencies from which a block is in level 1, 2, 3; ascending, 1 to 15.
        tracker_capacity: Frequencies are halved after 10 times as many increments.

    Raises:
        ValueError: If a number is out of range.
    """

    warm: int = 3
    hot: int = 8
    very_hot: int = 15
    tracker_capacity: int = 1_048_576

    def __post_init__(self) -> None:
        if not 1 <= self.warm < self.hot < self.very_hot <= core.MOST_COUNTED or self.tracker_capacity < 1:
            raise ValueError("1 <= warm < hot < very_hot <= 15 and tracker_capacity >= 1 are needed")


def _native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: KvbmParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    outputs = new_outputs(prepared)
    parents = replay.frozen(prepared.parents.astype(np.int32, copy=False).view(np.uint32), np.uint32)
    thresholds = (parameters.warm, parameters.hot, parameters.very_hot)
    pool = core.new_inactive(parents.size)
    kind, decay = POLICIES[policy], parameters.tracker_capacity
    core.replay_kvbm(
        prepared.requests, parents, pool, kind, capacity_blocks, thresholds, decay, prepared.block_tokens, *outputs
    )
    return outputs.replay()


ENGINES = (Engine(NAME, "ai-dynamo kvbm-logical", False, tuple(POLICIES), KvbmParameters, _native, None),)
