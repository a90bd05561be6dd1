"""Priorities that mislead: important requests that never come back.

Knows requests with priorities. Must not know what a policy makes of them.
"""

from __future__ import annotations

from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace


def priority_noise(
    seed: int,
    requests: int = 3_000,
    block_tokens: int = 16,
    prompts: int = 120,
    popularity: float = 0.4,
    prompt_tokens: float = 4_000.0,
    question_tokens: float = 60.0,
    noise_share: float = 0.4,
    noise_tokens: float = 5_000.0,
    root_tokens: int = 300,
    noise_priority: int = 4,
    requests_per_s: float = 2.0,
) -> Trace:
    """Prompts that recur at priority 0 among one-off prompts of high priority: what is important is not what is reused.

    Imitates paid interactive traffic with contexts of its own beside cheap jobs on a common set of prompts. A policy
    that keeps what has priority keeps what is dead.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        prompts: Prompts that recur.
        popularity: Zipf exponent of these prompts.
        prompt_tokens: Median tokens of such a prompt (lognormal, sigma 0.5, at most 30,000).
        question_tokens: Median tokens after it that are new each time (lognormal, sigma 0.7, at most 8,000).
        noise_share: Share of the requests that are one-off.
        noise_tokens: Median tokens of a one-off prompt (lognormal, sigma 0.5, at most 30,000).
        root_tokens: Tokens that each of the two kinds has in common.
        noise_priority: Priority of one-off requests; the others have 0.
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session, turn (each request its own session), request_type (0: recurring, 1: one-off) and
        priority. The default has about 460,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(priority_noise, parameters)
    normal, important = (log.tree.extend(ROOT, root_tokens, kind) for kind in ("normal", "important"))
    sizes = lengths(rng, prompt_tokens, 0.5, 30_000, prompts)
    ranks = Popularity(prompts, popularity)
    for session, at_s in starts(log, requests, steady(rng, requests_per_s)):
        noise = rng.random() < noise_share
        if noise:
            node = log.tree.extend(important, length(rng, noise_tokens, 0.5, 30_000))
        else:
            prompt = ranks.draw(rng)
            node = log.tree.extend(normal, sizes[prompt], prompt)
            node = log.tree.extend(node, length(rng, question_tokens, 0.7, 8_000))
        output = length(rng, 240.0 if noise else 90.0, 0.6, 2_000)
        log.add(at_s, node, output, session, 0, 0, int(noise), noise_priority if noise else 0)
    return log.trace("priority_noise", requests, parameters)
