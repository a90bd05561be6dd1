"""What there is to know of a trace, as one table: statistics, reuse, and hits of LRU and the optimum at cache sizes.

Knows which numbers belong together and how they are shown. Must not know how they are found (`workloads.statistics`,
`sim.reuse`). What is printed is printed from what goes to JSON, where percentages have three digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sim.reuse import SHARES, Reuse
from sim.simulation import parse_capacity
from sim.tables import table
from workloads.kv_bytes import is_memory, kv_bytes_per_token, memory_blocks
from workloads.manifest import Manifest, manifest_of
from workloads.statistics import GAPS, Spread, Statistics, measure
from workloads.trace import Trace

FORMAT = "kvevolve-trace-info/1"
MODEL = "llama-3.1-70b"
CAPACITIES = (*(f"{100 * share:g}%" for share in SHARES), "10GB", "40GB", "160GB", "640GB", "1280GB", "2560GB")
"""The sizes of the usual tables."""


@dataclass(frozen=True)
class Hits:
    """What a cache of one size hits.

    Attributes:
        capacity: As asked for.
        blocks: Its size in blocks.
        gb: Its size in GB (1e9 bytes) with the model's KV size.
        lru: Hits of LRU as a share of the block references.
        optimum: The most any policy hits.
    """

    capacity: str
    blocks: int
    gb: float
    lru: float
    optimum: float


@dataclass(frozen=True, eq=False)
class TraceInfo:
    """What there is to know of a trace.

    Attributes:
        statistics: What needs no cache.
        reuse_distance_blocks: Spread of the reuse distance over all hits of an infinite cache.
        hits: By size.
        model: Whose KV bytes per token turn blocks into GB; a name, or a number of bytes.
        manifest: Where the trace comes from.
    """

    statistics: Statistics
    reuse_distance_blocks: Spread
    hits: tuple[Hits, ...]
    model: str
    manifest: Manifest

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and text, fit for JSON: hits and shares of blocks in percent, to three digits."""
        numbers = asdict(self.statistics)
        for name in ("infinite_hit", "infinite_hit_2nd_half", "once", "top_1"):
            numbers[f"{name}_percent"] = _percent(numbers.pop(name))
        per_token = kv_bytes_per_token(self.model)
        rows = [
            {
                "capacity": row.capacity,
                "blocks": row.blocks,
                "gb": round(row.gb, 3),
                "lru_percent": _percent(row.lru),
                "optimum_percent": _percent(row.optimum),
            }
            for row in self.hits
        ]
        numbers |= {
            "model": self.model,
            "kv_bytes_per_token": per_token,
            "working_set_gb": round(self.statistics.working_set_gb(per_token), 3),
            "reuse_distance_blocks": asdict(self.reuse_distance_blocks),
            "hits": rows,
        }
        texts: dict[str, Any] = _with_text_keys(numbers)
        return {"format": FORMAT, **texts, "manifest": self.manifest.to_dict()}

    def __str__(self) -> str:
        return text(self.to_dict())


def trace_info(
    trace: Trace,
    capacities: Sequence[str] = CAPACITIES,
    model: str = MODEL,
    reuse: Reuse | None = None,
) -> TraceInfo:
    """Find out what there is to know of a trace.

    Args:
        trace: The trace.
        capacities: Cache sizes: ``5%`` of the distinct blocks, ``5000`` blocks, ``40GB``.
        model: Name, or KV bytes per token.
        reuse: Of the trace, if there is one already.

    Raises:
        ValueError: unknown model, or a size that makes no sense.
    """
    reuse = Reuse(trace) if reuse is None else reuse
    block_bytes = kv_bytes_per_token(model) * trace.block_tokens
    blocks = [_blocks(given, trace, model) for given in capacities]
    best = reuse.optima(blocks)
    hits = tuple(
        Hits(given, size, size * block_bytes / 1e9, reuse.lru(size), most)
        for given, size, most in zip(capacities, blocks, best, strict=True)
    )
    return TraceInfo(measure(trace), reuse.spread(GAPS), hits, model, manifest_of(trace))


def _blocks(given: str, trace: Trace, model: str) -> int:
    blocks = memory_blocks(given, trace.block_tokens, model) if is_memory(given) else given
    return parse_capacity(blocks, max(trace.n_blocks, 1))


def _percent(share: float) -> float:
    return round(100 * share, 3)


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return value


