"""The slow, obvious twin of `sim.core.trtllm`: slots as objects in Python lists, a tree of dicts."""

from __future__ import annotations

import math

from sim.twin_server import asks_of
from workloads.trace import Trace

DEFAULT = 35


class Slot:
    """Memory for a block."""

    def __init__(self) -> None:
        self.block: int | None = None
        self.priority = DEFAULT
        self.expires_s = math.inf


class TwinManager:
    """Free slots per priority, front first, and which slot holds which block."""

    def __init__(self, trace: Trace, capacity: int, duration_s: float) -> None:
        self.duration_s = duration_s
        self.parent = dict(enumerate(trace.parents.tolist()))
        self.queues: list[list[Slot]] = [[] for _ in range(101)]
        self.queues[DEFAULT] = [Slot() for _ in range(capacity)]
        self.expiring: list[Slot] = []
        self.slot_of: dict[int, Slot] = {}
        self.evictions: list[int] = []

    def refresh(self, now_s: float) -> None:
        """Return expired slots to the default queue, soonest first; `expiring` is in order of release."""
        for slot in sorted(self.expiring, key=lambda slot: slot.expires_s):
            if slot.expires_s <= now_s:
                self.claim(slot)
                slot.priority = DEFAULT
                self.queues[DEFAULT].append(slot)

    def claim(self, slot: Slot) -> None:
        """Take a slot out of its queue; it will not expire."""
        self.queues[slot.priority].remove(slot)
        if slot in self.expiring:
            self.expiring.remove(slot)

    def free_slot(self) -> Slot:
        """Claim the front of the lowest queue; nothing that continues its block can be found any more."""
        slot = next(queue[0] for queue in self.queues if queue)
        self.claim(slot)
        if slot.block is not None:
            self.forget(slot.block)
        return slot

    def forget(self, block: int) -> None:
        """Take a block and all its descendants out of the tree."""
        for child in [child for child in self.slot_of if self.parent[child] == block]:
            self.forget(child)
        self.slot_of.pop(block).block = None
        self.evictions.append(block)

    def release(self, slot: Slot, priority: int, now_s: float) -> None:
        """Put a slot at the tail of its queue."""
        slot.priority = priority
        self.queues[priority].append(slot)
        slot.expires_s = now_s + self.duration_s
        if priority != DEFAULT and slot.expires_s < math.inf:
            self.expiring.append(slot)


def twin_trtllm(
    trace: Trace, capacity: int, default_priority: int = DEFAULT, duration_s: float = math.inf
) -> tuple[list[int], list[int], set[int]]:
    """Return hit blocks per request (-1: too large), evicted blocks, and what is stored at the end."""
    manager = TwinManager(trace, capacity, duration_s)
    hits: list[int] = []
    for ask in asks_of(trace, "none"):
        if ask.prompt_blocks > capacity:
            hits.append(-1)
            continue
        manager.refresh(ask.arrival_s)
        held: list[Slot] = []
        for block in ask.blocks[: ask.hit_limit]:
            if block not in manager.slot_of:
                break
            manager.claim(manager.slot_of[block])
            held.append(manager.slot_of[block])
        hits.append(len(held))
        while len(held) < ask.prompt_blocks:
            held.append(manager.free_slot())
        for slot, block in zip(held, ask.blocks, strict=False):
            if block not in manager.slot_of:
                manager.slot_of[block] = slot
                slot.block = block
        priority = default_priority if trace.priority is None else ask.priority
        for slot in reversed(held):
            manager.release(slot, priority, ask.arrival_s)
    return hits, manager.evictions, set(manager.slot_of)
