"""Retrieval-augmented prompts by the order of their chunks.

Knows how retrieved chunks are put in order. Must not know conversations or tools.
"""

from __future__ import annotations

import numpy as np

from workloads.synthetic.arguments import begin, choice
from workloads.synthetic.draws import Popularity, length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace

ORDERS = ("fixed", "ranked", "shuffled")


def rag_order(
    seed: int,
    requests: int = 4_000,
    block_tokens: int = 16,
    order: str = "ranked",
    chunks: int = 20_000,
    topics: int = 2_000,
    popularity: float = 0.8,
    chunks_per_prompt: int = 6,
    chunk_tokens: float = 380.0,
    noise: float = 0.5,
    system_tokens: int = 420,
    question_tokens: float = 45.0,
    requests_per_s: float = 2.0,
) -> Trace:
    """The same retrieved chunks in three orders: what a strict prefix loses where chunk sets agree but orders do not.

    Imitates RAG services (RAGPulse: chunk sets recur far more often than prefixes). A question falls on a topic, each
    of whose candidates has a relevance; noise on the relevances decides which are found. One seed gives the same
    arrivals, chunk sets and lengths under every order, so traces differ in the order alone.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        order: "ranked", most relevant first; "fixed", by fame, the same for all prompts; "shuffled", at random, as
            engines that fetch in parallel or place the best at both ends give it.
        chunks: Chunks in the collection.
        topics: Topics; each has twice ``chunks_per_prompt`` candidates, drawn with Zipf exponent 0.5.
        popularity: Zipf exponent of the topics.
        chunks_per_prompt: Chunks in a prompt.
        chunk_tokens: Median tokens of a chunk (lognormal, sigma 0.4, at most 8,000).
        noise: Standard deviation of the noise on a relevance; candidates' relevances are one apart.
        system_tokens: Tokens of the system prompt.
        question_tokens: Median tokens of a question (lognormal, sigma 0.8, at most 8,000).
        requests_per_s: Rate of requests per second, burstiness 1.5.

    Returns:
        The trace, with session and turn (each request its own session). The default has about 280,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    choice("order", order, ORDERS)
    rng, log = begin(rag_order, parameters)
    tree = log.tree
    system = tree.extend(ROOT, system_tokens, "system")
    sizes = lengths(rng, chunk_tokens, 0.4, 8_000, chunks)
    interest, fame = Popularity(topics, popularity), Popularity(chunks, 0.5)
    candidates: dict[int, list[int]] = {}
    for session, at_s in starts(log, requests, steady(rng, requests_per_s, 1.5)):
        topic = interest.draw(rng)
        if topic not in candidates:
            candidates[topic] = list(dict.fromkeys(fame.draw(rng) for _ in range(2 * chunks_per_prompt)))
        relevance = np.arange(len(candidates[topic])) + noise * rng.standard_normal(len(candidates[topic]))
        found = [candidates[topic][place] for place in np.argsort(relevance)[:chunks_per_prompt].tolist()]
        shuffled = rng.permutation(found).tolist()  # drawn under every order, so that the stream is the same
        node = system
        for chunk in {"fixed": sorted(found), "ranked": found, "shuffled": shuffled}[order]:
            node = tree.extend(node, sizes[chunk], chunk)
        node = tree.extend(node, length(rng, question_tokens, 0.8, 8_000))
        log.add(at_s, node, length(rng, 220.0, 0.7, 2_000), session, 0)
    return log.trace("rag_order", requests, parameters)
