"""Traffic of which only lengths were measured.

Knows quantile tables of lengths, and the sharing it assumes beside them. Must not know where the tables come from.
"""

from __future__ import annotations

from math import erf, pi, sin, sqrt

import numpy as np

from workloads.columns import F64, INT32_MAX
from workloads.errors import TraceError
from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, gap_s, lengths
from workloads.synthetic.prompts import ROOT
from workloads.trace import Trace

_INPUT = {"p": [0.0, 0.5, 0.9, 0.99, 1.0], "tokens": [16.0, 1_000.0, 3_000.0, 8_000.0, 16_000.0]}
_OUTPUT = {"p": [0.0, 0.5, 0.9, 0.99, 1.0], "tokens": [1.0, 130.0, 420.0, 800.0, 2_000.0]}


def measured_lengths(
    seed: int,
    requests: int = 5_000,
    block_tokens: int = 16,
    input_tokens: dict[str, list[float]] | None = None,
    output_tokens: dict[str, list[float]] | None = None,
    correlation: float = 0.0,
    apps: int = 20,
    popularity: float = 1.0,
    system_share: float = 0.3,
    requests_per_s: float = 5.0,
) -> Trace:
    """Independent requests with measured lengths; what they share is assumed: system prompts of a few apps.

    A request begins with its app's system prompt if it is longer than that, else it shares nothing; the rest is new.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        input_tokens: Quantile table of prompt lengths, as ``workloads.lengths.fit_lengths`` makes it: ``p`` from 0 to
            1, ascending, and ``tokens`` at them, linear in between. Default: median 1,000, at most 16,000.
        output_tokens: The same of generated tokens. Default: median 130, at most 2,000.
        correlation: Rank correlation of both lengths, from -1 to 1 (Gaussian copula).
        apps: Number of apps.
        popularity: Zipf exponent of the apps.
        system_share: System prompt's share of the median prompt (lognormal, sigma 0.5); 0: nothing is shared.
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session and turn (each request its own session) and tenant (the app). The default has about
        430,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(measured_lengths, {key: value for key, value in parameters.items() if key != "correlation"})
    inputs = _table("input_tokens", _INPUT if input_tokens is None else input_tokens)
    outputs = _table("output_tokens", _OUTPUT if output_tokens is None else output_tokens)
    one, two = _pair(rng, correlation, requests)
    prompts, replies = (
        np.rint(np.interp(u, *table)).astype(int).tolist() for u, table in ((one, inputs), (two, outputs))
    )
    median = float(np.interp(0.5, *inputs)) * system_share
    sizes = lengths(rng, median, 0.5, INT32_MAX, apps) if median > 0 else [0] * apps
    ranks = Popularity(apps, popularity)
    now = 0.0
    for session, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        app = ranks.draw(rng)
        node = log.tree.extend(ROOT, sizes[app], app) if 0 < sizes[app] < prompt else ROOT
        node = log.tree.extend(node, prompt - log.tree.tokens(node))
        log.add(now, node, reply, session, 0, tenant=app)
        now += gap_s(rng, requests_per_s, 1.0)
    return log.trace("measured_lengths", requests, parameters)


def _pair(rng: np.random.Generator, correlation: float, count: int) -> tuple[F64, F64]:
    """Draw two uniform columns of a rank correlation.

    Raises:
        TraceError: it is none.
    """
    if type(correlation) not in (int, float) or not -1 <= correlation <= 1:
        raise TraceError(f"correlation: expected a number from -1 to 1, got {correlation!r}", field="correlation")
    rho = 2 * sin(pi / 6 * correlation)
    first, second = rng.standard_normal((2, count))
    second = rho * first + sqrt(max(1 - rho**2, 0.0)) * second
    below = [np.array([0.5 * (1 + erf(z / sqrt(2))) for z in column.tolist()]) for column in (first, second)]
    return below[0], below[1]


def _table(name: str, table: dict[str, list[float]]) -> tuple[F64, F64]:
    """Return probabilities and tokens of a quantile table.

    Raises:
        TraceError: it is none.
    """
    try:
        p, tokens = (np.array(table[key], np.float64) for key in ("p", "tokens"))
        usable = len(table) == 2 and p.ndim == 1 and p.shape == tokens.shape and len(p) >= 2
    except (KeyError, TypeError, ValueError):
        usable = False
    if usable:
        usable = p[0] == 0 and p[-1] == 1 and bool((np.diff(p) > 0).all() and (np.diff(tokens) >= 0).all())
        usable = usable and tokens[0] >= 0 and tokens[-1] <= INT32_MAX
    if not usable:
        raise TraceError(
            f"{name}: expected a quantile table: p ascending from 0 to 1, tokens not decreasing from 0 up, as many, got"
            f" {str(table)[:80]}",
            field=name,
        )
    return p, tokens
