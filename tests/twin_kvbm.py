"""The slow, obvious twin of `sim.core.kvbm`: plain lists in order of release, searched from the front."""

from __future__ import annotations

from sim.twin_server import asks_of
from workloads.trace import Trace


class TwinPool:
    """Blocks no request uses, in order of release, and how often every id was seen."""

    def __init__(self, trace: Trace, policy: str, thresholds: tuple[int, int, int], decay: int) -> None:
        self.policy, self.thresholds, self.decay = policy, thresholds, decay
        self.parent = dict(enumerate(trace.parents.tolist()))
        self.inactive: list[int] = []
        self.level_of: dict[int, int] = {}
        self.counts = dict.fromkeys(self.parent, 0)
        self.increments = 0

    def count(self, block: int) -> None:
        """Count a match or a new registration."""
        if self.counts[block] == 15:
            return
        self.counts[block] += 1
        self.increments += 1
        if self.increments >= 10 * self.decay:
            self.increments //= 2
            self.counts = {other: count // 2 for other, count in self.counts.items()}

    def give(self, block: int) -> None:
        """Release a block; its level is that of its frequency now."""
        self.inactive.append(block)
        self.level_of[block] = sum(self.counts[block] >= bound for bound in self.thresholds)

    def victim(self) -> int:
        """Return what leaves next."""
        if self.policy == "lru":
            return self.inactive[0]
        if self.policy == "multilru":
            coldest = min(self.level_of[block] for block in self.inactive)
            return next(block for block in self.inactive if self.level_of[block] == coldest)
        inner = {self.parent[block] for block in self.inactive}
        return next(block for block in self.inactive if block not in inner)


def twin_kvbm(
    trace: Trace,
    policy: str,
    capacity: int,
    thresholds: tuple[int, int, int] = (3, 8, 15),
    decay: int = 1 << 21,
    tail_first: bool = True,
) -> tuple[list[int], list[int], list[int]]:
    """Return hit blocks per request (-1: too large), evictions in order, and what is stored at the end."""
    pool = TwinPool(trace, policy, thresholds, decay)
    hits: list[int] = []
    evictions: list[int] = []
    for ask in asks_of(trace, "none"):
        if ask.prompt_blocks > capacity:
            hits.append(-1)
            continue
        found = 0
        while found < ask.hit_limit and ask.blocks[found] in pool.inactive:
            pool.inactive.remove(ask.blocks[found])
            pool.count(ask.blocks[found])
            found += 1
        hits.append(found)
        while found + len(pool.inactive) + ask.prompt_blocks - found > capacity:
            victim = pool.victim()
            pool.inactive.remove(victim)
            evictions.append(victim)
        for block in ask.blocks[found:]:
            if block in pool.inactive:
                pool.inactive.remove(block)
            else:
                pool.count(block)
        for block in reversed(ask.blocks) if tail_first else ask.blocks:
            pool.give(block)
    return hits, evictions, pool.inactive
