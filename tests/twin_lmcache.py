"""The slow, obvious twin of `sim.core.lmcache`: dicts in the order LMCache's own policy classes keep them."""

from __future__ import annotations

from collections import OrderedDict

from sim.twin_server import asks_of
from workloads.trace import Trace


def twin_lmcache(trace: Trace, policy: str, capacity: int) -> tuple[list[int], list[int]]:
    """Return hit blocks per request, and the stored chunks at the end in order of access (put for FIFO)."""
    stored: OrderedDict[int, int] = OrderedDict()
    """Chunk -> frequency."""
    buckets: dict[int, OrderedDict[int, None]] = {}
    hits = []
    for ask in asks_of(trace, "none"):
        pinned: list[int] = []
        for block in ask.blocks:
            if block not in stored:
                break
            pinned.append(block)
        for block in reversed(pinned):
            if policy in ("lru", "mru"):
                stored.move_to_end(block)
            buckets[stored[block]].pop(block)
            stored[block] += 1
            buckets.setdefault(stored[block], OrderedDict())[block] = None
        for block in ask.blocks[len(pinned) :]:
            if block in stored:
                continue
            if len(stored) == capacity:
                order = {
                    "lru": list(stored),
                    "fifo": list(stored),
                    "mru": list(reversed(stored)),
                    "lfu": [b for count in sorted(buckets) for b in buckets[count]],
                }[policy]
                victim = next((b for b in order if b not in pinned), None)
                if victim is None:
                    break
                buckets[stored.pop(victim)].pop(victim)
            stored[block] = 1
            buckets.setdefault(1, OrderedDict())[block] = None
        hits.append(min(len(pinned), ask.hit_limit))
    return hits, list(stored)
