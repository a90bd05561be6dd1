"""From a specification to a trace.

Knows how sources are seeded, named apart and put together. Must not know YAML, nor what a family does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workloads import combine, progress, synthetic
from workloads.columns import I32, INT32_MAX
from workloads.errors import TraceError
from workloads.spec import timing
from workloads.spec.schema import Fields
from workloads.trace import Trace

_ALL_ZERO = ("tenant", "request_type", "priority")  # left out by families where it is 0 throughout


def generate(fields: Fields) -> Trace:
    """Return the trace of a specification; the same one gives the same trace, byte for byte."""
    planned = timing.plan(fields)
    used = [number for number, count in enumerate(planned.per_source) if count]
    planned = timing.Plan(planned.counts[:, used], planned.rates)
    traces = []
    for place, (number, count) in enumerate(zip(used, planned.per_source, strict=True)):
        progress.tell("making sources", place, len(used))
        traces.append(_source(fields, number, count))
    facts = _facts(fields, used, traces)
    if len(fields.sources) > 1:
        traces = _told_apart(traces)
    if timing.as_they_are(fields):
        whole = traces[0]
    else:
        whole = combine.interleave(traces, np.concatenate(timing.arrivals(traces, planned, fields)), fields.name, "")
    about = {"about": fields.about} if fields.about else {}
    provenance: dict[str, object] = {"format": "spec", **about, "spec": fields.plain(), "sources": facts}
    return replace(whole, name=f"{fields.name}-seed{fields.seed}", provenance=provenance)


def source_seed(seed: int, number: int, family: str) -> int:
    """Return the seed of a source, independent of those of other sources, families and seeds."""
    name = int.from_bytes(hashlib.sha256(f"kvevolve-workload {family}".encode()).digest()[:16], "big")
    low, high = np.random.SeedSequence((name, seed, number)).generate_state(2, np.uint32).tolist()
    return int(low) | (int(high) & 0x1FFFFF) << 32  # 53 bits: exact in any JSON


def _source(fields: Fields, number: int, count: int) -> Trace:
    source = fields.sources[number]
    seed = source_seed(fields.seed, number, source.family)
    try:
        family = synthetic.generator(source.family)
        trace = family(seed, requests=count, block_tokens=fields.block_tokens, **source.parameters)
    except TraceError as error:
        raise TraceError(f"{fields.name}: sources[{number}] ({source.family}): {error.message}") from None
    if trace.n_requests != count:
        raise TraceError(
            f"{fields.name}: sources[{number}] ({source.family}): expected {count} requests of the family, got"
            f" {trace.n_requests} - fix: ask for fewer requests, or mend the family"
        )
    return trace


def _told_apart(traces: Sequence[Trace]) -> list[Trace]:
    """Number tenants on through all sources, so that a tenant tells its source; fill in what was 0 throughout."""
    first, told = 0, []
    for trace in traces:
        columns: dict[str, I32] = {
            key: column if (column := getattr(trace, key)) is not None else np.zeros(trace.n_requests, np.int32)
            for key in _ALL_ZERO
        }
        tenants = columns["tenant"]
        columns["tenant"] = np.where(tenants < 0, 0, tenants) + np.int32(first)
        first += int(tenants.max(initial=0)) + 1
        if first > INT32_MAX:
            raise TraceError("tenant numbers exceed 32 bits; fix: number the tenants of each family from 0")
        told.append(replace(trace, **columns))  # type: ignore[arg-type]
    return told


def _facts(fields: Fields, used: Sequence[int], traces: Sequence[Trace]) -> list[dict[str, object]]:
    """Return what became of each source: its seed, requests, tenants, and the parameters it was not given."""
    facts: list[dict[str, object]] = []
    first = 0
    for number, trace in zip(used, traces, strict=True):
        given, known = fields.sources[number], trace.provenance.get("parameters")
        top = 0 if trace.tenant is None else max(int(trace.tenant.max()), 0)
        fact = {"source": number, "family": given.family, "requests": trace.n_requests, "tenants": [first, first + top]}
        if isinstance(known, dict):
            fact["defaults"] = {key: value for key, value in known.items() if key not in given.parameters}
        facts.append(fact)
        first += top + 1
    return facts
