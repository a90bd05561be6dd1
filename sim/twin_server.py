"""What both twins share, in plain Python: the requests of a trace, and the server that runs them in order.

Knows requests and time; must not know how blocks are cached. Written from the conditions of the recorded engine hits,
not from the kernels, so that the two can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

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
                turn=0 if trace.turn is None else max(int(trace.turn[i]), 0),
                tenant=0 if trace.tenant is None else max(int(trace.tenant[i]), 0),
                type=0 if trace.request_type is None else max(int(trace.request_type[i]), 0),
                priority=0 if trace.priority is None else max(int(trace.priority[i]), 0),
            )
        )
    return asks


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