def text(found: dict[str, Any]) -> str:
    """Return what `TraceInfo.to_dict` gives as a text for people."""
    head = f"{found['name']}, blocks of {found['block_tokens']} tokens, fingerprint {found['fingerprint'][:12]}"
    lines = [f"{name:<26} {shown}" for name, shown in (*_sizes(found), *_sharing(found), *_sessions(found))]
    rows = [
        [
            row["capacity"],
            f"{row['blocks']:,}",
            f"{row['gb']:,.1f}",
            f"{row['lru_percent']:.2f}",
            f"{row['optimum_percent']:.2f}",
        ]
        for row in found["hits"]
    ]
    title = f"hits in % of block references ({found['model']}: {found['kv_bytes_per_token']:,} B per token)"
    hits = table(["cache", "blocks", "GB", "LRU", "optimum"], rows)
    return "\n".join([head, "", *lines, "", title, hits, "", Manifest.shown(found["manifest"])])


def _sizes(found: dict[str, Any]) -> list[tuple[str, str]]:
    load = found["load"]
    return [
        ("requests", f"{found['requests']:,} in {found['span_s']:,.0f} s, {load['requests_per_s']:.2f}/s"),
        ("arrivals", f"gap CV {load['gap_cv']:.2f}, {load['distinct_times']:,} times, busiest second"
         f" {load['busiest_second']:,}"),
        ("running (40 tok/s decode)", f"mean {load['running_mean']:,.1f}, peak {load['running_peak']:,}"),
        ("block references", f"{found['block_refs']:,}"),
        ("unique blocks", f"{found['unique_blocks']:,}, {found['working_set_gb']:,.0f} GB"),
        ("infinite cache hit %", f"{found['infinite_hit_percent']:.2f}; 2nd half"
         f" {found['infinite_hit_2nd_half_percent']:.2f}"),
        ("input tokens", _lengths(found["input_tokens"])),
        ("output tokens", _lengths(found["output_tokens"])),
    ]  # fmt: skip


def _sharing(found: dict[str, Any]) -> list[tuple[str, str]]:
    sharing = found["sharing"]
    rows = [
        ("blocks used once %", f"{found['once_percent']:.2f}"),
        ("top 1 % of blocks get %", f"{found['top_1_percent']:.2f}"),
        ("reuse distance, blocks", _percentiles(found["reuse_distance_blocks"], "{:,.0f}")),
        ("reuse gap, s", _percentiles(found["reuse_gap_s"], "{:,.4g}")),
        ("requests that hit nothing", f"{100 * sharing['requests_without_hit']:.1f} %; half or more of their blocks"
         f" {100 * sharing['requests_hit_half']:.1f} %, 90 % {100 * sharing['requests_hit_90']:.1f} %"),
        ("shared prefix, mean", f"{sharing['hit_blocks_mean']:,.1f} blocks, {sharing['hit_tokens_mean']:,.0f} tokens"),
        ("different first blocks", f"{sharing['roots']:,}; blocks in > 1 % of requests {sharing['trunk_blocks']:,}"),
    ]  # fmt: skip
    if "hits_of_own_session" in sharing:
        rows.append(("hits of the own session", f"{100 * sharing['hits_of_own_session']:.1f} %"))
    return rows


def _sessions(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (f"column {name}", f"{column['distinct']:,} values, known for {100 * column['known']:.1f} % of the requests")
        for name, column in found["columns"].items()
    ]
    sessions = found["sessions"]
    if sessions is None:
        return rows
    return [
        *rows,
        ("requests per session", _lengths(sessions["requests"])),
        ("session span, s", _lengths(sessions["span_s"])),
        ("gap in a session, s", _lengths(sessions["gap_s"])),
        ("prompt growth, tokens", _lengths(sessions["growth_tokens"])),
        ("prompts that extend", f"the one before in their session: {100 * sessions['extends']:.1f} %"),
        ("open sessions", f"mean {sessions['open_mean']:,.1f}, peak {sessions['open_peak']:,}"),
    ]


def _lengths(spread: dict[str, Any]) -> str:
    parts = spread["percentiles"]
    shown = ", ".join(f"p{percent} {parts[percent]:,.0f}" for percent in ("50", "90", "99"))
    return f"mean {spread['mean']:,.1f}; {shown}"


def _percentiles(spread: dict[str, Any], form: str) -> str:
    return ", ".join(f"p{percent} {form.format(value)}" for percent, value in spread["percentiles"].items())
