"""Synthetic traces: families with independent seeds. ``generator(name)(seed, requests=...)`` gives a Trace.

The same arguments give the same trace; another seed or another family gives an independent stream (seeded by (family,
seed) through numpy's SeedSequence). Each family documents its parameters, their units, the meaning of its columns and
its size; :mod:`workloads.synthetic.presets` has named settings.

==================  ====================================================================================
family              what it imitates
==================  ====================================================================================
chat                multi-turn chat, think times, pasted documents
returning_chat      chat whose users come back after a pause or days later
shared_system       many small apps, each with a long system prompt
multi_tenant        tenants of different rate, style and priority
noisy_neighbour     quiet tenants beside one that floods
diurnal             a day of chat between trough and peak (ServeGen)
rag                 retrieved passages in noisy order
rag_order           the same chunks in fixed, ranked or shuffled order
long_document_qa    questions on long documents, read whole or to varying depth
few_shot            templates released in versions: canary, roll-out, rollback
batch_sweep         one template over a corpus, many samples of one prompt
reasoning           long outputs that re-enter the next prompt, in bursts
agent               coding-agent loops with compaction
agent_tools         tool classes with latencies, parallel calls, sub-agents that report
agent_branches      workflows that fork, roll back and resume
serving_mix         five sources on one server, in changing proportions
scan                chat swept by batch jobs
recovery            a hot set warmed, polluted, wanted again; tenants and priorities
priority_noise      important requests that never come back
phase_shift         a hot set that changes and comes back
cross_family        three families one after another
loop                rounds over a working set: kills LRU below its size
stale_popularity    documents once popular: kills LFU without aging
id_churn            an id near the head changes, and every prefix dies
zero_reuse          the control: nothing is ever reused
measured_lengths    independent requests with measured lengths
fitted              a real trace, from tables that `kvevolve trace fit` made of it
==================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from inspect import signature
from types import MappingProxyType
from typing import Any

from workloads.errors import unknown_name
from workloads.fitted import fitted
from workloads.synthetic.adverse import phase_shift, scan, zero_reuse
from workloads.synthetic.agents import agent_tools
from workloads.synthetic.branches import agent_branches
from workloads.synthetic.daily import diurnal
from workloads.synthetic.dialogue import chat, multi_tenant, shared_system
from workloads.synthetic.documents import long_document_qa
from workloads.synthetic.loops import loop, stale_popularity
from workloads.synthetic.measured import measured_lengths
from workloads.synthetic.mixtures import cross_family, serving_mix
from workloads.synthetic.neighbours import noisy_neighbour
from workloads.synthetic.offline import batch_sweep
from workloads.synthetic.presets import PRESETS, Preset
from workloads.synthetic.priorities import priority_noise
from workloads.synthetic.reasoning import reasoning
from workloads.synthetic.recovery import recovery
from workloads.synthetic.retrieval import rag_order
from workloads.synthetic.returning import returning_chat
from workloads.synthetic.templates import few_shot, id_churn
from workloads.synthetic.tools import agent, rag
from workloads.trace import Trace

__all__ = [
    "GENERATORS",
    "PRESETS",
    "agent",
    "agent_branches",
    "agent_tools",
    "batch_sweep",
    "chat",
    "cross_family",
    "diurnal",
    "few_shot",
    "fitted",
    "generator",
    "id_churn",
    "long_document_qa",
    "loop",
    "measured_lengths",
    "multi_tenant",
    "noisy_neighbour",
    "phase_shift",
    "priority_noise",
    "rag",
    "rag_order",
    "reasoning",
    "recovery",
    "returning_chat",
    "scan",
    "serving_mix",
    "shared_system",
    "stale_popularity",
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
        "returning_chat": returning_chat,
        "agent_tools": agent_tools,
        "agent_branches": agent_branches,
        "rag_order": rag_order,
        "few_shot": few_shot,
        "id_churn": id_churn,
        "batch_sweep": batch_sweep,
        "long_document_qa": long_document_qa,
        "reasoning": reasoning,
        "diurnal": diurnal,
        "noisy_neighbour": noisy_neighbour,
        "recovery": recovery,
        "priority_noise": priority_noise,
        "loop": loop,
        "stale_popularity": stale_popularity,
        "serving_mix": serving_mix,
        "cross_family": cross_family,
        "measured_lengths": measured_lengths,
        "fitted": fitted,
    }
)


def generator(name: str) -> Callable[..., Trace]:
    """Return a family, or a family with the parameters of a preset, by name.

    Raises:
        TraceError: unknown name, with a suggestion.
    """
    if name in PRESETS:
        return _named(name, PRESETS[name])
    if name not in GENERATORS:
        raise unknown_name("generator", name, [*GENERATORS, *PRESETS])
    return GENERATORS[name]


def _named(name: str, preset: Preset) -> Callable[..., Trace]:
    """Return the family with the preset's parameters as defaults; traces are named after the preset."""
    family = partial(GENERATORS[preset.family], **preset.parameters)

    @wraps(GENERATORS[preset.family])
    def make(*args: Any, **options: Any) -> Trace:
        trace = family(*args, **options)
        return trace.renamed(trace.name.replace(preset.family, name, 1), {"preset": name})

    make.__signature__ = signature(family)  # type: ignore[attr-defined]
    return make
