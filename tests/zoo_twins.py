"""The zoo again in plain Python: ordered dicts, oldest first, and both accountings. Slow, short, obvious.

A twin answers the same four calls as a native policy; `drop` is the only way out, and no block in use may take it.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable

from sim.core.replay import Server
from workloads import Trace

Queue = OrderedDict


class Twin:
    """Base: what is resident, how often it is in use, and a clock of accesses."""

    def __init__(self, capacity: int, strict: bool) -> None:
        self.capacity, self.strict, self.clock, self.evicted = capacity, strict, 0, 0
        self.resident: set[int] = set()
        self.listed: set[int] = set()
        self.pins: Counter[int] = Counter()
        self.start()

    def start(self) -> None:
        self.queue: Queue[int, None] = Queue()

    def drop(self, x: int) -> None:
        assert self.pins[x] == 0, "a block in use was evicted"
        self.resident.remove(x)
        self.listed.remove(x)
        self.evicted += 1

    def free(self, queue: Iterable[int]) -> int | None:
        return next((x for x in queue if self.pins[x] == 0), None)

    def hit(self, x: int) -> None:
        pass

    def miss(self, x: int) -> None:
        pass

    def evict(self, x: int | None) -> bool:
        victim = self.free(self.queue)
        del self.queue[victim]
        self.drop(victim)
        return True

    def insert(self, x: int) -> None:
        self.queue[x] = None


class Fifo(Twin):
    pass


class Lru(Twin):
    def hit(self, x):
        self.queue.move_to_end(x)


class Mru(Lru):
    def evict(self, x):
        victim = self.free(reversed(self.queue))
        del self.queue[victim]
        self.drop(victim)
        return True


class Lfu(Twin):
    """`rank` maps an id to (score, time of the last change)."""

    def start(self):
        self.rank, self.counts, self.age = {}, Counter(), 0

    def set(self, x, score):
        self.rank[x] = (score, self.clock)

    def lowest(self):
        return min((x for x in self.rank if self.pins[x] == 0), key=self.rank.get, default=None)

    def hit(self, x):
        self.counts[x] += 1
        self.set(x, self.counts[x])

    def insert(self, x):
        self.counts[x] = 0
        self.hit(x)

    def evict(self, x):
        victim = self.lowest()
        self.last = self.rank.pop(victim)[0]
        self.drop(victim)
        return True


class LfuGhost(Lfu):
    def insert(self, x):
        self.hit(x)


class Lfuda(Lfu):
    def raise_age(self):
        first = self.lowest()
        if first is not None:
            self.age = max(self.age, self.rank[first][0])

    def hit(self, x):
        score, age = self.rank.pop(x)[0], self.age
        if score == age:
            self.raise_age()
        self.set(x, score + age)

    def insert(self, x):
        self.set(x, self.age + 1)

    def evict(self, x):
        super().evict(x)
        self.age = self.last
        self.raise_age()
        return True


class Gdsf(Lfu):
    def hit(self, x):
        self.counts[x] += 1
        self.set(x, self.age + self.counts[x])

    def insert(self, x):
        self.counts[x] = 1
        self.set(x, (self.at_miss if self.strict else self.age) + 1)

    def miss(self, x):
        self.at_miss = self.age

    def evict(self, x):
        if self.strict and self.rank[self.lowest()][0] > self.at_miss + 1:
            self.age = self.at_miss + 1
            return False
        super().evict(x)
        self.age = self.last
        return True


class LruK(Lfu):
    def start(self):
        super().start()
        self.queue, self.last_access = Queue(), {}

    def hit(self, x):
        self.queue.pop(x, None)
        self.set(x, self.last_access[x])
        self.last_access[x] = self.clock

    def insert(self, x):
        self.queue[x] = None
        self.last_access[x] = self.clock

    def evict(self, x):
        return Twin.evict(self, x) if self.free(self.queue) is not None else Lfu.evict(self, x)


class Slru(Twin):
    shares = (0.25, 0.25, 0.25, 0.25)

    def start(self):
        self.segments = [Queue() for _ in self.shares]
        self.limits = [int(share * self.capacity) for share in self.shares]

    def insert(self, x):
        room = (k for k, queue in enumerate(self.segments) if len(queue) < self.limits[k])
        self.segments[next(room, 0)][x] = None

    def hit(self, x):
        level = next(k for k, queue in enumerate(self.segments) if x in queue)
        top = min(level + 1, len(self.segments) - 1)
        del self.segments[level][x]
        self.segments[top][x] = None
        if top > level:
            self.cool(top)

    def cool(self, level):
        while level > 0 and len(self.segments[level]) > self.limits[level]:
            self.segments[level - 1][self.segments[level].popitem(last=False)[0]] = None
            self.cool(level - 1)
            while level == 1 and self.strict and len(self.segments[0]) > self.limits[0]:
                self.drop(self.segments[0].popitem(last=False)[0])

    def lowest(self):
        return next((x for x in map(self.free, self.segments) if x is not None), None)

    def take(self, x):
        for queue in self.segments:
            queue.pop(x, None)
        self.drop(x)

    def evict(self, x):
        self.take(self.lowest())
        return True


class TwoQ(Twin):
    def start(self):
        self.young, self.out, self.main, self.known = Queue(), Queue(), Queue(), set()

    def hit(self, x):
        if x in self.main:
            self.main.move_to_end(x)

    def miss(self, x):
        self.known.discard(x)
        if x in self.out:
            self.known.add(x)
            del self.out[x]

    def insert(self, x):
        (self.main if x in self.known else self.young)[x] = None

    def evict(self, x):
        young, old = self.free(self.young), self.free(self.main)
        if young is not None and (old is None or len(self.young) > int(self.capacity * 0.25)):
            del self.young[young]
            self.drop(young)
            remember(self.out, young, int(self.capacity * 0.5))
        else:
            del self.main[old]
            self.drop(old)
        return True


def remember(queue, x, limit):
    if limit > 0:
        if len(queue) >= limit:
            queue.popitem(last=False)
        queue[x] = None


class Mq(Twin):
    lifetime = 10_000

    def start(self):
        self.queues, self.out = [Queue() for _ in range(8)], Queue()
        self.counts, self.expires, self.now = Counter(), {}, 0

    def place(self, x):
        self.queues[min(self.counts[x].bit_length() - 1, 7)][x] = None
        self.expires[x] = self.now + self.lifetime
        self.now += 1
        for above, below in zip(self.queues[1:], self.queues, strict=False):
            oldest = next(iter(above), None)
            if oldest is not None and self.expires[oldest] < self.now:
                del above[oldest]
                below[oldest] = None
                self.expires[oldest] = self.now + self.lifetime

    def hit(self, x):
        for queue in self.queues:
            queue.pop(x, None)
        self.counts[x] += 1
        self.place(x)

    def miss(self, x):
        if x not in self.out:
            self.counts[x] = 0
        self.out.pop(x, None)

    def insert(self, x):
        self.counts[x] += 1
        self.place(x)

    def evict(self, x):
        queue = next(queue for queue in self.queues if self.free(queue) is not None)
        victim = self.free(queue)
        del queue[victim]
        self.drop(victim)
        remember(self.out, victim, 4 * self.capacity)
        return True


class Arc(Twin):
    def start(self):
        self.t1, self.t2, self.b1, self.b2, self.p = Queue(), Queue(), Queue(), Queue(), 0.0
        self.came: dict[int, str] = {}

    def hit(self, x):
        self.t1.pop(x, None)
        self.t2.pop(x, None)
        self.t2[x] = None

    def miss(self, x):
        if x in self.b1:
            self.p = min(self.p + max(len(self.b2) / len(self.b1), 1), self.capacity)
            del self.b1[x]
            self.came[x] = "b1"
        elif x in self.b2:
            self.p = max(self.p - max(len(self.b1) / len(self.b2), 1), 0)
            del self.b2[x]
            self.came[x] = "b2"

    def insert(self, x):
        (self.t2 if self.came.pop(x, None) else self.t1)[x] = None

    def evict(self, x):
        c, came = self.capacity, self.came.get(x)
        if came is None and len(self.t1) + len(self.b1) >= c:
            if not self.b1 and len(self.t1) >= c and self.free(self.t1) is not None:
                victim = self.free(self.t1)
                del self.t1[victim]
                self.drop(victim)
                return True
            while self.b1 and len(self.t1) + len(self.b1) >= c:
                self.b1.popitem(last=False)
        elif came is None:
            while self.b2 and sum(map(len, (self.t1, self.t2, self.b1, self.b2))) >= 2 * c:
                self.b2.popitem(last=False)
        first, second = self.free(self.t1), self.free(self.t2)
        above = len(self.t1) > self.p or (len(self.t1) == self.p and came == "b2")
        use_first = first is not None and (second is None or above)
        victim, queue, ghosts = (first, self.t1, self.b1) if use_first else (second, self.t2, self.b2)
        del queue[victim]
        self.drop(victim)
        ghosts[victim] = None
        return True


class Sieve(Twin):
    """`queue` is a plain list, oldest first; `hand` is the id to look at next, None for the oldest."""

    def start(self):
        self.line, self.visited, self.hand = [], set(), None

    def hit(self, x):
        self.visited.add(x)

    def insert(self, x):
        self.line.append(x)
        self.visited.discard(x)

    def evict(self, x):
        i = 0 if self.hand is None else self.line.index(self.hand)
        while self.line[i] in self.visited or self.pins[self.line[i]]:
            if not self.pins[self.line[i]]:
                self.visited.discard(self.line[i])
            i = (i + 1) % len(self.line)
        self.hand = self.line[i + 1] if i + 1 < len(self.line) else None
        self.drop(self.line.pop(i))
        return True


class S3Fifo(Twin):
    def start(self):
        self.small, self.main, self.ghost = Queue(), Queue(), Queue()
        self.counts, self.known, self.evicting = Counter(), set(), False
        self.small_limit = max(1, int(self.capacity * 0.1))

    def hit(self, x):
        self.counts[x] += 1

    def miss(self, x):
        self.known.discard(x)
        if x in self.ghost:
            self.known.add(x)
            del self.ghost[x]

    def insert(self, x):
        self.counts[x] = 0
        early = not self.evicting and len(self.small) >= self.small_limit
        (self.main if x in self.known or early else self.small)[x] = None

    def evict_small(self):
        while (victim := self.free(self.small)) is not None:
            del self.small[victim]
            if self.counts[victim] < 2:
                self.drop(victim)
                remember(self.ghost, victim, int(self.capacity * 0.9))
                return True
            self.counts[victim] = 0
            self.main[victim] = None
        return False

    def evict_main(self):
        while (victim := self.free(self.main)) is not None:
            del self.main[victim]
            if self.counts[victim] == 0:
                self.drop(victim)
                return True
            self.counts[victim] = min(self.counts[victim], 3) - 1
            self.main[victim] = None
        return False

    def evict(self, x):
        self.evicting = True
        if len(self.main) > self.capacity - self.small_limit or not self.small:
            return self.evict_main() or self.evict_small()
        return self.evict_small() or self.evict_main()


class Lirs(Twin):
    def start(self):
        self.stack, self.queue, self.ghosts, self.lir = Queue(), Queue(), Queue(), set()
        self.hir_limit = max(1, int(0.01 * self.capacity))
        self.lir_limit = self.capacity - self.hir_limit

    def prune(self):
        while len(self.stack) > 1 and next(iter(self.stack)) not in self.lir:
            self.ghosts.pop(self.stack.popitem(last=False)[0], None)

    def evict_hir(self, spared=None):
        victim = next((x for x in self.queue if x != spared and self.pins[x] == 0), None)
        if victim is None:
            return False
        del self.queue[victim]
        self.drop(victim)
        if victim in self.stack:
            self.ghosts[victim] = None
        return True

    def make_lir_room(self, spared):
        while len(self.lir) >= self.lir_limit and self.lir:
            self.prune()
            bottom = self.stack.popitem(last=False)[0]
            self.lir.remove(bottom)
            while self.strict and len(self.queue) >= self.hir_limit and self.evict_hir(spared):
                pass
            self.queue[bottom] = None
            self.prune()

    def limit_stack(self):
        while len(self.stack) > 2 * self.capacity and self.ghosts:
            del self.stack[self.ghosts.popitem(last=False)[0]]

    def hit(self, x):
        if x in self.stack:
            self.stack.move_to_end(x)
            if x in self.lir:
                self.prune()
            else:
                del self.queue[x]
                self.make_lir_room(x)
                self.lir.add(x)
        else:
            self.queue.move_to_end(x)
            self.make_lir_room(x)
            self.stack[x] = None
        self.limit_stack()

    def miss(self, x):
        if x in self.stack:
            self.stack.move_to_end(x)
            self.ghosts.pop(x, None)

    def insert(self, x):
        if x in self.stack:
            self.make_lir_room(x)
            self.lir.add(x)
        elif len(self.lir) < self.lir_limit:
            self.stack[x] = None
            self.lir.add(x)
        else:
            self.stack[x] = self.queue[x] = None
        self.limit_stack()

    def evict(self, x):
        if not self.evict_hir():
            victim = self.free(x for x in self.stack if x in self.lir)
            del self.stack[victim]
            self.lir.remove(victim)
            self.drop(victim)
            self.prune()
        return True


def xxh64(value: int, seed: int) -> int:
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, m = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, 2**64 - 1

    def rotated(x, bits):
        return (x << bits | x >> (64 - bits)) & m

    h = seed + p5 + 8 & m
    h ^= rotated(value * p2 & m, 31) * p1 & m
    h = rotated(h, 27) * p1 + p4 & m
    h = (h ^ h >> 33) * p2 & m
    h = (h ^ h >> 29) * p3 & m
    return h ^ h >> 32


class WTinyLfu(Slru):
    """The segments are the main cache."""

    shares = (1 / 5, 4 / 5)

    def start(self):
        total, self.capacity = self.capacity, self.capacity - max(1, int(self.capacity * 0.01))
        super().start()
        self.main_limit, self.capacity = self.capacity, total
        self.window, self.counters, self.counted = Queue(), defaultdict(int), 0
        self.size = max(20, math.ceil(-math.log(0.001) / 0.480453013918201 * self.main_limit))

    def cells(self, x):
        at, step = (xxh64(x, seed) % 2**32 for seed in (0x12345678, 0x12344321))
        return [(at + i * step) % 2**32 % self.size for i in range(10)]

    def count(self, x):
        for cell in self.cells(x):
            self.counters[cell] += 1

    def estimate(self, x):
        return min(self.counters[cell] for cell in self.cells(x))

    def hit(self, x):
        if x in self.window:
            self.window.move_to_end(x)
            return
        super().hit(x)
        self.count(x)
        self.counted += 1
        if self.counted >= 32 * self.main_limit:
            self.counted = 0
            self.counters = defaultdict(int, {cell: n >> 1 for cell, n in self.counters.items()})

    def insert(self, x):
        self.window[x] = None
        self.count(x)

    def evict(self, x):
        young, old = self.free(self.window), self.lowest()
        if young is None:
            self.take(old)
            return True
        del self.window[young]
        if sum(map(len, self.segments)) < self.main_limit:
            super().insert(young)
        elif old is not None and self.estimate(young) > self.estimate(old):
            self.take(old)
            super().insert(young)
        else:
            self.drop(young)
        self.count(young)
        return True


TWINS: dict[str, Callable[[int, bool], Twin]] = {
    "fifo": Fifo,
    "lru": Lru,
    "mru": Mru,
    "lfu": Lfu,
    "lfu-ghost": LfuGhost,
    "lfuda": Lfuda,
    "gdsf": Gdsf,
    "lru-k": LruK,
    "slru": Slru,
    "2q": TwoQ,
    "mq": Mq,
    "arc": Arc,
    "lirs": Lirs,
    "sieve": Sieve,
    "s3-fifo": S3Fifo,
    "w-tinylfu": WTinyLfu,
}


def prompts_of(trace: Trace) -> list[list[int]]:
    """Return the full blocks of each request."""
    return [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets, trace.offsets[1:], strict=False)]


def replay_flat(twin: Twin, trace: Trace) -> list[int]:
    """Return the hits of each request in flat accounting."""
    found = []
    for prompt in prompts_of(trace):
        hits = 0
        for x in prompt:
            twin.clock += 1
            if x in twin.resident:
                hits += 1
                twin.hit(x)
                continue
            twin.miss(x)
            stays = True
            while stays and len(twin.resident) >= twin.capacity:
                stays = twin.evict(x)
            if stays:
                twin.resident.add(x)
                twin.listed.add(x)
                twin.insert(x)
            assert len(twin.resident) <= twin.capacity
        found.append(hits)
    return found


class PrefixReplay:
    """vLLM's accounting around a twin."""

    def __init__(self, twin: Twin, trace: Trace, server: Server) -> None:
        self.twin, self.trace, self.server, self.tails = twin, trace, server, 0
        self.prompts, self.running = prompts_of(trace), []

    def run(self) -> list[int]:
        found, now = [], 0.0
        for i, prompt in enumerate(self.prompts):
            slots = -(-int(self.trace.input_tokens[i]) // self.trace.block_tokens)
            if slots > self.twin.capacity:
                found.append(-1)
                continue
            now = max(now, float(self.trace.arrival_s[i]))
            while self.running and min(self.running)[0] <= now:
                self.release()
            while not self.fits(prompt, slots):
                now = max(now, self.release())
            found.append(self.admit(i, prompt, slots))
            self.running.append((self.finish_s(i, found[-1], now), i))
        while self.running:
            self.release()
        return found

    def fits(self, prompt, slots):
        used = +self.twin.pins
        more = slots - sum(x in used for x in prompt)
        return len(self.running) < self.server.max_running and len(used) + self.tails + more <= self.twin.capacity

    def finish_s(self, i, hits, now):
        if not self.server.overlap:
            return now
        computed = int(self.trace.input_tokens[i]) - hits * self.trace.block_tokens
        prefill_s = computed / self.server.prefill_tokens_per_s
        return now + prefill_s + self.server.decode_s_per_token * int(self.trace.output_tokens[i])

    def make_room(self, x):
        while len(self.twin.resident) + self.tails >= self.twin.capacity:
            self.twin.evict(x)

    def admit(self, i, prompt, slots):
        twin = self.twin
        limit = max(0, (int(self.trace.input_tokens[i]) - 1) // self.trace.block_tokens)
        hits = next((k for k, x in enumerate(prompt[:limit]) if x not in twin.resident), min(limit, len(prompt)))
        present = [x for x in prompt if x in twin.resident]
        twin.pins.update(present)
        for x in prompt:
            if x not in present:
                twin.clock += 1
                twin.miss(x)
                self.make_room(x)
                twin.pins[x] += 1
                twin.resident.add(x)
        for _ in range(slots - len(prompt)):
            self.make_room(None)
            self.tails += 1
        assert len(twin.resident) + self.tails <= twin.capacity
        return hits

    def release(self):
        finish_s, i = min(self.running)
        self.running.remove((finish_s, i))
        prompt, twin = self.prompts[i], self.twin
        self.tails -= -(-int(self.trace.input_tokens[i]) // self.trace.block_tokens) - len(prompt)
        for x in reversed(prompt):
            twin.pins[x] -= 1
            twin.clock += 1
            if x in twin.listed:
                twin.hit(x)
            else:
                twin.listed.add(x)
                twin.insert(x)
        return finish_s
