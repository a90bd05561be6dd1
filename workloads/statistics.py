"""What a trace is like: sizes, lengths, sharing, reuse in time, sessions, load.

Knows requests, blocks, sessions and times, and infinite memory. Must not know caches (LRU and the optimum at a size are
`sim.reuse`). Percentages are of block references over the whole trace, cold start included, unless said otherwise; the
definitions are those of ``traces.md`` section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from workloads.columns import F64, I32, I64, Bool
from workloads.errors import TraceError
from workloads.materialise import DECODE_TOKENS_PER_S

if TYPE_CHECKING:
    from workloads.trace import Trace

LENGTHS = (10, 50, 90, 99)
GAPS = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True)
class Spread:
    """How some numbers are spread; all 0 if there are none.

    Attributes:
        mean: Mean.
        percentiles: Value by percent.
        largest: The largest.
    """

    mean: float
    percentiles: Mapping[int, float]
    largest: float

    @staticmethod
    def of(values: npt.NDArray[Any], percents: Sequence[int] = LENGTHS, exact: bool = False) -> Spread:
        """Return the spread of some numbers; percentiles interpolated, or (exact) values that occur."""
        if not values.size:
            return Spread(0.0, dict.fromkeys(percents, 0.0), 0.0)
        method: Literal["inverted_cdf", "linear"] = "inverted_cdf" if exact else "linear"
        found = np.percentile(values, np.array(percents), method=method).tolist()
        return Spread(float(values.mean()), dict(zip(percents, found, strict=True)), float(values.max()))


@dataclass(frozen=True)
class Statistics:
    """What a trace is like.

    Attributes:
        name: Its name.
        fingerprint: Of the trace.
        block_tokens: Tokens per block.
        requests: Number of requests.
        span_s: Seconds from the first to the last arrival.
        block_refs: References to full blocks.
        unique_blocks: Distinct full blocks.
        infinite_hit: Hits of an infinite cache, share of the references, 0..1.
        infinite_hit_2nd_half: The same of requests N / 2 and later, history kept.
        input_tokens: Prompt lengths, of a whole file as recorded: a reader may have changed them (partial tails rounded
            up, tokens that no id covers clipped).
        output_tokens: Output lengths.
        once: Share of the distinct blocks that are referenced once.
        top_1: References that go to the most referenced 1 % of the distinct blocks (rounded down), as a share.
        reuse_gap_s: Seconds between two uses of a block, over all hits of an infinite cache.
        sharing: See `sharing`.
        columns: By optional column that is there: distinct values and share of requests where it is known.
        sessions: See `sessions`; None without a session column.
        load: See `load`.
    """

    name: str
    fingerprint: str
    block_tokens: int
    requests: int
    span_s: float
    block_refs: int
    unique_blocks: int
    infinite_hit: float
    infinite_hit_2nd_half: float
    input_tokens: Spread
    output_tokens: Spread
    once: float
    top_1: float
    reuse_gap_s: Spread
    sharing: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]]
    sessions: Mapping[str, Any] | None
    load: Mapping[str, float]

    def working_set_gb(self, kv_bytes_per_token: int) -> float:
        """Return the size of all distinct blocks in GB (1e9 bytes)."""
        return self.unique_blocks * self.block_tokens * kv_bytes_per_token / 1e9


def measure(trace: Trace) -> Statistics:
    """Measure a trace."""
    new = first_uses(trace)
    half = trace.n_requests // 2
    refs_2nd = int(trace.offsets[-1] - trace.offsets[half])
    new_2nd = int(np.count_nonzero(new[trace.offsets[half] :]))
    before = previous_use(trace)
    uses = np.bincount(trace.block_ids, minlength=trace.n_blocks)
    return Statistics(
        name=trace.name,
        fingerprint=trace.fingerprint,
        block_tokens=trace.block_tokens,
        requests=trace.n_requests,
        span_s=trace.span_s,
        block_refs=trace.n_refs,
        unique_blocks=trace.n_blocks,
        infinite_hit=1 - _share(trace.n_blocks, trace.n_refs) if trace.n_refs else 0.0,
        infinite_hit_2nd_half=_share(refs_2nd - new_2nd, refs_2nd),
        input_tokens=_recorded(trace) or Spread.of(trace.input_tokens),
        output_tokens=Spread.of(trace.output_tokens),
        once=_share(int(np.count_nonzero(uses == 1)), trace.n_blocks),
        top_1=_share(int(np.sort(uses)[::-1][: max(1, trace.n_blocks // 100)].sum()), trace.n_refs),
        reuse_gap_s=Spread.of(reuse_gaps_s(trace, before), GAPS, exact=True),
        sharing=sharing(trace, new, before),
        columns=columns(trace),
        sessions=None if trace.session is None else sessions(trace),
        load=load(trace),
    )


def first_uses(trace: Trace) -> Bool:
    """Return bool[n_refs], whether a reference is the first of its block (dense ids: a new maximum)."""
    highest = np.maximum.accumulate(trace.block_ids)
    return np.diff(highest, prepend=np.int32(-1)) > 0


def previous_use(trace: Trace) -> I32:
    """Return int32[n_refs]: the request that used the block last before, -1 at a first use."""
    request = np.repeat(np.arange(trace.n_requests, dtype=np.int32), trace.full_blocks)
    later = trace.next_use
    before = np.full(trace.n_refs, -1, np.int32)
    again = later < trace.n_refs
    before[later[again]] = request[again]
    return before


def reuse_gaps_s(trace: Trace, before: I32) -> F64:
    """Return float64[hits] seconds since the previous use of a block, over all references but first uses."""
    request = np.repeat(np.arange(trace.n_requests, dtype=np.int32), trace.full_blocks)
    again = before >= 0
    gaps: F64 = trace.arrival_s[request[again]] - trace.arrival_s[before[again]]
    return gaps


def hit_blocks(trace: Trace, new: Bool) -> I64:
    """Return int64[n] blocks each request hits in an infinite cache; `new` from `first_uses`."""
    seen = np.concatenate(([0], np.cumsum(~new)))
    return np.diff(seen[trace.offsets])


def sharing(trace: Trace, new: Bool, before: I32) -> dict[str, float]:
    """Return who shares what with an infinite cache.

    Args:
        trace: The trace.
        new: From `first_uses`.
        before: From `previous_use`.

    Returns:
        ``requests_without_hit``: share of the requests that have a full block and hit none; ``hit_blocks_mean`` and
        ``hit_tokens_mean``: depth of the shared prefix of those that hit; ``requests_hit_half`` and ``_hit_90``:
        share of the requests that hit at least that part of their blocks; ``roots``: different first blocks;
        ``trunk_blocks``: blocks in more than 1 % of the requests; ``hits_of_own_session``: share of the hits whose
        block was last used by the same session (only with a session column).
    """
    hits = hit_blocks(trace, new)
    full = trace.full_blocks
    some = full > 0
    ratio = hits[some] / full[some]
    depth = float(hits[hits > 0].mean()) if (hits > 0).any() else 0.0
    uses = np.bincount(trace.block_ids, minlength=trace.n_blocks)
    found = {
        "requests_without_hit": _share(int(np.count_nonzero(ratio == 0)), len(ratio)),
        "hit_blocks_mean": depth,
        "hit_tokens_mean": depth * trace.block_tokens,
        "requests_hit_half": _share(int(np.count_nonzero(ratio >= 0.5)), len(ratio)),
        "requests_hit_90": _share(int(np.count_nonzero(ratio >= 0.9)), len(ratio)),
        "roots": len(np.unique(trace.block_ids[trace.offsets[:-1][some]])),
        "trunk_blocks": int(np.count_nonzero(uses > 0.01 * trace.n_requests)) if trace.n_requests > 100 else 0,
    }
    if trace.session is not None:
        again = before >= 0
        session = np.repeat(trace.session, full)[again]
        own = (session >= 0) & (trace.session[before[again]] == session)
        found["hits_of_own_session"] = _share(int(np.count_nonzero(own)), len(own))
    return found


def columns(trace: Trace) -> dict[str, dict[str, float]]:
    """Return distinct values and the share of requests where it is known, by optional column."""
    found: dict[str, dict[str, float]] = {}
    for name in ("session", "turn", "tenant", "request_type", "priority"):
        column = getattr(trace, name)
        if column is not None:
            known = column if name == "priority" else column[column >= 0]
            found[name] = {"distinct": len(np.unique(known)), "known": _share(len(known), trace.n_requests)}
    return found


def sessions(trace: Trace) -> dict[str, Any]:
    """Return what sessions are like.

    Returns:
        ``requests``: per session; ``span_s``: first to last arrival; ``gap_s``: between requests of a session, all
        spreads; ``growth_tokens``: by how much a prompt is longer than the one before it in its session; ``extends``:
        share of such pairs where the later prompt begins with all full blocks of the earlier one; ``open_mean`` and
        ``open_peak``: sessions between their first and last arrival at a time.
    """
    assert trace.session is not None
    rows = np.flatnonzero(trace.session >= 0)
    rows = rows[np.argsort(trace.session[rows], kind="stable")]
    session, arrival = trace.session[rows], trace.arrival_s[rows]
    same = session[1:] == session[:-1]
    earlier, later = rows[:-1][same], rows[1:][same]
    first = np.flatnonzero(np.concatenate(([True], ~same))) if len(rows) else np.empty(0, np.int64)
    last = np.append(first[1:], len(rows)) - 1 if len(rows) else first
    starts, ends = arrival[first], arrival[last]
    growth = trace.input_tokens[later].astype(np.int64) - trace.input_tokens[earlier]
    return {
        "requests": Spread.of(last - first + 1),
        "span_s": Spread.of(ends - starts),
        "gap_s": Spread.of(trace.arrival_s[later] - trace.arrival_s[earlier]),
        "growth_tokens": Spread.of(growth),
        "extends": _share(int(np.count_nonzero(extends(trace, earlier, later))), len(later)),
        "open_mean": float((ends - starts).sum()) / trace.span_s if trace.span_s else float(len(first)),
        "open_peak": most_at_once(starts, ends),
    }


def extends(trace: Trace, earlier: I64, later: I64) -> Bool:
    """Return bool[m], whether a prompt begins with all full blocks of another.

    Args:
        trace: The trace.
        earlier: int64[m] requests.
        later: int64[m] requests, each compared with the one at its place.
    """
    full = trace.full_blocks.astype(np.int64)
    found: Bool = full[later] >= full[earlier]
    some = found & (full[earlier] > 0)
    depth = full[earlier[some]] - 1
    found[some] = (
        trace.block_ids[trace.offsets[later[some]] + depth] == trace.block_ids[trace.offsets[earlier[some]] + depth]
    )
    return found


def load(trace: Trace) -> dict[str, float]:
    """Return how requests arrive.

    Returns:
        ``requests_per_s``, ``input_tokens_per_s`` and ``output_tokens_per_s``, means over the span; ``gap_cv``:
        coefficient of variation of the time between arrivals (1: Poisson); ``distinct_times``: different arrival
        times; ``busiest_second``: most requests within a second; ``running_mean`` and ``running_peak``: requests at a
        time if each took `DECODE_TOKENS_PER_S` and nothing else (an estimate: no queue, no prefill).
    """
    span, gaps = trace.span_s, np.diff(trace.arrival_s)
    busy_s = trace.output_tokens / DECODE_TOKENS_PER_S
    per_s = 1 / span if span else 0.0
    ahead = np.searchsorted(trace.arrival_s, trace.arrival_s + 1.0, side="left")
    return {
        "requests_per_s": trace.n_requests * per_s,
        "input_tokens_per_s": trace.prompt_tokens * per_s,
        "output_tokens_per_s": float(trace.output_tokens.sum(dtype=np.int64)) * per_s,
        "gap_cv": float(gaps.std() / gaps.mean()) if span else 0.0,
        "distinct_times": len(np.unique(trace.arrival_s)),
        "busiest_second": int((ahead - np.arange(trace.n_requests)).max()),
        "running_mean": float(busy_s.sum()) * per_s,
        "running_peak": most_at_once(trace.arrival_s, trace.arrival_s + busy_s),
    }


def most_at_once(starts: F64, ends: F64) -> int:
    """Return how many of the intervals [start, end] overlap at most; 0 if there are none."""
    if not len(starts):
        return 0
    begun = np.arange(1, len(starts) + 1)
    return int((begun - np.searchsorted(np.sort(ends), np.sort(starts), side="left")).max())


def ks_distance(one: F64, other: F64) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, 0 (alike) to 1; 1 if only one is empty."""
    if not len(one) or not len(other):
        return float(len(one) != len(other))
    at = np.concatenate((one, other))
    below = [np.searchsorted(np.sort(sample), at, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


def _recorded(trace: Trace) -> Spread | None:
    """Return how prompt lengths were spread in the file, if the reader changed them and nothing was cut since."""
    said = trace.provenance.get("recorded_input_tokens")
    if not isinstance(said, Mapping) or "steps" in trace.provenance:
        return None
    try:
        percentiles = {int(percent): float(value) for percent, value in said["percentiles"].items()}
        return Spread(float(said["mean"]), percentiles, float(said["largest"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TraceError(
            f"{trace.name}: provenance field 'recorded_input_tokens': expected a spread, got {said}"
        ) from None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
