"""The slow, obvious twin of `sim.core.mooncake_store`: objects in a dict, every batch sorted anew."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.engines.mooncake_store import StoreParameters
from sim.twin_server import asks_of
from workloads.trace import Trace


@dataclass
class Object:
    """When the lease of a stored object ends, and its soft pin (None: put without). `order`: of the last grant."""

    lease_s: float
    soft_pin_s: float | None
    asked: bool
    order: int


class TwinMaster:
    """The master of one store."""

    def __init__(self, capacity: int, flags: StoreParameters) -> None:
        self.capacity, self.flags = capacity, flags
        self.stored: dict[int, Object] = {}
        self.evictions: list[int] = []
        self.failed = False
        self.order = 0

    def look(self, now_s: float) -> None:
        """What the eviction thread does."""
        flags, base = self.flags, len(self.stored)
        used, high = base / self.capacity, flags.eviction_high_watermark_ratio
        if used <= high and not self.failed:
            return
        target = max(flags.eviction_ratio, used - high + flags.eviction_ratio)
        least = max(target * 0.5, used - high)
        gone = self.evict(now_s, False, math.ceil(base * target))
        if flags.allow_evict_soft_pinned_objects:
            gone += self.evict(now_s, True, math.ceil(base * least) - gone)
        if gone:
            self.failed = False

    def evict(self, now_s: float, soft_pinned: bool, most: int) -> int:
        """Evict the oldest leases; of equal ones, objects put without a soft pin and not asked for go first."""

        def may_go(block: int) -> bool:
            found = self.stored[block]
            pinned = found.soft_pin_s is not None and now_s < found.soft_pin_s
            return now_s >= found.lease_s and pinned == soft_pinned

        def rank(block: int) -> tuple[float, bool, bool, int]:
            found = self.stored[block]
            return found.lease_s, found.soft_pin_s is not None, found.asked, found.order

        victims = sorted(filter(may_go, self.stored), key=rank)[: max(most, 0)]
        for block in victims:
            del self.stored[block]
        self.evictions += victims
        return len(victims)

    def ask(self, block: int, now_s: float) -> None:
        """Grant a lease."""
        found = self.stored[block]
        found.lease_s, found.asked, found.order = now_s + self.flags.lease_ttl_s, True, self.tick()
        if found.soft_pin_s is not None:
            found.soft_pin_s = now_s + self.flags.soft_pin_ttl_s

    def put(self, block: int, now_s: float, soft: bool) -> None:
        """Store an object, or fail."""
        self.failed = self.failed or len(self.stored) == self.capacity
        if len(self.stored) < self.capacity:
            pin_s = now_s + self.flags.soft_pin_ttl_s if soft else None
            self.stored[block] = Object(now_s, pin_s, False, self.tick())

    def tick(self) -> int:
        """Return the next number."""
        self.order += 1
        return self.order


def twin_mooncake_store(
    trace: Trace, capacity: int, flags: StoreParameters
) -> tuple[list[int], list[int], dict[int, Object]]:
    """Return hit blocks per request, evictions in order, and what is stored at the end."""
    master, hits = TwinMaster(capacity, flags), []
    for ask in asks_of(trace, "none"):
        now_s = ask.arrival_s
        master.look(now_s)
        missing = [block for block in ask.blocks if block not in master.stored]
        for block in ask.blocks:
            if block not in missing:
                master.ask(block, now_s)
        found = ask.blocks.index(missing[0]) if missing else len(ask.blocks)
        hits.append(min(found, ask.hit_limit))
        for block in missing:
            master.look(now_s)
            master.put(block, now_s, 0 < flags.soft_pin_priority <= ask.priority)
    return hits, master.evictions, master.stored
