"""Mooncake Store natively: leases, soft pins, watermark and batch eviction.

From source (Mooncake `master_service.cpp`, defaults of `types.h`), not measured; see `sim.core.mooncake_store` for the
rules. Leases are in the time of the trace: the same requests faster give another result.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.core import mooncake_store as core
from sim.engines import Engine
from sim.engines.outputs import new_outputs, require
from sim.options import Options, Replay
from sim.prepared import Prepared

NAME = "mooncake-store"


@dataclass(frozen=True)
class StoreParameters:
    """Flags of the master, its defaults where there are any.

    Attributes:
        eviction_high_watermark_ratio: Used share of the capacity above which a batch is evicted.
        eviction_ratio: Least share of the objects in a batch.
        lease_ttl_s: Lease granted by asking for an object (`default_kv_lease_ttl`: 10,000 ms); it is not evicted then.
        soft_pin_ttl_s: How long a soft pin holds after the put or the last lease (`default_kv_soft_pin_ttl`: 30 min).
        soft_pin_priority: Requests of the trace with at least this priority put with `with_soft_pin`; 0, as by
            default in the engine, for none.
        allow_evict_soft_pinned_objects: Whether soft-pinned objects are evicted after all others.

    Raises:
        ValueError: If a number is out of range.
    """

    eviction_high_watermark_ratio: float = 0.90
    eviction_ratio: float = 0.05
    lease_ttl_s: float = 10.0
    soft_pin_ttl_s: float = 1800.0
    soft_pin_priority: int = 0
    allow_evict_soft_pinned_objects: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.eviction_high_watermark_ratio <= 1 or not 0 < self.eviction_ratio <= 1:
            raise ValueError("eviction_high_watermark_ratio must be within 0..1, eviction_ratio within 0..1 and not 0")
        if not self.lease_ttl_s >= 0 or not self.soft_pin_ttl_s >= 0 or self.soft_pin_priority < 0:
            raise ValueError("lease_ttl_s, soft_pin_ttl_s and soft_pin_priority must not be negative")


def _native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: StoreParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    if parameters.soft_pin_priority and not prepared.labels.priority.size:
        raise ValueError("soft_pin_priority needs a trace with a priority column; this one has none")
    outputs = new_outputs(prepared)
    settings = core.Settings(
        float(parameters.eviction_high_watermark_ratio),
        float(parameters.eviction_ratio),
        float(parameters.lease_ttl_s),
        float(parameters.soft_pin_ttl_s),
        parameters.soft_pin_priority,
        parameters.allow_evict_soft_pinned_objects,
    )
    core.replay_mooncake_store(
        prepared.requests,
        prepared.labels.priority,
        core.new_objects(prepared.parents.size),
        settings,
        capacity_blocks,
        prepared.block_tokens,
        *outputs,
    )
    return outputs.replay()


ENGINES = (Engine(NAME, "Mooncake Store, August 2026", False, ("lease",), StoreParameters, _native, None),)
