"""Programs that call a model: retrieval-augmented answers and tool-using agents.

Knows how such prompts are put together. Must not know human dialogue or adverse patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.synthetic.arguments import begin
from workloads.synthetic.dialogue import OVERHANG
from workloads.synthetic.draws import Popularity, gap_s, length, lengths, turns, wait_s
from workloads.synthetic.prompts import ROOT, RequestLog
from workloads.trace import Trace


def rag(
    seed: int,
    requests: int = 4_000,
    block_tokens: int = 16,
    passages: int = 20_000,
    topics: int = 4_000,
    popularity: float = 0.8,
    passages_per_prompt: int = 5,
    requests_per_s: float = 2.0,
) -> Trace:
    """Retrieval-augmented answers: system prompt, ranked passages, then the question.

    Questions fall on topics of Zipf popularity. A topic has a fixed ranking of passages; each question sees it with
    a little noise (a passage replaced or two swapped), so prefixes agree for a while and then part.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        passages: Passages in the collection (lognormal lengths, median 380 tokens, sigma 0.4).
        topics: Number of topics.
        popularity: Zipf exponent of the topics, and of the passages a topic ranks.
        passages_per_prompt: Passages in a prompt.
        requests_per_s: Rate of requests per second, burstiness 1.5.

    Returns:
        The trace, with session and turn (each request its own session). The default has about 320,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(rag, parameters)
    tree = log.tree
    system = tree.extend(ROOT, 420, "system")
    sizes = lengths(rng, 380.0, 0.4, 2_000, passages)
    interest, fame = Popularity(topics, popularity), Popularity(passages, 0.5)
    rankings: dict[int, list[int]] = {}
    now = 0.0
    for session in range(requests):
        topic = interest.draw(rng)
        if topic not in rankings:
            rankings[topic] = [fame.draw(rng) for _ in range(passages_per_prompt)]
        found = _noisy(rng, rankings[topic], fame)
        node = system
        for passage in found:
            node = tree.extend(node, sizes[passage], passage)
        node = tree.extend(node, length(rng, 45.0, 0.8, 1_000))
        log.add(now, node, length(rng, 220.0, 0.7, 2_000), session, 0)
        now += gap_s(rng, requests_per_s, 1.5)
    return log.trace("rag", requests, parameters)


def _noisy(rng: np.random.Generator, ranking: list[int], fame: Popularity) -> list[int]:
    """Return a topic's ranking as one question sees it: sometimes a passage replaced, sometimes two swapped."""
    found = list(ranking)
    noise = rng.random()
    at = int(rng.integers(0, len(found)))
    if noise < 0.2:
        found[at] = fame.draw(rng)
    elif noise < 0.4:
        found[at], found[at - 1] = found[at - 1], found[at]
    return found


@dataclass(frozen=True)
class _Loop:
    """One agent loop: how long it is and how it grows."""

    steps: int
    call_tokens: float
    result_tokens: float
    tool_s: float
    context_limit: int


def agent(
    seed: int,
    requests: int = 3_000,
    block_tokens: int = 16,
    toolkits: int = 6,
    sessions_per_s: float = 0.02,
    steps_mean: float = 18.0,
    subagent_share: float = 0.04,
    context_limit: int = 60_000,
) -> Trace:
    """Coding-agent tool loops: a long tools-and-system prompt, then call, result, call, result ...

    Short gaps inside a task, long ones between the user's messages, now and then a sub-agent with its own prompt
    (request_type 1), and compaction: at the context limit the history is replaced by a summary.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        toolkits: Variants of the tools-and-system prompt (Zipf exponent 1; median 9,000 tokens, sigma 0.3).
        sessions_per_s: Rate of new sessions per second, burstiness 1.5.
        steps_mean: Mean model calls per task (geometric).
        subagent_share: Chance that a step starts a sub-agent.
        context_limit: Prompt length in tokens at which the history is compacted.

    Returns:
        The trace, with session, turn and request_type. The default has about 210,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(agent, parameters)
    sizes = lengths(rng, 9_000.0, 0.3, 20_000, toolkits)
    systems = [log.tree.extend(ROOT, tokens, ("main", kit)) for kit, tokens in enumerate(sizes)]
    helpers = [log.tree.extend(ROOT, tokens // 2, ("helper", kit)) for kit, tokens in enumerate(sizes)]
    kits = Popularity(toolkits, 1.0)
    now, session = 0.0, 0
    while len(log) < OVERHANG * requests:
        kit = kits.draw(rng)
        at_s, node, turn = now, systems[kit], 0
        for _ in range(turns(rng, 2.5)):  # tasks the user sets, one after another
            node = log.tree.extend(node, length(rng, 120.0, 1.0, 6_000))
            loop = _Loop(turns(rng, steps_mean), 110.0, 420.0, 3.0, context_limit)
            at_s, node, turn = _work(
                log, rng, loop, at_s, node, session, turn, systems[kit], helpers[kit], subagent_share
            )
            at_s += wait_s(rng, 90.0, 1.0)
        now += gap_s(rng, sessions_per_s, 1.5)
        session += 1
    return log.trace("agent", requests, parameters)


def _work(
    log: RequestLog,
    rng: np.random.Generator,
    loop: _Loop,
    at_s: float,
    node: int,
    session: int,
    turn: int,
    system: int,
    helper: int | None,
    subagent_share: float,
) -> tuple[float, int, int]:
    """Add one task's calls to the log; return time, prompt and turn after it. ``helper`` None: a sub-agent itself."""
    tree = log.tree
    for _ in range(loop.steps):
        if tree.tokens(node) > loop.context_limit:
            node = tree.extend(system, length(rng, 1_800.0, 0.4, 6_000))  # compaction: a summary replaces the history
        call = length(rng, loop.call_tokens, 0.9, 4_000)
        log.add(at_s, node, call, session, turn, request_type=0 if helper is not None else 1)
        turn += 1
        at_s += call / DECODE_TOKENS_PER_S + wait_s(rng, loop.tool_s, 1.2)
        node = tree.extend(node, call)
        if helper is not None and rng.random() < subagent_share:
            brief = tree.extend(helper, length(rng, 300.0, 0.6, 3_000))
            inner = _Loop(turns(rng, loop.steps / 2), loop.call_tokens, 600.0, loop.tool_s, loop.context_limit)
            at_s, _, turn = _work(log, rng, inner, at_s, brief, session, turn, helper, None, 0.0)
        node = tree.extend(node, length(rng, loop.result_tokens, 1.2, 16_000))
    return at_s, node, turn
