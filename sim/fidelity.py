"""What each modelling choice is worth: hits of one trace under every rule, against vLLM >= 0.23 served one by one.

Knows engines, options and the optimum by name; must not know how any is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim import engines
from sim.bounds import optimum
from sim.policy.program import Policy
from sim.simulation import parse_capacity, simulate
from sim.tables import table
from workloads.trace import Trace

CAPACITIES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
REFERENCE, OLDER = engines.VLLM

HEAD_FIRST = Policy.from_source(
    'SCORING = "touch"\n\n\ndef priority(block, cache):\n    return block.last_access * 1048576.0 + block.depth\n',
    "head_first",
)
"""LRU of a cache that touches the blocks of a prompt first to last, as most simulators do."""

CHOICES: tuple[tuple[str, str | Policy, dict[str, Any]], ...] = (
    ("vLLM >= 0.23, serial", "native", {}),
    ("vLLM <= 0.22: the partial tail holds a slot", "native", {"engine": OLDER}),
    ("LRU that never orphans", "lru", {}),
    ("head-first recency: a prefix loses its head first", HEAD_FIRST, {"orphans": True}),
    ("decode blocks private", "native", {"decode": "private"}),
    ("decode blocks inferred", "native", {"decode": "infer"}),
    ("overlap", "native", {"mode": "overlap"}),
    ("overlap, decode blocks inferred", "native", {"mode": "overlap", "decode": "infer"}),
    ("CPU tier alone, blocks enter at the second request", "native", {"engine": "vllm-cpu-tier?store_threshold=2"}),
)
"""Label, policy, options; the first is the reference. Overlap runs at the default rates of `sim.options.Options`."""


@dataclass(frozen=True)
class Row:
    """One choice."""

    label: str
    hit_blocks: tuple[int, ...]
    """Per capacity."""


@dataclass(frozen=True)
class Fidelity:
    """All choices on one trace; the first row is the reference."""

    trace: str
    capacity_blocks: tuple[int, ...]
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain numbers and text, fit for JSON."""
        rows = [{"choice": row.label, "hit_blocks": list(row.hit_blocks)} for row in self.rows]
        return {"trace": self.trace, "capacity_blocks": list(self.capacity_blocks), "rows": rows}

    def __str__(self) -> str:
        """Return a table of hit blocks with the change against the reference."""
        reference = self.rows[0]
        lines: list[list[object]] = [[reference.label, *(f"{hits:,}" for hits in reference.hit_blocks)]]
        for row in self.rows[1:]:
            pairs = zip(row.hit_blocks, reference.hit_blocks, strict=True)
            lines.append([row.label, *(f"{hits:,} ({_change(hits, base)})" for hits, base in pairs)])
        head = ["hit blocks at a capacity of", *(f"{blocks:,}" for blocks in self.capacity_blocks)]
        return table(head, lines)


def _change(hits: int, base: int) -> str:
    return f"{100 * (hits - base) / base:+.1f}%" if base else "from 0"


def fidelity(
    trace: Trace, capacities: Sequence[int | float | str] = CAPACITIES, with_partial_ids: Trace | None = None
) -> Fidelity:
    """Replay a trace under every choice.

    Rows: vLLM's own LRU as in `CHOICES`, what simulators get that take partial blocks for blocks, the default policy of
    every other registered engine with its default parameters, and the offline optimum. Requests an engine cannot serve
    at a capacity count as no hits.

    Args:
        trace: What to replay.
        capacities: Blocks, or shares of the distinct blocks.
        with_partial_ids: The trace read with `partial_tail="block"`; None leaves those rows out.

    Raises:
        ValueError: If a capacity makes no sense.
    """
    blocks = tuple(parse_capacity(capacity, trace.n_blocks) for capacity in capacities)
    others = [(f"engine {name}", "native", {"engine": name}) for name in engines.names() if name not in engines.VLLM]
    rows = [
        Row(label, tuple(simulate(trace, policy, capacity, **options).hit_blocks for capacity in blocks))
        for label, policy, options in (*CHOICES, *others)
    ]
    if with_partial_ids:
        rows[len(CHOICES) : len(CHOICES)] = _partial_rows(with_partial_ids, blocks)
    rows.append(Row("offline optimum, serial", tuple(optimum(trace, capacity).hit_blocks for capacity in blocks)))
    return Fidelity(trace.name, blocks, tuple(rows))


def _partial_rows(trace: Trace, blocks: tuple[int, ...]) -> list[Row]:
    """Return what a partial block that is cached and hit like any other is worth, in vLLM's order and in libCacheSim's.

    A last block that can be hit takes a token behind it, and that token a block more of cache.
    """
    columns: dict[str, Any] = dict(trace.columns())
    longer = Trace.build(
        name=trace.name, block_tokens=trace.block_tokens, **columns | {"input_tokens": trace.input_tokens + 1}
    )
    hits = tuple(simulate(longer, "native", capacity + 1).hit_blocks for capacity in blocks)
    flat = tuple(simulate(trace, "lru", capacity, engine="flat").hit_blocks for capacity in blocks)
    return [
        Row("partial blocks cached and hit like others", hits),
        Row("the same, independent blocks (libCacheSim)", flat),
    ]
