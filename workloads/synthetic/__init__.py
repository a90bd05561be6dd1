"""Synthetic traces: generators with independent seeds. ``generator(name)(seed, requests=...)`` gives a Trace.

Each generator documents its parameters. The same arguments give the same trace; another seed or another generator
gives an independent stream (seeded by (generator name, seed) through numpy's SeedSequence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from workloads.errors import unknown_name
from workloads.fitted import fitted
from workloads.synthetic.adverse import phase_shift, scan, zero_reuse
from workloads.synthetic.dialogue import chat, multi_tenant, shared_system
from workloads.synthetic.tools import agent, rag
from workloads.trace import Trace

__all__ = [
    "GENERATORS",
    "agent",
    "chat",
    "fitted",
    "generator",
    "multi_tenant",
    "phase_shift",
    "rag",
    "scan",
    "shared_system",
    "zero_reuse",
]

GENERATORS: Mapping[str, Callable[..., Trace]] = MappingProxyType(
    {
        "chat": chat,
        "shared_system": shared_system,
        "rag": rag,
        "agent": agent,
        "scan": scan,
        "phase_shift": phase_shift,
        "multi_tenant": multi_tenant,
        "zero_reuse": zero_reuse,
        "fitted": fitted,
    }
)


def generator(name: str) -> Callable[..., Trace]:
    """Return a generator by name.

    Raises:
        TraceError: unknown name, with a suggestion.
    """
    if name not in GENERATORS:
        raise unknown_name("generator", name, GENERATORS)
    return GENERATORS[name]
