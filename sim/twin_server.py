"""What both twins share, in plain Python: the requests of a trace, and the server that runs them in order.

Knows requests and time; must not know how blocks are cached. Written from the conditions of the recorded engine hits,
not from the kernels, so that the two can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from sim.core import fields
from sim.core.conversations import REMEMBERED
from sim.simulation import Options
from workloads.trace import Trace

UNSERVED = -1
"""Hits of a request with more blocks than the cache."""


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        blocks: Ids of its full prompt blocks.
        generated: Ids of the blocks its generated tokens complete.
        prompt_blocks: Blocks the prompt occupies, the partial last one included.
        total_blocks: The same at its finish.
        hit_limit: Most blocks it may hit, its last token is always recomputed.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    blocks: list[int]
    generated: list[int]
    prompt_blocks: int
    total_blocks: int
    hit_limit: int
    inferred_turn: int
    turn_gap: float
    turn_gap_s: float
    continued: float
    usual_gap: float
    turn: int
    tenant: int
    type: int
    priority: int


class Cache(Protocol):
    """What the server asks of a cache."""

    def match(self, ask: Ask) -> int | None:
        """Return the hits of a request, or None if there is no room to run it now; changes nothing."""

    def admit(self, i: int, ask: Ask, hits: int, now_s: float) -> None:
        """Take the blocks of request `i`."""

    def finish(self, i: int, now_s: float) -> None:
        """Give them back."""


@dataclass(frozen=True)
class Served:
    """Per request: hit blocks or `UNSERVED`, and when it was admitted in seconds; how many had to wait."""

    hits: list[int]
    start_s: list[float]
    waited: int


def asks_of(trace: Trace, decode: str) -> list[Ask]:
    """Return the requests of a trace; generated private ids are numbered from `trace.n_blocks` on."""
    size = trace.block_tokens
    prompts = [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    next_id = trace.n_blocks
    conversations = Conversations()
    asks = []
    for i, blocks in enumerate(prompts):
        tokens, output = int(trace.input_tokens[i]), int(trace.output_tokens[i])
        computed = tokens + max(output, 1) - 1 if decode != "none" else tokens
        wanted = computed // size - len(blocks)
        source = _continuation(trace, prompts, i) if decode == "infer" and wanted > 0 else None
        if source is not None:
            generated = source[len(blocks) : len(blocks) + wanted]
        else:
            generated = list(range(next_id, next_id + wanted))
            next_id += wanted
        asks.append(
            Ask(
                float(trace.arrival_s[i]),
                tokens,
                output,
                blocks,
                generated,
                prompt_blocks=math.ceil(tokens / size),
                total_blocks=math.ceil(computed / size),
                hit_limit=min(len(blocks), max(tokens - 1, 0) // size),
                **conversations.add(blocks, float(trace.arrival_s[i])),
                turn=0 if trace.turn is None else max(int(trace.turn[i]), 0),
                tenant=0 if trace.tenant is None else max(int(trace.tenant[i]), 0),
                type=0 if trace.request_type is None else max(int(trace.request_type[i]), 0),
                priority=0 if trace.priority is None else max(int(trace.priority[i]), 0),
            )
        )
    return asks


class Conversations:
    """Who continues whom, as `sim.core.conversations` says, by one dict."""

    def __init__(self) -> None:
        self.ended: dict[int, dict[str, Any]] = {}
        """Per last full block: number, time and turn of the last request that ended there; whether one went on."""
        self.requests = self.with_blocks = self.continuing = 0
        self.continued = self.log_gap = 0.0

    def add(self, blocks: list[int], arrival_s: float) -> dict[str, Any]:
        """Return the fields of the next request."""
        turn, gap, gap_s = 1, fields.NEVER, fields.NEVER
        known = [block for block in blocks if self.remembered(block)]
        if known and not self.ended[known[-1]]["branching"]:
            before = self.ended[known[-1]]
            turn, gap = before["turn"] + 1, float(self.requests - before["number"])
            gap_s = arrival_s - before["arrival_s"]
            before["branching"] = known[-1] != blocks[-1]
            self.continuing += 1
            self.log_gap += max(1 / 64, 1 / self.continuing) * (math.log(gap) - self.log_gap)
        if blocks:
            self.with_blocks += 1
            self.continued += max(1 / 64, 1 / self.with_blocks) * ((turn > 1) - self.continued)
            branching = self.remembered(blocks[-1]) and self.ended[blocks[-1]]["branching"]
            end = {"number": self.requests, "arrival_s": arrival_s, "turn": turn, "branching": branching}
            self.ended[blocks[-1]] = end
        self.requests += 1
        usual_gap = math.exp(self.log_gap) if self.continuing else 0.0
        found = {"inferred_turn": turn, "turn_gap": gap, "turn_gap_s": gap_s}
        return found | {"continued": self.continued, "usual_gap": usual_gap}

    def remembered(self, block: int) -> bool:
        """Return whether one of the last requests ended with a block."""
        return block in self.ended and self.ended[block]["number"] >= self.requests - REMEMBERED


def _continuation(trace: Trace, prompts: list[list[int]], i: int) -> list[int] | None:
    """Return the first later prompt that starts with prompt `i` and has room for what it generates."""
    blocks = prompts[i]
    for j in range(i + 1, len(prompts)) if blocks else ():
        long_enough = trace.input_tokens[j] >= int(trace.input_tokens[i]) + int(trace.output_tokens[i])
        if long_enough and prompts[j][: len(blocks)] == blocks:
            return prompts[j]
    return None


def serve(asks: list[Ask], block_tokens: int, capacity_blocks: int, options: Options, cache: Cache) -> Served:
    """Run all requests: a finish before an arrival at the same time, the head of the line blocks those behind it."""
    overlap = options.mode == "overlap"
    most = options.max_running if overlap else 1
    running: list[tuple[float, int]] = []
    hits_of: list[int] = []
    start_s: list[float] = []
    waited, now_s = 0, 0.0

    def finish_first() -> float:
        finish_s, j = min(running)
        running.remove((finish_s, j))
        cache.finish(j, finish_s)
        return finish_s

    for i, ask in enumerate(asks):
        if ask.prompt_blocks > capacity_blocks:
            hits_of.append(UNSERVED)
            start_s.append(math.nan)
            continue
        now_s = max(now_s, ask.arrival_s)
        while running and min(running)[0] <= now_s:
            finish_first()
        has_waited = False
        hits = cache.match(ask)
        while hits is None or len(running) == most:
            has_waited = True
            now_s = max(now_s, finish_first())
            hits = cache.match(ask)
        cache.admit(i, ask, hits, now_s)
        hits_of.append(hits)
        start_s.append(now_s)
        waited += has_waited
        prefill_s = (ask.input_tokens - hits * block_tokens) / options.prefill_tokens_per_s
        finish_s = now_s + prefill_s + options.decode_s_per_token * ask.output_tokens
        running.append((finish_s if overlap else now_s, i))
    while running:
        finish_first()
    return Served(hits_of, start_s, waited)
