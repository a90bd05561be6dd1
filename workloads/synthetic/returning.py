"""People who come back: conversations continued after a pause, the same evening or days later.

Knows return times. Must not know tool loops or adverse patterns.
"""

from __future__ import annotations

import numpy as np

from workloads.synthetic.arguments import begin
from workloads.synthetic.dialogue import Style, converse
from workloads.synthetic.draws import Popularity, lengths, turns
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import DAY_S, starts, steady
from workloads.trace import Trace


def returning_chat(
    seed: int,
    requests: int = 6_000,
    block_tokens: int = 16,
    sessions_per_s: float = 0.004,
    turns_mean: float = 3.5,
    visits_mean: float = 2.2,
    think_s: float = 45.0,
    pause_s: float = 2_400.0,
    day_share: float = 0.35,
    tenants: int = 4,
    popularity: float = 0.8,
    system_tokens: float = 900.0,
    attachment_share: float = 0.12,
) -> Trace:
    """Multi-turn chat whose users come back: the whole old conversation is the prefix of the next message.

    Imitates consumer assistants, where a turn follows the last one after under a minute, after a pause, or on another
    day. The time to the next turn is a mixture: within a visit lognormal (median ``think_s``, sigma 1); between visits
    either a Weibull pause (shape 0.7) or a few days (geometric, mean 1.6) give or take 2 h. The figures are ours.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        sessions_per_s: Poisson rate of new conversations per second.
        turns_mean: Mean turns per visit (geometric).
        visits_mean: Mean visits per conversation (geometric).
        think_s: Median think time within a visit in seconds.
        pause_s: Scale of the Weibull pause in seconds.
        day_share: Share of the returns that come days later.
        tenants: Products with their own system prompt.
        popularity: Zipf exponent of the tenants.
        system_tokens: Median tokens of a system prompt (lognormal, sigma 0.5, at most 12,000).
        attachment_share: Share of messages with a pasted document (lognormal, median 2,500 tokens, sigma 0.8).

    Returns:
        The trace, with session (conversation), turn and tenant (product). The default covers about three days and has
        about 300,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(returning_chat, parameters)
    sizes = lengths(rng, system_tokens, 0.5, 12_000, tenants)
    prompts = [log.tree.extend(ROOT, tokens, tenant) for tenant, tokens in enumerate(sizes)]
    ranks = Popularity(tenants, popularity)
    style = Style(turns_mean=turns_mean, think_s=think_s, attachment_share=attachment_share)
    for session, at_s in starts(log, requests, steady(rng, sessions_per_s)):
        tenant = ranks.draw(rng)
        node, turn = prompts[tenant], 0
        for _ in range(turns(rng, visits_mean)):
            at_s, node, turn = converse(log, rng, style, at_s, node, session, tenant, first_turn=turn)
            at_s += _away_s(rng, pause_s, day_share)
    return log.trace("returning_chat", requests, parameters)


def _away_s(rng: np.random.Generator, pause_s: float, day_share: float) -> float:
    """Draw the seconds until somebody who left comes back."""
    if rng.random() >= day_share:
        return pause_s * float(rng.weibull(0.7))
    return DAY_S * int(rng.geometric(1 / 1.6)) + float(np.clip(rng.normal(0.0, 7_200.0), -36_000.0, 36_000.0))
