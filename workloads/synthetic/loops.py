"""Killers of recency and of frequency: loops just over capacity, and popularity gone stale.

Knows such access orders. Must not know caches or policies.
"""

from __future__ import annotations

from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace


def loop(
    seed: int,
    requests: int = 4_000,
    block_tokens: int = 16,
    loop_blocks: int = 100_000,
    growth: float = 1.0,
    stride: int = 1,
    prompt_tokens: float = 6_000.0,
    root_tokens: int = 160,
    question_tokens: float = 40.0,
    requests_per_s: float = 2.0,
) -> Trace:
    """Prompts read round and round: the killer of LRU at every capacity below ``loop_blocks``.

    Imitates evaluation suites run again and again, polling agents, cron jobs over a fixed set of documents. At 90% of
    ``loop_blocks`` LRU hits next to nothing beyond the root, the optimum nine tenths of what an infinite cache does.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        loop_blocks: Distinct blocks of a round, rounded up to whole prompts, questions not counted.
        growth: Factor on the blocks of a round in the second half of the requests; 1 leaves the loop as it is.
        stride: Prompts from one request to the next, in a round of all; 1 reads them in turn.
        prompt_tokens: Median tokens of a prompt (lognormal, sigma 0.3, at most 120,000).
        root_tokens: Tokens all prompts begin with.
        question_tokens: Median tokens after a prompt that are new each time (lognormal, sigma 0.5, at most 2,000).
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session (prompt), turn (round) and request_type (0: first half, 1: second). The default has
        about 112,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(loop, parameters)
    root = log.tree.extend(ROOT, root_tokens, "root")
    prompts: list[int] = []
    rounds = []
    drawn = 0
    for wanted in sorted((1.0, growth)):
        while drawn < wanted * loop_blocks * block_tokens:
            prompts.append(log.tree.extend(root, length(rng, prompt_tokens, 0.3, 120_000), len(prompts)))
            drawn += log.tree.tokens(prompts[-1]) - root_tokens
        rounds.append(_round(len(prompts), stride))
    if growth < 1.0:
        rounds.reverse()
    turns = [0] * len(prompts)
    for number, at_s in starts(log, requests, steady(rng, requests_per_s)):
        late = int(2 * number >= requests)
        prompt = rounds[late][number % len(rounds[late])]
        node = log.tree.extend(prompts[prompt], length(rng, question_tokens, 0.5, 2_000))
        log.add(at_s, node, length(rng, 70.0, 0.7, 2_000), prompt, turns[prompt], request_type=late)
        turns[prompt] += 1
    return log.trace("loop", requests, parameters)


def _round(count: int, stride: int) -> list[int]:
    """Return the numbers below ``count``, each once, ``stride`` apart."""
    return [place for first in range(min(stride, count)) for place in range(first, count, stride)]


def stale_popularity(
    seed: int,
    requests: int = 6_000,
    block_tokens: int = 16,
    epochs: int = 6,
    stale_share: float = 0.4,
    documents: int = 90,
    popularity: float = 0.4,
    document_tokens: float = 4_000.0,
    question_tokens: float = 60.0,
    requests_per_s: float = 3.0,
) -> Trace:
    """Documents that were asked for very often, and never again: the killer of LFU without aging.

    Imitates yesterday's campaign, incident or release notes. Documents of the first epoch gather so many uses that
    counts keep them for the rest of the trace, while each later epoch has a hot set of its own, of the same size.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        epochs: Hot sets, one after another; nothing of an earlier one comes back.
        stale_share: Share of the requests in the first epoch; the others have equal parts of the rest.
        documents: Documents per epoch.
        popularity: Zipf exponent of the documents within an epoch.
        document_tokens: Median tokens of a document (lognormal, sigma 0.5, at most 30,000).
        question_tokens: Median tokens after a document that are new each time (lognormal, sigma 0.7, at most 8,000).
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session, turn (each request its own session) and request_type (epoch). The default has about
        180,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(stale_popularity, parameters)
    sizes = [lengths(rng, document_tokens, 0.5, 30_000, documents) for _ in range(epochs)]
    ranks = Popularity(documents, popularity)
    first = round(stale_share * requests) if epochs > 1 else requests
    for session, at_s in starts(log, requests, steady(rng, requests_per_s)):
        epoch = 0
        if session >= first:
            epoch = min(epochs - 1, 1 + (session - first) * (epochs - 1) // max(1, requests - first))
        document = ranks.draw(rng)
        node = log.tree.extend(ROOT, sizes[epoch][document], (epoch, document))
        node = log.tree.extend(node, length(rng, question_tokens, 0.7, 8_000))
        log.add(at_s, node, length(rng, 180.0, 0.7, 2_000), session, 0, request_type=epoch)
    return log.trace("stale_popularity", requests, parameters)
