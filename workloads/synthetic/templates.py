"""Few-shot templates that change: roll-outs of versions, and ids that make every prefix die.

Knows prompt templates and their versions. Must not know conversations.
"""

from __future__ import annotations

from collections.abc import Hashable

from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace


def few_shot(
    seed: int,
    requests: int = 8_000,
    block_tokens: int = 16,
    tasks: int = 60,
    popularity: float = 0.7,
    root_tokens: int = 700,
    version_tokens: float = 1_800.0,
    task_tokens: float = 1_200.0,
    input_tokens: float = 220.0,
    releases: int = 3,
    canary_share: float = 0.05,
    rollout_share: float = 0.5,
    rollback_every: int = 3,
    leftover_share: float = 0.2,
    new_root_every: int = 2,
    requests_per_s: float = 6.0,
) -> Trace:
    """Few-shot prompts whose template is released in versions: canary, roll-out, then settled or rolled back.

    Imitates prompt management of production pipelines. A prompt is root, version instructions, the task's examples,
    then the input. A new version makes all tasks' prompts new at once; both versions are hot while it rolls out, and a
    rolled-back one leaves its predecessor hot again.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace; ``1 + 3 * releases`` phases have equal shares of them.
        block_tokens: Tokens per block.
        tasks: Tasks, each with examples of its own.
        popularity: Zipf exponent of the tasks.
        root_tokens: Tokens of the root, common to versions until one changes it.
        version_tokens: Median tokens of a version's instructions (lognormal, sigma 0.3, at most 12,000).
        task_tokens: Median tokens of a task's examples (lognormal, sigma 0.6, at most 12,000).
        input_tokens: Median tokens of an input (lognormal, sigma 0.8, at most 8,000).
        releases: New versions.
        canary_share: Share of the requests on the new version in its first phase.
        rollout_share: The same in its second phase.
        rollback_every: Every so many releases are rolled back in the third phase; the others settle: all requests.
        leftover_share: Share of the requests still on a version that is rolled back.
        new_root_every: Every so many releases change the root too.
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session and turn (each request its own session), tenant (task) and request_type (version). The
        default has about 170,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(few_shot, parameters)
    versions = lengths(rng, version_tokens, 0.3, 12_000, releases + 1)
    examples = lengths(rng, task_tokens, 0.6, 12_000, tasks)
    phases = _phases(releases, (canary_share, rollout_share, leftover_share), rollback_every)
    ranks = Popularity(tasks, popularity)
    for session, at_s in starts(log, requests, steady(rng, requests_per_s)):
        old, new, share = phases[session * len(phases) // requests]
        version = new if rng.random() < share else old
        task = ranks.draw(rng)
        node = log.tree.extend(ROOT, root_tokens, ("root", version // new_root_every))
        node = log.tree.extend(node, versions[version], ("version", version))
        node = log.tree.extend(node, examples[task], ("task", task))
        node = log.tree.extend(node, length(rng, input_tokens, 0.8, 8_000))
        log.add(at_s, node, length(rng, 90.0, 0.8, 2_000), session, 0, task, version)
    return log.trace("few_shot", requests, parameters)


def _phases(releases: int, shares: tuple[float, float, float], rollback_every: int) -> list[tuple[int, int, float]]:
    """Return (old version, new version, share of the new one) of each phase."""
    canary, rollout, leftover = shares
    live, phases = 0, [(0, 0, 0.0)]
    for release in range(1, releases + 1):
        back = release % rollback_every == 0
        phases += [(live, release, canary), (live, release, rollout), (live, release, leftover if back else 1.0)]
        live = live if back else release
    return phases


def id_churn(
    seed: int,
    requests: int = 8_000,
    block_tokens: int = 16,
    templates: int = 40,
    popularity: float = 0.8,
    template_tokens: float = 2_500.0,
    stable_share: float = 0.02,
    lifetime_s: float = 300.0,
    input_tokens: float = 200.0,
    requests_per_s: float = 5.0,
) -> Trace:
    """Templates with an id near their head that changes now and then, so that every prefix after it dies.

    Imitates prompts with the time, a build number or a reordered tool list near the top: the text is the same, the
    chain is not. What was popular never comes back under its old id, so counts of past uses only mislead.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        templates: Number of templates.
        popularity: Zipf exponent of the templates.
        template_tokens: Median tokens of a template (lognormal, sigma 0.6, at most 16,000).
        stable_share: Share of a template before the id.
        lifetime_s: Seconds an id lives; templates change at different times.
        input_tokens: Median tokens of an input (lognormal, sigma 0.8, at most 8,000).
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session and turn (each request its own session), tenant (template) and request_type (how often
        its id has changed). The default has about 180,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(id_churn, parameters)
    sizes = lengths(rng, template_tokens, 0.6, 16_000, templates)
    offsets_s = (lifetime_s * rng.random(templates)).tolist()
    ranks = Popularity(templates, popularity)
    for session, at_s in starts(log, requests, steady(rng, requests_per_s)):
        template = ranks.draw(rng)
        age = int((at_s + offsets_s[template]) // lifetime_s)
        stable = int(stable_share * sizes[template])
        key: Hashable = ("stable", template)
        node = log.tree.extend(log.tree.extend(ROOT, stable, key), sizes[template] - stable, age)
        node = log.tree.extend(node, length(rng, input_tokens, 0.8, 8_000))
        log.add(at_s, node, length(rng, 120.0, 0.8, 2_000), session, 0, template, age)
    return log.trace("id_churn", requests, parameters)
