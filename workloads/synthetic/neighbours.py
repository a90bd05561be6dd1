"""Tenants who disturb each other.

Knows quiet tenants and a noisy one. Must not know how a cache shares its space.
"""

from __future__ import annotations

from workloads.synthetic.arguments import begin
from workloads.synthetic.dialogue import Style, converse
from workloads.synthetic.draws import Popularity, length, lengths, stream
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace

_QUIET = Style(turns_mean=5.0, think_s=30.0, user_tokens=80.0)


def noisy_neighbour(
    seed: int,
    requests: int = 5_000,
    block_tokens: int = 16,
    quiet_tenants: int = 8,
    popularity: float = 0.6,
    noisy_share: float = 0.35,
    system_tokens: float = 2_500.0,
    sessions_per_s: float = 0.25,
    flood: int = 150,
    flood_per_s: float = 2.5,
    document_tokens: float = 5_000.0,
) -> Trace:
    """Quiet chat tenants beside one that floods the cache with long one-off documents, again and again.

    Imitates a shared endpoint on which one customer runs its backlog. The quiet tenants' traffic is the same for every
    ``noisy_share``, so what the neighbour costs them is the difference between two traces of one seed.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        quiet_tenants: Tenants beside the noisy one, which is number 0.
        popularity: Zipf exponent of the quiet tenants' rates.
        noisy_share: Share of the requests that are the noisy tenant's; 0 takes it away.
        system_tokens: Median tokens of a tenant's system prompt (lognormal, sigma 0.6, at most 16,000).
        sessions_per_s: Poisson rate of new quiet sessions per second.
        flood: Requests per flood.
        flood_per_s: Poisson rate of requests per second within a flood.
        document_tokens: Median tokens of a flood's documents (lognormal, sigma 0.5, at most 30,000).

    Returns:
        The trace, with session, turn, tenant and request_type (0: quiet, 1: flood). The default has about 820,000
        distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(noisy_neighbour, parameters)
    noise = stream("noisy_neighbour/flood", seed)
    sizes = lengths(rng, system_tokens, 0.6, 16_000, quiet_tenants + 1)
    prompts = [log.tree.extend(ROOT, tokens, tenant) for tenant, tokens in enumerate(sizes)]
    ranks = Popularity(quiet_tenants, popularity)
    flooded = 0
    for session, at_s in starts(log, requests, steady(rng, sessions_per_s)):
        tenant = 1 + ranks.draw(rng)
        converse(log, rng, _QUIET, at_s, prompts[tenant], 2 * session, tenant)
        if flooded < noisy_share * len(log):
            for turn in range(flood):
                node = log.tree.extend(prompts[0], length(noise, document_tokens, 0.5, 30_000))
                log.add(at_s, node, length(noise, 150.0, 0.5, 1_000), 2 * session + 1, turn, 0, 1)
                at_s += float(noise.exponential(1.0 / flood_per_s))
            flooded += flood
    return log.trace("noisy_neighbour", requests, parameters)
