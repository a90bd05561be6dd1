"""Replays a trace with the order of eviction that a predictor gives, which no engine could keep.

Knows tables of scores and the policy engine. Must not know how scores are made, nor splits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.core import gittins, lookup, replay
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.results.ceiling.hazards import EDGES_S, WIDTHS_S
from sim.results.ceiling.touches import Touches
from sim.simulation import Options, run_policy
from workloads.trace import Trace

_MOVING = "def priority(block, cache):\n    return block.age\n"
"""Stands for the table where the engine asks what a score depends on: on age."""


def hits(
    trace: Trace, touches: Touches, hazards: npt.NDArray[np.float32], capacities: Sequence[int]
) -> list[npt.NDArray[np.int32]]:
    """Return hits per request at each capacity in blocks, the lowest Gittins index evicted first.

    Args:
        trace: What is replayed.
        touches: Its references.
        hazards: Per row of `touches` and age bin, see `sim.results.ceiling.hazards`.
        capacities: Each at least the longest prompt.

    Raises:
        ValueError: If a capacity is smaller than the longest prompt.
    """
    if min(capacities) < int(trace.occupied_blocks.max(initial=0)):
        raise ValueError(f"{trace.name}: a capacity is below the longest prompt; fix: leave it out")
    table = np.empty_like(hazards, order="C")
    gittins.indices(replay.frozen(hazards, np.float32), replay.frozen(WIDTHS_S, np.float64), table)
    offsets = np.ascontiguousarray(trace.offsets, np.int64)
    row_of = np.ascontiguousarray(touches.row_of)
    compiled = compile_policy(Policy.from_source(_MOVING, "ceiling"))
    native = lookup.priority_of(table, row_of, EDGES_S, offsets)
    hooks = (compiled.admit, compiled.on_hit, compiled.on_insert, compiled.on_evict)
    foreseeing = Compiled(compiled.policy, native, *hooks, compiled.defined)
    return [run_policy(prepare(trace), foreseeing, capacity, Options()).hits for capacity in capacities]
