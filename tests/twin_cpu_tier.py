"""The slow, obvious twin of `sim.core.cpu_tier`: ordered dicts, moved in the order vLLM's classes move them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from sim.twin_server import asks_of
from workloads.trace import Trace

Queue = OrderedDict[int, None]


class TwinTracker:
    """Offers per block, as `CPUOffloadingManager` counts them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.counts: OrderedDict[int, int] = OrderedDict()

    def offer(self, blocks: list[int]) -> None:
        """Count an offer; its own entries are never dropped for each other."""
        known = [block for block in blocks if block in self.counts]
        for block in known:
            self.counts.move_to_end(block)
            self.counts[block] += 1
        others = len(self.counts) - len(known)
        for block in blocks:
            if block in self.counts:
                continue
            if len(self.counts) >= self.most:
                if others == 0:
                    continue
                self.counts.popitem(last=False)
                others -= 1
            self.counts[block] = 1


class TwinLru:
    """Recency per request, deeper blocks older."""

    def __init__(self, capacity: int) -> None:
        self.stored: Queue = OrderedDict()

    def blocks(self) -> list[int]:
        """Return what is stored."""
        return list(self.stored)

    def accessed(self, blocks: list[int]) -> None:
        """A request uses or offers blocks: those stored are the most recent from now on."""
        self.finished(blocks, set(), set())

    def miss(self, blocks: list[int]) -> None:
        """Nothing to learn."""

    def evict(self, n: int, protected: set[int]) -> bool:
        """Evict n blocks or none."""
        victims = [block for block in self.stored if block not in protected][:n]
        if len(victims) < n:
            return False
        for block in victims:
            del self.stored[block]
        return True

    def insert(self, blocks: list[int]) -> None:
        """Store blocks."""
        self.stored.update(dict.fromkeys(blocks))

    def finished(self, blocks: list[int], inserted: set[int], reused: set[int]) -> None:
        """Fix the recency of a request's blocks."""
        for block in reversed(blocks):
            if block in self.stored:
                self.stored.move_to_end(block)


class TwinArc:
    """T1, T2 and their ghosts B1, B2."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.target = capacity, 0.0
        self.t1, self.t2, self.b1, self.b2 = (Queue() for _ in range(4))

    def blocks(self) -> list[int]:
        """Return what is stored."""
        return [*self.t1, *self.t2]

    def accessed(self, blocks: list[int]) -> None:
        """Not before the request has finished."""

    def miss(self, blocks: list[int]) -> None:
        """Learn from ghosts."""
        for block in reversed(blocks):
            if block in self.b1:
                self.target = min(self.target + max(1, len(self.b2) / len(self.b1)), self.capacity)
                self.b1.move_to_end(block)
            elif block in self.b2:
                self.target = max(self.target - max(1, len(self.b1) / len(self.b2)), 0)
                self.b2.move_to_end(block)

    def evict(self, n: int, protected: set[int]) -> bool:
        """Choose n victims first, then evict them, or none."""
        victims: list[tuple[int, Queue, Queue]] = []
        size = len(self.t1)
        recent, frequent = iter(list(self.t1)), iter(list(self.t2))

        def after(queue: Iterator[int]) -> int | None:
            return next((block for block in queue if block not in protected), None)

        for _ in range(n):
            block = after(recent) if size >= int(self.target) else None
            if block is None:
                other = after(frequent)
                if other is not None:
                    victims.append((other, self.t2, self.b2))
                    continue
                block = after(recent)
            if block is None:
                return False
            victims.append((block, self.t1, self.b1))
            size -= 1
        for block, home, ghosts in victims:
            del home[block]
            ghosts[block] = None
        for ghosts in (self.b1, self.b2):
            while len(ghosts) > self.capacity:
                ghosts.popitem(last=False)
        return True

    def insert(self, blocks: list[int]) -> None:
        """Store blocks in T1."""
        for block in blocks:
            self.t1[block] = None
            self.b1.pop(block, None)
            self.b2.pop(block, None)

    def finished(self, blocks: list[int], inserted: set[int], reused: set[int]) -> None:
        """Reuse moves to T2, a store does not."""
        for block in reversed(blocks):
            if block in inserted and block in self.t1:
                self.t1.move_to_end(block)
            elif block in reused and block in self.t1:
                del self.t1[block]
                self.t2[block] = None
            elif block in reused and block in self.t2:
                self.t2.move_to_end(block)


def twin_cpu_tier(
    trace: Trace,
    policy: str,
    capacity: int,
    threshold: int = 0,
    most: int = 64_000,
    gpu_hits: list[int] | None = None,
) -> tuple[list[int], list[int]]:
    """Return hit blocks per request (-1: the GPU cannot run it) and what is stored at the end."""
    tier = {"lru": TwinLru, "arc": TwinArc}[policy](capacity)
    tracker = TwinTracker(most) if threshold >= 2 else None
    hits = []
    for i, ask in enumerate(asks_of(trace, "none")):
        on_gpu = gpu_hits[i] if gpu_hits else 0
        if on_gpu < 0:
            hits.append(-1)
            continue
        stored = set(tier.blocks())
        found = on_gpu
        while found < ask.hit_limit and ask.blocks[found] in stored:
            found += 1
        hits.append(found)
        loaded = ask.blocks[on_gpu:found]
        tier.accessed(loaded)
        offer = ask.blocks[found:] if loaded else ask.blocks
        if tracker:
            tracker.offer(offer)
        present = [block for block in offer if block in stored]
        wanted = [block for block in offer if block not in stored]
        if tracker:
            wanted = [block for block in wanted if tracker.counts.get(block, 0) >= threshold]
        tier.miss(wanted)
        need = len(wanted) - (capacity - len(stored))
        inserted: set[int] = set()
        if need <= 0 or tier.evict(need, set(offer)):
            tier.insert(wanted)
            inserted = set(wanted)
        tier.finished([*loaded, *offer], inserted, {*loaded, *present})
    return hits, tier.blocks()
