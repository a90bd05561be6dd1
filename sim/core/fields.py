"""The fields a policy may read or write: name, meaning, unit. The one place; records, gate and prompt derive from it.

Knows names and arithmetic; must not know how a kernel keeps the numbers up to date. Every field is a float64.
A stored field lies in a record; a derived field is an expression over stored ones, put in place of the name when a
policy is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER = 1e9
"""`gap` and `gap_s` of a block with no remembered previous access."""

BLOCK_SLOTS = 4
CACHE_SLOTS = 8
TUNED_CONSTANTS = 48
"""Literals of a policy that a tuner may lift out of the code (`sim.policy.compiler`)."""

GHOST_BLOCKS = 64_000
"""Default length of the ghost list: blocks not in the cache whose history is remembered, least recently seen
forgotten first. The default of the request tracker in vLLM's CPU tier (`max_tracker_size`)."""

ATTENTION_TOKENS = 30_500.0
"""Prefix length at which attention costs as much per token as all weights do, for Llama-3.1-8B:
2 * 8.0e9 weight FLOPs against 4 * 32 layers * 4,096 FLOPs per prefix token = 1.6e10 / 524,288."""


@dataclass(frozen=True)
class Field:
    """One attribute of `block`, `request` or `cache`."""

    name: str
    meaning: str
    unit: str
    expression: str = ""
    """Empty for a stored field; else Python over stored fields, equal to what the name stands for."""
    moving: bool = False
    """True if the value changes while nothing happens to the block, so a score that reads it goes out of date."""


def _slots(count: int, meaning: str, moving: bool) -> tuple[Field, ...]:
    return tuple(Field(f"s{i}", meaning, "yours", moving=moving) for i in range(count))


BLOCK: tuple[Field, ...] = (
    Field("last_access", "when a request last asked for the block", "steps"),
    Field("last_access_s", "the same in time", "seconds"),
    Field("gap", f"last_access minus the access before it; {NEVER:g} if none is remembered", "steps"),
    Field("gap_s", f"the same in time; {NEVER:g} if none is remembered", "seconds"),
    Field("inserted", "when the block entered the cache", "steps"),
    Field("inserted_s", "the same in time", "seconds"),
    Field("released", "order of release: requests free their blocks last to first, so LRU is this order", "releases"),
    Field("hits", "prefix hits since it entered the cache", "accesses"),
    Field("seen", "accesses remembered, this one included; survives eviction in the ghost list", "accesses"),
    Field("depth", "blocks before it in its prefix; 0 at the start of a prompt", "blocks"),
    Field(
        "children",
        "resident blocks that continue it; 0 for every eviction candidate of leaf-only eviction",
        "blocks",
        moving=True,
    ),
    Field("generated", "1 if generated tokens filled it, 0 if a prompt did", "0 or 1"),
    Field("prompt_blocks", "full blocks in the prompt of the last request that used it", "blocks"),
    Field("inferred_turn", "request.inferred_turn of the last request that used it", "turns"),
    Field("turn_gap", "request.turn_gap of the last request that used it", "steps"),
    Field("turn", "turn of the last request that used it within its session; 0 if unknown", "turns"),
    Field("tenant", "tenant of the last request that used it; 0 if unknown", "label"),
    Field("type", "request type of the last request that used it; 0 if unknown", "label"),
    Field("priority", "priority of the last request that used it; 0 if unknown", "label"),
    *_slots(BLOCK_SLOTS, "private number; 0 when the block is new or forgotten", moving=False),
    Field("tokens", "tokens in the block", "tokens", "cache.block_tokens"),
    Field("prefix_tokens", "tokens up to and with this block", "tokens", "(block.depth + 1.0) * cache.block_tokens"),
    Field(
        "recompute_cost",
        "prefill cost of the block, attention to its prefix included; the first token of a prompt costs 1 "
        f"(Llama-3.1-8B: tokens * (1 + (prefix_tokens - tokens / 2) / {ATTENTION_TOKENS:,.0f}))",
        "first-token prefills",
        f"cache.block_tokens * (1.0 + (block.depth + 0.5) * cache.block_tokens / {ATTENTION_TOKENS!r})",
    ),
    Field("age", "cache.now minus last_access", "steps", "cache.now - block.last_access", moving=True),
    Field("age_s", "the same in time", "seconds", "cache.now_s - block.last_access_s", moving=True),
    Field("residence", "cache.now minus inserted", "steps", "cache.now - block.inserted", moving=True),
    Field("residence_s", "the same in time", "seconds", "cache.now_s - block.inserted_s", moving=True),
)

