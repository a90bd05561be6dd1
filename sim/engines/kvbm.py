"""Dynamo KVBM: the inactive pools MultiLRU, LRU and Lineage natively.

From source (ai-dynamo `lib/kvbm-logical`), not measured; see `sim.core.kvbm` for the rules. The pool does not say in
which order a request gives its blocks back: Dynamo's mocker frees last to first, `RequestSequence.release` of
kvbm-logical first to last; `tail_first` chooses. The engine's default is Lineage.
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
POLICIES = {"lineage": core.LINEAGE, "lru": core.LRU, "multilru": core.MULTILRU}


@dataclass(frozen=True)
class KvbmParameters:
    """Parameters of the pool; all but `tail_first` are MultiLRU's.

    Attributes:
        warm, hot, very_hot: Frequencies from which a block is in level 1, 2, 3; ascending, 1 to 15
            (`with_multi_lru_backend`: 3, 8, 15).
        tracker_capacity: Frequencies are halved after 10 times as many increments
            (`FrequencyTrackingCapacity::Medium`: 2^21; Dynamo's mocker gives the number of blocks instead).
        tail_first: Whether a request gives its blocks back last to first.

    Raises:
        ValueError: If a number is out of range.
    """

    warm: int = 3
    hot: int = 8
    very_hot: int = 15
    tracker_capacity: int = 2_097_152
    tail_first: bool = True

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
    core.replay_kvbm(
        prepared.requests,
        parents,
        core.new_inactive(parents.size),
        POLICIES[policy],
        capacity_blocks,
        thresholds,
        parameters.tracker_capacity,
        parameters.tail_first,
        prepared.block_tokens,
        *outputs,
    )
    return outputs.replay()


ENGINES = (Engine(NAME, "ai-dynamo kvbm-logical", False, tuple(POLICIES), KvbmParameters, _native, None),)
