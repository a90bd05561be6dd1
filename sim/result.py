"""What a replay found: counters, rates, latency and memory, with units in the names.

Knows numbers; must not know how they came about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from workloads.kv_bytes import kv_bytes_per_token


@dataclass(frozen=True)
class Latency:
    """Overlap mode under the constant-rate server. TTFT = queue + prefill of the tokens not hit."""

    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    queue_mean_s: float
    waited_requests: int
    makespan_s: float
    requests_per_s: float
    tokens_per_s: float
    """Prompt and generated tokens of served requests per second of makespan."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One replay of one trace at one capacity.

    Attributes:
        prompt_tokens: Of all requests, served or not; the denominator of `hit_rate`.
        hit_tokens: Prompt tokens found in the cache.
        hit_blocks: The same in blocks.
        looked_up_blocks: Full prompt blocks of served requests.
        admitted_blocks: Prompt blocks that entered the cache.
        bypassed_blocks: Prompt blocks that were computed and dropped at the request's end.
        generated_blocks: Blocks filled by generated tokens that entered the cache.
        dropped_generated_blocks: Those that did not (no room, already resident, or not admitted).
        evicted_blocks: Blocks that left to make room.
        unserved_requests: Requests with more blocks than the cache; an engine refuses to run them.
        resident_blocks: At the end.
        peak_resident_blocks: Most blocks a lookup could find.
        peak_used_blocks: The same plus what running requests held beyond it (partial tails, bypassed blocks).
        mean_used_blocks: Mean over admissions.
        priority_calls: How often the policy was asked for a score.
        prefill_s_saved: `hit_tokens` at the server's prefill rate.
        latency: Only in overlap mode.
        hit_blocks_per_request: int32 (n,), -1 for unserved requests.
        start_s: float64 (n,), admission times; NaN for unserved requests.
        tier_hits_per_request: The hits of each tier, fastest first, where an engine has more than one.
    """

    trace: str
    policy: str
    engine: str
    mode: str
    decode: str
    capacity_blocks: int
    block_tokens: int
    requests: int
    prompt_tokens: int
    hit_tokens: int
    hit_blocks: int
    looked_up_blocks: int
    admitted_blocks: int
    bypassed_blocks: int
    generated_blocks: int
    dropped_generated_blocks: int
    evicted_blocks: int
    unserved_requests: int
    resident_blocks: int
    peak_resident_blocks: int
    peak_used_blocks: int
    mean_used_blocks: float
    priority_calls: int
    prefill_tokens: int
    prefill_s: float
    prefill_s_saved: float
    latency: Latency | None
    hit_blocks_per_request: npt.NDArray[np.int32] = field(repr=False)
    start_s: npt.NDArray[np.float64] = field(repr=False)
    tier_hits_per_request: dict[str, npt.NDArray[np.int32]] | None = field(default=None, repr=False)

    @property
    def tier_hit_blocks(self) -> dict[str, int] | None:
        """Hit blocks by tier ("gpu_hit_blocks", "cpu_hit_blocks", ...), fastest first; None where there is one."""
        tiers = self.tier_hits_per_request
        return None if tiers is None else {f"{t}_hit_blocks": int(np.maximum(h, 0).sum()) for t, h in tiers.items()}

    @property
    def hit_rate(self) -> float:
        """Hit tokens per prompt token, 0..1."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def evictions_per_access(self) -> float:
        """Churn: evicted blocks per block looked up."""
        return self.evicted_blocks / self.looked_up_blocks if self.looked_up_blocks else 0.0

    @property
    def admitted_fraction(self) -> float:
        """Missing prompt blocks that were admitted, 0..1; 1 if none was missing."""
        missing = self.admitted_blocks + self.bypassed_blocks
        return self.admitted_blocks / missing if missing else 1.0

    def kv_bytes(self, model: str | int) -> dict[str, float]:
        """Return peak and mean KV bytes for a model, see `workloads.kv_bytes.kv_bytes_per_token`."""
        per_block = kv_bytes_per_token(model) * self.block_tokens
        return {"peak_kv_bytes": self.peak_used_blocks * per_block, "mean_kv_bytes": self.mean_used_blocks * per_block}

    def to_dict(self, per_request: bool = False) -> dict[str, object]:
        """Return plain numbers and text, fit for JSON; per-request arrays as lists on demand."""
        fields = {name: value for name, value in self.__dict__.items() if not isinstance(value, np.ndarray)}
        fields["latency"] = asdict(self.latency) if self.latency else None
        fields["tier_hit_blocks"] = self.tier_hit_blocks
        tiers = fields.pop("tier_hits_per_request")
        rates = {"hit_rate": self.hit_rate, "evictions_per_access": self.evictions_per_access}
        arrays: dict[str, object] = {}
        if per_request:
            arrays = {"hit_blocks_per_request": self.hit_blocks_per_request.tolist()}
            arrays["start_s"] = [None if np.isnan(value) else value for value in self.start_s.tolist()]
            arrays["tier_hits_per_request"] = tiers and {name: hits.tolist() for name, hits in tiers.items()}
        return {**fields, **rates, "admitted_fraction": self.admitted_fraction, **arrays}

    def __repr__(self) -> str:
        ttft = f", ttft_p95_s={self.latency.ttft_p95_s:.3g}" if self.latency else ""
        unserved = f", unserved_requests={self.unserved_requests}" if self.unserved_requests else ""
        return (
            f"Result({self.trace} x {self.policy}, capacity_blocks={self.capacity_blocks}, "
            f"hit_rate={self.hit_rate:.4f}, hit_tokens={self.hit_tokens}, "
            f"evicted_blocks={self.evicted_blocks}{ttft}{unserved})"
        )


def counted_hits(hits: npt.NDArray[np.int32], first_counted: int = 0) -> int:
    """Return the hit blocks of the requests that count.

    Args:
        hits: int32 (n,), hit blocks per request, -1 for unserved ones.
        first_counted: Requests before this one warmed the cache up.
    """
    return int(np.maximum(hits[first_counted:], 0).sum(dtype=np.int64))


def latency_of(
    arrival_s: npt.NDArray[np.float64],
    start_s: npt.NDArray[np.float64],
    uncached_tokens: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int64],
    decode_s: npt.NDArray[np.float64],
    prefill_tokens_per_s: float,
    waited_requests: int,
) -> Latency | None:
    """Return the latency of served requests, or None if none was served."""
    served = ~np.isnan(start_s)
    if not served.any():
        return None
    queue_s = (start_s - arrival_s)[served]
    prefill_s = uncached_tokens[served] / prefill_tokens_per_s
    ttft_s = queue_s + prefill_s
    finish_s = start_s[served] + prefill_s + decode_s[served]
    makespan_s = float(finish_s.max() - arrival_s[served].min())
    p50, p95, p99 = (float(value) for value in np.percentile(ttft_s, (50, 95, 99)))
    rate = 1.0 / makespan_s if makespan_s > 0 else 0.0
    return Latency(
        ttft_mean_s=float(ttft_s.mean()),
        ttft_p50_s=p50,
        ttft_p95_s=p95,
        ttft_p99_s=p99,
        queue_mean_s=float(queue_s.mean()),
        waited_requests=waited_requests,
        makespan_s=makespan_s,
        requests_per_s=float(served.sum() * rate),
        tokens_per_s=float(tokens[served].sum() * rate),
    )
