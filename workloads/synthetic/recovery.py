"""A hot set under pollution: warm, polluted, recovered; with and without priorities.

Knows phases, hot prompts and one-off prompts. Must not know caches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import gap_s, length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.trace import Trace

HOT, SCAN, MEDIUM = range(3)


def recovery(
    seed: int,
    requests: int = 3_000,
    block_tokens: int = 16,
    cycles: int = 1,
    tenants: int = 1,
    hot_prompts: int = 60,
    hot_tokens: float = 4_000.0,
    question_tokens: float = 60.0,
    pollution_share: float = 0.5,
    hot_during_share: float = 0.2,
    scan_tokens: float = 5_000.0,
    medium_share: float = 0.0,
    hot_priority: int = 0,
    medium_priority: int = 0,
    requests_per_s: float = 1.5,
    pollution_factor: float = 3.0,
) -> Trace:
    """A hot set is warmed, swept by one-off prompts, and wanted again; once, or cycle by cycle for another tenant.

    Imitates a backfill or crawler beside interactive traffic: does the hot set survive, and how soon is it back?
    Recency keeps the sweep, frequency and priorities can keep the hot set.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace; cycles have equal shares of them.
        block_tokens: Tokens per block.
        cycles: Times that warming, pollution and recovery are gone through; cycle ``i`` is tenant ``i % tenants``'s.
        tenants: Tenants; each has a prompt of 500 tokens before its hot prompts, and all but the cycle's own are the
            ones that pollute. With one tenant, what pollutes has nothing in common.
        hot_prompts: Hot prompts per tenant, asked in an order drawn anew every round.
        hot_tokens: Median tokens of a hot prompt (lognormal, sigma 0.5, at most 30,000).
        question_tokens: Median tokens after a hot prompt that are new each time (lognormal, sigma 0.7, at most 8,000).
        pollution_share: Share of a cycle that is polluted; warming and recovery have half of the rest each.
        hot_during_share: Share of the requests for the hot set during pollution.
        scan_tokens: Median tokens of a one-off prompt (lognormal, sigma 0.5, at most 30,000).
        medium_share: Share of the requests of the recovery that go to three other prompts.
        hot_priority: Priority of requests for the hot set; one-off prompts have 0.
        medium_priority: Priority of those three prompts.
        requests_per_s: Poisson rate of requests per second.
        pollution_factor: Factor on the rate during pollution.

    Returns:
        The trace, with session, turn (each request its own session), tenant, request_type (0: hot, 1: one-off,
        2: medium) and, if not all are 0, priority. The default has about 430,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(recovery, parameters)
    tree = log.tree
    roots = [tree.extend(ROOT, 500, ("tenant", tenant)) for tenant in range(tenants)]
    sizes = [lengths(rng, hot_tokens, 0.5, 30_000, hot_prompts + 3) for _ in range(tenants)]
    rounds = [_rounds(rng, hot_prompts) for _ in range(tenants)]
    now = 0.0
    for session in range(requests):
        cycle, within = divmod(session * cycles / requests, 1.0)
        active = int(cycle) % tenants
        polluted = abs(within - 0.5) < pollution_share / 2
        kind, tenant = HOT, active
        if polluted and rng.random() >= hot_during_share:
            kind, tenant = SCAN, (active + 1 + session % max(1, tenants - 1)) % tenants
            node = tree.extend(roots[tenant] if tenants > 1 else ROOT, length(rng, scan_tokens, 0.5, 30_000))
        else:
            if within >= 0.5 and not polluted and rng.random() < medium_share:
                kind, prompt = MEDIUM, hot_prompts + int(rng.integers(0, 3))
            else:
                prompt = next(rounds[tenant])
            node = tree.extend(roots[tenant], sizes[tenant][prompt], prompt)
            node = tree.extend(node, length(rng, question_tokens, 0.7, 8_000))
        priority = {HOT: hot_priority, SCAN: 0, MEDIUM: medium_priority}[kind]
        log.add(now, node, length(rng, 180.0, 0.7, 2_000), session, 0, tenant, kind, priority)
        now += gap_s(rng, requests_per_s * (pollution_factor if polluted else 1.0), 1.0)
    return log.trace("recovery", requests, parameters)


def _rounds(rng: np.random.Generator, count: int) -> Iterator[int]:
    """Yield every number below ``count`` once, in random order, again and again."""
    while True:
        yield from rng.permutation(count).tolist()