REQUEST: tuple[Field, ...] = (
    Field("input_tokens", "prompt length", "tokens"),
    Field("blocks", "full blocks of the prompt", "blocks"),
    Field("hit_blocks", "of them, found in the cache", "blocks"),
    Field("known_blocks", "full blocks from the start that are in the cache or remembered in the ghost list", "blocks"),
    Field(
        "inferred_turn",
        "turn of its conversation as block ids tell: 1, or one more than the request it continues; that one's last full"
        " block is in its prompt, and no other prompt went on from there",
        "turns",
    ),
    Field("turn_gap", f"requests since the one it continues; {NEVER:g} if it continues none", "steps"),
    Field("turn_gap_s", "the same in time", "seconds"),
    Field("turn", "turn within its session; 0 if unknown", "turns"),
    Field("tenant", "tenant; 0 if unknown", "label"),
    Field("type", "request type; 0 if unknown", "label"),
    Field("priority", "priority given by the client; 0 if unknown", "label"),
    Field("new_blocks", "full blocks not found in the cache", "blocks", "request.blocks - request.hit_blocks"),
)

CACHE: tuple[Field, ...] = (
    Field("now", "requests admitted so far, counted from an origin that means nothing", "steps", moving=True),
    Field("now_s", "time in 1/1024 s, counted from an origin that means nothing", "seconds", moving=True),
    Field("capacity_blocks", "size of the cache", "blocks"),
    Field("block_tokens", "tokens per block", "tokens"),
    Field("resident_blocks", "blocks a lookup can find", "blocks", moving=True),
    Field("running_blocks", "blocks running requests hold, shared ones once", "blocks", moving=True),
    Field("hit_rate", "hit blocks per block looked up, since the start", "fraction", moving=True),
    Field("recent_hit_rate", "the same, moving average over about 64 requests", "fraction", moving=True),
    Field("pressure", "blocks evicted per request, moving average over about 64 requests", "blocks", moving=True),
    Field("request_blocks", "full blocks per request, moving average over about 64 requests", "blocks", moving=True),
    Field(
        "continued", "share of requests that continue another, moving average over about 64", "fraction", moving=True
    ),
    Field(
        "usual_gap", "geometric mean of turn_gap, moving average over about 64 turns; 0 before", "steps", moving=True
    ),
    *_slots(CACHE_SLOTS, "private number; 0 at the start", moving=True),
)

RECORDS: dict[str, tuple[Field, ...]] = {"block": BLOCK, "request": REQUEST, "cache": CACHE}


def _dtype(fields: tuple[Field, ...], hidden: tuple[str, ...] = ()) -> np.dtype[np.void]:
    names = [field.name for field in fields if not field.expression]
    return np.dtype([(name, np.float64) for name in (*names, *hidden)])


BLOCK_DTYPE = _dtype(BLOCK)
REQUEST_DTYPE = _dtype(REQUEST)
CACHE_DTYPE = _dtype(CACHE, tuple(f"k{i}" for i in range(TUNED_CONSTANTS)))
"""The hidden fields k0, k1, … hold lifted literals; no policy can name them."""

DTYPES = (BLOCK_DTYPE, REQUEST_DTYPE, CACHE_DTYPE)


def describe() -> str:
    """Return every field with unit and meaning as plain text, one line each (also part of the prompt)."""
    lines: list[str] = []
    for record, fields in RECORDS.items():
        lines.append(f"{record}:")
        slots = [field for field in fields if field.unit == "yours"]
        for field in fields:
            if field not in slots:
                lines.append(f"  {record}.{field.name:<16} {field.meaning} [{field.unit}]")
        if slots:
            lines.append(f"  {record}.{slots[0].name}..{slots[-1].name:<12} {slots[0].meaning}; written in hooks only")
    return "\n".join(lines)
