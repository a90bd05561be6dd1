"""Traffic that hurts caches: scans, shifting hot sets, and no re-use at all.

Knows such patterns. Must not know caches or policies.
"""

from __future__ import annotations

import numpy as np

from workloads.synthetic.arguments import begin
from workloads.synthetic.dialogue import OVERHANG, Style, converse
from workloads.synthetic.draws import Popularity, gap_s, length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.trace import Trace


def scan(
    seed: int,
    requests: int = 4_000,
    block_tokens: int = 16,
    scan_share: float = 0.3,
    scan_length: int = 60,
    document_tokens: float = 6_000.0,
    sessions_per_s: float = 0.4,
) -> Trace:
    """Chat traffic, swept again and again by batch jobs that read many long documents once each.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        scan_share: Share of the requests that belong to scans.
        scan_length: Documents per scan, read at about 4 per second.
        document_tokens: Median tokens of a document (lognormal, sigma 0.5, at most 30,000).
        sessions_per_s: Rate of new chat sessions per second.

    Returns:
        The trace, with session, turn and request_type (1: scan). The default has about 700,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(scan, parameters)
    system = log.tree.extend(ROOT, 350, "system")
    job = log.tree.extend(ROOT, 600, "job")
    now, session = 0.0, 0
    scanned = 0
    while len(log) < OVERHANG * requests:
        converse(log, rng, Style(), now, system, session)
        session += 1
        now += gap_s(rng, sessions_per_s, 1.5)
        if scanned < scan_share * len(log):
            at_s = now
            for turn in range(scan_length):
                node = log.tree.extend(job, length(rng, document_tokens, 0.5, 30_000))
                log.add(at_s, node, length(rng, 150.0, 0.5, 1_000), session, turn, request_type=1)
                at_s += gap_s(rng, 4.0, 1.0)
            scanned += scan_length
            session += 1
    return log.trace("scan", requests, parameters)


def phase_shift(
    seed: int,
    requests: int = 6_000,
    block_tokens: int = 16,
    phases: int = 4,
    documents: int = 150,
    popularity: float = 0.8,
    requests_per_s: float = 3.0,
) -> Trace:
    """Questions on a hot set of long documents that changes from phase to phase; the last brings the first one back.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace, spread evenly over the phases.
        block_tokens: Tokens per block.
        phases: Number of phases.
        documents: Documents in a phase's hot set (lognormal, median 4,000 tokens, sigma 0.6).
        popularity: Zipf exponent of the documents within a phase.
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session, turn and tenant (the hot set). The default has about 160,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(phase_shift, parameters)
    system = log.tree.extend(ROOT, 300, "system")
    sizes = [lengths(rng, 4_000.0, 0.6, 30_000, documents) for _ in range(phases)]
    ranks = Popularity(documents, popularity)
    now = 0.0
    for session in range(requests):
        phase = session * phases // requests
        hot = 0 if phases > 1 and phase == phases - 1 else phase
        document = ranks.draw(rng)
        node = log.tree.extend(system, sizes[hot][document], (hot, document))
        node = log.tree.extend(node, length(rng, 70.0, 0.8, 2_000))
        log.add(now, node, length(rng, 200.0, 0.7, 2_000), session, 0, tenant=hot)
        now += gap_s(rng, requests_per_s, 1.0)
    return log.trace("phase_shift", requests, parameters)


def zero_reuse(
    seed: int,
    requests: int = 2_000,
    block_tokens: int = 16,
    prompt_tokens: float = 2_000.0,
    requests_per_s: float = 2.0,
) -> Trace:
    """The control: every prompt is new from its first token, so no policy can hit anything.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        prompt_tokens: Median tokens of a prompt (lognormal, sigma 0.8, at most 30,000).
        requests_per_s: Poisson rate of requests per second.

    Returns:
        The trace, with session and turn. The default has about 340,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(zero_reuse, parameters)
    arrivals = np.cumsum(rng.exponential(1.0 / requests_per_s, requests)).tolist()
    for session, tokens in enumerate(lengths(rng, prompt_tokens, 0.8, 30_000, requests)):
        node = log.tree.extend(ROOT, tokens)
        log.add(arrivals[session], node, length(rng, 200.0, 0.7, 2_000), session, 0)
    return log.trace("zero_reuse", requests, parameters)
