"""Named settings of families: the 29 workload families of prefix-cache-evolve, at real scale.

Knows which family and which parameters stand for each of them. Must not know how a family works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Preset:
    """A family with parameters of its own.

    Attributes:
        family: Name of the family.
        parameters: Those that differ from the family's defaults.
        reuse: Token hits of an infinite cache over prompt tokens in prefix-cache-evolve @ 4dae47c (seed 37, 16-token
            blocks, measured); None where that was not measured.
    """

    family: str
    parameters: Mapping[str, int | float | str]
    reuse: float | None


def _preset(family: str, reuse: float | None, **parameters: int | float | str) -> Preset:
    return Preset(family, MappingProxyType(parameters), reuse)


_ONE_VERSION = {"releases": 1, "rollback_every": 1, "canary_share": 0.0, "rollout_share": 0.0, "leftover_share": 0.0}
_TEMPLATES = {
    "requests": 6_000,
    "tasks": 6,
    "popularity": 0.0,
    "input_tokens": 800.0,
    "root_tokens": 1_000,
    "task_tokens": 1_000.0,
}
_PRIORITY = {"hot_priority": 3, "medium_priority": 1, "medium_share": 0.2}
_BURSTS = {"tasks": 10, "popularity": 0.0, "thinking_sigma": 0.5, "answer_tokens": 120.0, "priority_share": 0.14}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "shared_system_prompt": _preset(
            "few_shot", 0.747, requests=6_000, tasks=5, popularity=0.0, input_tokens=900.0, **_ONE_VERSION
        ),
        "rag_template_reuse": _preset(
            "rag_order", 0.584, chunks_per_prompt=1, chunks=9_000, topics=9_000, chunk_tokens=1_600.0
        ),
        "long_context_mixed": _preset("long_document_qa", 0.761, documents=600, popularity=0.0, depth="uniform"),
        "session_continuation_growth": _preset("chat", 0.902, requests=4_000, turns_mean=16.0),
        "agentic_tool_workflows": _preset(
            "agent_branches", 0.828, workflows=6, system_tokens=2_500, steps_mean=6.0, result_tokens=1_200.0
        ),
        "phase_shift_prompts": _preset(
            "stale_popularity", 0.549, epochs=2, stale_share=0.5, document_tokens=3_000.0, question_tokens=1_800.0
        ),
        "multi_tenant_skew": _preset(
            "shared_system", 0.624, requests=6_000, apps=3, popularity=1.6, system_tokens=250.0
        ),
        "hotset_cold_scan": _preset("recovery", 0.644, pollution_share=1 / 3, hot_during_share=0.0),
        "concurrent_long_generation": _preset(
            "reasoning",
            0.888,
            tasks=12,
            burst=2,
            turns_mean=1.0,
            thinking_tokens=500.0,
            thinking_sigma=0.1,
            answer_tokens=100.0,
            followup_share=0.0,
        ),
        "stochastic_serving_mix": _preset("serving_mix", 0.567, topics=1_500, oneoff_tokens=12_000.0),
        "rolling_template_versions": _preset(
            "few_shot", 0.821, releases=1, canary_share=0.25, rollout_share=0.75, rollback_every=1, **_TEMPLATES
        ),
        "heavy_tailed_prefix_lengths": _preset(
            "long_document_qa", 0.646, depth="pareto", tail_alpha=1.55, documents=800, popularity=0.5
        ),
        "priority_burst_recovery": _preset("recovery", 0.519, **_PRIORITY),
        "priority_one_off_noise": _preset("priority_noise", 0.524),
        "tenant_phase_shift_cycles": _preset("recovery", 0.561, cycles=6, tenants=4, hot_prompts=45),
        "agent_trace_branching": _preset(
            "agent_branches", 0.913, workflows=4, steps_mean=12.0, fork_share=0.0, resume_share=0.0, replan_share=0.09
        ),
        "cyclic_working_set_pressure": _preset("loop", 0.899, growth=17 / 9),
        "adversarial_unique_prompts": _preset("zero_reuse", 0.0),
        "cross_family_mixture": _preset("cross_family", 0.361, requests=4_000, unique_tokens=8_000.0),
        "tenant_session_reentry": _preset(
            "returning_chat", 0.679, tenants=3, turns_mean=1.0, visits_mean=2.5, attachment_share=0.5
        ),
        "stochastic_serving_mix_shifted": _preset(
            "serving_mix", 0.557, regimes="shifted", burst_share=0.7, burst_max=7, topics=1_500, oneoff_tokens=6_500.0
        ),
        "rolling_template_versions_shifted": _preset(
            "few_shot", 0.798, releases=2, canary_share=0.33, rollout_share=0.67, **_TEMPLATES
        ),
        "heavy_tailed_prefix_lengths_shifted": _preset(
            "long_document_qa",
            0.609,
            depth="pareto",
            tail_alpha=1.25,
            pareto_sections=3.0,
            documents=1_800,
            popularity=0.5,
        ),
        "priority_burst_recovery_shifted": _preset(
            "recovery",
            0.402,
            hot_prompts=90,
            hot_during_share=1 / 7,
            scan_tokens=7_000.0,
            medium_share=0.2,
            hot_priority=5,
            medium_priority=2,
        ),
        "cyclic_working_set_pressure_shifted": _preset("loop", 0.869, growth=22 / 12, stride=5, loop_blocks=130_000),
        "priority_one_off_noise_shifted": _preset(
            "priority_noise", 0.263, prompts=170, noise_share=0.6, noise_tokens=7_000.0, noise_priority=6
        ),
        "tenant_phase_shift_cycles_shifted": _preset(
            "recovery", 0.439, requests=4_000, cycles=8, tenants=5, scan_tokens=7_000.0
        ),
        "reasoning_burst": _preset("reasoning", None, burst=3, thinking_tokens=660.0, **_BURSTS),
        "reasoning_burst_shifted": _preset("reasoning", None, burst=4, thinking_tokens=1_500.0, **_BURSTS),
    }
)
