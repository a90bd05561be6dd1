"""Chat over a day: rates between trough and peak, clients of very different weight, bursts.

Knows daily rates. Must not know what else a server does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from workloads.synthetic.arguments import begin, choice
from workloads.synthetic.dialogue import Style, converse
from workloads.synthetic.draws import Popularity, lengths, turns, wait_s
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import DAY_S, Day, starts
from workloads.trace import Trace

SERVEGEN: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "m-large": (583.0 / 195.8, 48.4 / 195.8),
        "m-mid": (3_444.8 / 1_867.9, 0.9 / 1_867.9),
        "m-small": (3_879.5 / 1_196.4, 391.3 / 1_196.4),
        "mm-image": (13.3 / 9.5, 4.9 / 9.5),
        "deepseek-r1": (42.5 / 16.0, 4.3 / 16.0),
    }
)
"""Peak and trough of the request rate over its mean, by workload of alibaba/ServeGen @ f891d11, windows of 600 s (Xiang
et al., arXiv 2505.09999). The first three are over 14 days, so single spikes and outages are among them."""


def diurnal(
    seed: int,
    requests: int = 8_000,
    block_tokens: int = 16,
    shape: str = "deepseek-r1",
    hours: float = 24.0,
    clients: int = 40,
    popularity: float = 1.2,
    burstiness: float = 2.0,
    burst_mean: float = 2.0,
    turns_mean: float = 3.0,
    system_tokens: float = 1_200.0,
) -> Trace:
    """A day of chat from many clients, few of which send most: the rate follows the sun and comes in bursts.

    Imitates the rate shapes of ServeGen; the curve is a power of a raised cosine with the published peak and trough,
    highest at hour 14, and the trace starts at midnight. At night caches outlive sessions, at the peak they do not.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        shape: Which rates: "m-large", "m-mid", "m-small", "mm-image" or "deepseek-r1".
        hours: Time over which the requests are spread, about.
        clients: Clients, each with a system prompt of its own.
        popularity: Zipf exponent of the clients' rates.
        burstiness: Coefficient of variation of the time between bursts, on the day's clock; 1 is Poisson.
        burst_mean: Mean sessions a client opens in a row, a few seconds apart (geometric).
        turns_mean: Mean turns per session (geometric).
        system_tokens: Median tokens of a client's system prompt (lognormal, sigma 0.9, at most 20,000).

    Returns:
        The trace, with session, turn and tenant (client). The default has about 310,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    choice("shape", shape, SERVEGEN)
    rng, log = begin(diurnal, parameters)
    sizes = lengths(rng, system_tokens, 0.9, 20_000, clients)
    prompts = [log.tree.extend(ROOT, tokens, client) for client, tokens in enumerate(sizes)]
    ranks = Popularity(clients, popularity)
    style = Style(turns_mean=turns_mean)
    bursts_per_s = requests / (burst_mean * turns_mean * hours / 24.0 * DAY_S)
    session = 0
    for _, at_s in starts(log, requests, Day(*SERVEGEN[shape]).gaps(rng, bursts_per_s, burstiness)):
        client = ranks.draw(rng)
        for _ in range(turns(rng, burst_mean)):
            converse(log, rng, style, at_s, prompts[client], session, client)
            at_s += wait_s(rng, 2.0, 1.0)
            session += 1
    return log.trace("diurnal", requests, parameters)
