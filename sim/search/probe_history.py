"""A few thousand block references under LRU, written down once: what every probed policy is shown.

One small cache, and three that stand for larger ones: there, one request of several is left, and of its blocks one in
`stride`, so that ages, depths and capacities are those of real caches. Knows the public fields of the contract; must
not know policies. Tenants and priorities are 0, turns and types known in one cache, as in recorded traffic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache as remembered

from sim.core import fields

Values = dict[str, float]

REQUESTS = 110
SHOWN = 36
"""Most candidates of a moment."""
ORIGIN = 300_000.0
"""Where clocks begin: far from 0, as in an evaluation."""
_WARM, _EVERY = 24, 4
_AVERAGE = 16.0
_BLOCK_TOKENS = 512.0


@dataclass(frozen=True)
class Regime:
    """A small cache that may stand for a large one; `labels` says whether turns and types are known."""

    requests_per_request: float
    stride: float
    capacity: int
    labels: bool
    seconds_per_step: float


REGIMES = (
    Regime(1.0, 1.0, 90, False, 0.3),
    Regime(3.0, 2.0, 70, False, 0.3),
    Regime(12.0, 8.0, 140, True, 2.0),
    Regime(40.0, 4.0, 320, False, 0.3),
)


@dataclass
class Moment:
    """One request: public fields of all records when the hooks are called, and of candidates just before.

    Attributes:
        cache: Fields of the cache.
        request: Fields of the request.
        shown: (block, fields) of eviction candidates before the request, in LRU order; empty at most requests.
        hits: (block, fields) found, first to last.
        missing: (block, fields) not found, first to last.
        evicted: (block, fields) that leave between the hits and the insertions.
        released: (block, fields) of the request's blocks when it has released them, last to first.
    """

    cache: Values
    request: Values
    shown: list[tuple[int, Values]] = field(default_factory=list)
    hits: list[tuple[int, Values]] = field(default_factory=list)
    missing: list[tuple[int, Values]] = field(default_factory=list)
    evicted: list[tuple[int, Values]] = field(default_factory=list)
    released: list[tuple[int, Values]] = field(default_factory=list)


@remembered
def histories() -> tuple[tuple[Moment, ...], ...]:
    """Return one history per regime, always the same."""
    return tuple(tuple(_Recorder(regime).run(index)) for index, regime in enumerate(REGIMES))


def _prompts(rng: random.Random) -> Iterator[tuple[tuple[tuple[int, int], ...], int]]:
    """Yield (blocks of a prompt, turn): chats that grow behind common heads, prompts that repeat, and one-off ones."""
    sessions: list[list[int]] = []
    for number in range(REQUESTS):
        draw = rng.random()
        if draw < 0.52 and sessions:
            recent = sessions[-12:] if rng.random() < 0.8 else sessions
            chat = rng.choice(recent)
            chat[2] += rng.randint(1, 4)
            chat[3] += 1
        elif draw < 0.85:
            chat = [number, rng.choice((0, 2, 5)), rng.randint(1, 8), 0]
            sessions.append(chat)
        elif draw < 0.93:
            chat = [-1 - rng.randrange(6), 2, 5, 0]
        else:
            chat = [number, 0, rng.randint(12, 24), 0]
        owner, head, own, turn = chat
        trunk = [(10_000 + head, depth) for depth in range(head)]
        yield tuple([*trunk, *((owner, head + depth) for depth in range(own))][:30]), turn


class _Recorder:
    """An LRU cache that writes down what it shows."""

    def __init__(self, regime: Regime) -> None:
        self.regime = regime
        self.numbers: dict[tuple[int, int], int] = {}
        self.records: dict[int, Values] = {}
        self.resident: dict[int, None] = {}
        """In LRU order."""
        self.released = ORIGIN
        self.looked_up = self.found = 0
        self.kind = 0.0
        self.cache: Values = {name: 0.0 for name in _public(fields.CACHE)}
        scale = regime.requests_per_request * regime.stride
        self.cache |= {"capacity_blocks": regime.capacity * scale, "block_tokens": _BLOCK_TOKENS}
        self.cache |= {"now": ORIGIN, "now_s": ORIGIN}

    def run(self, seed: int) -> Iterator[Moment]:
        rng = random.Random(f"probe/{seed}")
        for index, (prompt, turn) in enumerate(_prompts(rng)):
            steps = self.regime.requests_per_request
            self.cache["now"] += steps
            self.cache["now_s"] += steps * self.regime.seconds_per_step * rng.expovariate(1.0)
            blocks = [self.numbers.setdefault(key, len(self.numbers)) for key in prompt]
            self.kind = float(prompt[-1][0] % 3) if self.regime.labels else 0.0
            yield self._request(index, blocks, turn if self.regime.labels else 0)

    def _request(self, index: int, blocks: list[int], turn: int) -> Moment:
        stride = self.regime.stride
        hits = next((i for i, block in enumerate(blocks) if block not in self.resident), len(blocks) - 1)
        request = dict.fromkeys(_public(fields.REQUEST), 0.0)
        request |= {"blocks": len(blocks) * stride, "hit_blocks": hits * stride, "turn": float(turn), "type": self.kind}
        request["input_tokens"] = request["blocks"] * _BLOCK_TOKENS + 200.0
        moment = Moment(dict(self.cache), request)
        if index >= _WARM and index % _EVERY == 0:
            oldest = list(self.resident)
            kept = oldest[: SHOWN // 2] + oldest[SHOWN // 2 :: max(1, len(oldest) // (SHOWN // 2))]
            moment.shown = [(block, dict(self.records[block])) for block in kept[:SHOWN]]
        for depth, block in enumerate(blocks):
            record = self._touch(block, depth, float(turn))
            if depth < hits:
                record["hits"] += 1.0
                moment.hits.append((block, dict(record)))
            else:
                moment.missing.append((block, record))
        moment.evicted = list(self._make_room(set(blocks), len(blocks) - hits))
        for _, record in moment.missing:
            record |= {"inserted": self.cache["now"], "inserted_s": self.cache["now_s"], "hits": 0.0}
        moment.missing = [(block, dict(record)) for block, record in moment.missing]
        moment.released = list(self._release(blocks))
        self._average(len(blocks), hits, len(moment.evicted))
        return moment

    def _touch(self, block: int, depth: int, turn: float) -> Values:
        record = self.records.get(block)
        now, now_s = self.cache["now"], self.cache["now_s"]
        if record is None:
            record = self.records[block] = dict.fromkeys(_public(fields.BLOCK), 0.0)
            record |= {"gap": fields.NEVER, "gap_s": fields.NEVER, "depth": depth * self.regime.stride}
        else:
            record |= {"gap": now - record["last_access"], "gap_s": now_s - record["last_access_s"]}
        record |= {"last_access": now, "last_access_s": now_s, "seen": record["seen"] + 1.0, "turn": turn}
        record["type"] = self.kind
        return record

    def _make_room(self, used: set[int], entering: int) -> Iterator[tuple[int, Values]]:
        excess = len(self.resident) + entering - self.regime.capacity
        for block in [block for block in self.resident if block not in used][: max(excess, 0)]:
            del self.resident[block]
            yield block, dict(self.records[block])

    def _release(self, blocks: list[int]) -> Iterator[tuple[int, Values]]:
        for block in reversed(blocks):
            self.resident.pop(block, None)
            self.resident[block] = None
            self.released += self.regime.stride * self.regime.requests_per_request
            self.records[block]["released"] = self.released
            yield block, dict(self.records[block])

    def _average(self, full: int, hits: int, evicted: int) -> None:
        stride, now = self.regime.stride, self.cache
        self.looked_up, self.found = self.looked_up + full, self.found + hits
        now["hit_rate"] = self.found / self.looked_up
        now["resident_blocks"] = len(self.resident) * stride * self.regime.requests_per_request
        for name, value in (
            ("recent_hit_rate", hits / full),
            ("pressure", evicted * stride),
            ("request_blocks", full * stride),
        ):
            now[name] += (value - now[name]) / _AVERAGE


def _public(entries: tuple[fields.Field, ...]) -> list[str]:
    """Return the stored fields a policy cannot write."""
    return [entry.name for entry in entries if not entry.expression and entry.unit != "yours"]
