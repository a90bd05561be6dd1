"""Mixed traffic: sources that share a server, and families one after another.

Knows how sources alternate. Must not know more about a source than how one of its sessions is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from workloads import combine
from workloads.synthetic.adverse import zero_reuse
from workloads.synthetic.agents import Agent, note, work
from workloads.synthetic.arguments import begin, choice
from workloads.synthetic.dialogue import Style, converse, shared_system
from workloads.synthetic.draws import Popularity, length
from workloads.synthetic.loops import stale_popularity
from workloads.synthetic.prompts import ROOT, RequestLog
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace

SOURCES = ("chat", "rag", "agent", "long", "oneoff")
REGIMES: Mapping[str, tuple[tuple[float, ...], ...]] = MappingProxyType(
    {
        "even": ((0.45, 0.25, 0.15, 0.10, 0.05), (0.15, 0.20, 0.35, 0.20, 0.10), (0.25, 0.15, 0.10, 0.15, 0.35)),
        "shifted": ((0.20, 0.15, 0.35, 0.20, 0.10), (0.10, 0.10, 0.25, 0.35, 0.20), (0.10, 0.10, 0.15, 0.20, 0.45)),
    }
)
"""Share of the requests by source in each third of the trace; those of prefix-cache-evolve @ 28f399f."""

_PER_SESSION = (4.0, 1.0, 12.0, 1.0, 1.0)  # mean requests per session of each source


def serving_mix(
    seed: int,
    requests: int = 4_000,
    block_tokens: int = 16,
    regimes: str = "even",
    burst_share: float = 0.55,
    burst_max: int = 5,
    sessions_per_s: float = 0.6,
    burstiness: float = 1.5,
    topics: int = 300,
    oneoff_tokens: float = 3_000.0,
) -> Trace:
    """Five kinds of traffic on one server, in proportions that change twice, each in bursts of its own.

    Imitates a general endpoint: chat, RAG (one of ``topics`` contexts and a question), coding agents, short questions
    with long answers, and one-off prompts. The figures of the sources are ours.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        regimes: Proportions in each third: "even", or "shifted" to agents, long answers and one-off prompts.
        burst_share: Chance that a session brings more of its source right after it.
        burst_max: Most sessions of such a burst.
        sessions_per_s: Rate of bursts and single sessions per second.
        burstiness: Coefficient of variation of the time between them.
        topics: Contexts of the RAG source (Zipf exponent 0.8).
        oneoff_tokens: Median tokens of a one-off prompt (lognormal, sigma 0.7, at most 30,000).

    Returns:
        The trace, with session, turn, tenant and request_type (both the source: 0 chat, 1 RAG, 2 agent, 3 long answer,
        4 one-off). The default has about 320,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    choice("regimes", regimes, REGIMES)
    rng, log = begin(serving_mix, parameters)
    add = _sources(log, rng, topics, oneoff_tokens)
    chances = [np.cumsum(np.array(thirds) / _PER_SESSION) for thirds in REGIMES[regimes]]
    session = 0
    for _, at_s in starts(log, requests, steady(rng, sessions_per_s, burstiness)):
        chance = chances[min(2, 3 * len(log) // requests)]
        source = int(np.searchsorted(chance, rng.random() * chance[-1], side="right"))
        count = int(rng.integers(2, max(3, burst_max + 1))) if rng.random() < burst_share else 1
        for _ in range(min(count, burst_max)):
            add[source](at_s, session)
            at_s += float(rng.exponential(0.5))
            session += 1
    return log.trace("serving_mix", requests, parameters)


def _sources(
    log: RequestLog, rng: np.random.Generator, topics: int, oneoff_tokens: float
) -> tuple[Callable[[float, int], None], ...]:
    """Return, per source, what adds one session: called with its start in seconds and its number."""
    tree = log.tree
    chat, rag, system, long = (
        tree.extend(ROOT, tokens, name)
        for name, tokens in (("chat", 600), ("rag", 500), ("agent", 6_000), ("long", 900))
    )
    agent = Agent(system, (), _PER_SESSION[2], 0.2, 0.0, 1.0, 24_000)
    sizes, interest = np.clip(rng.lognormal(7.6, 0.4, topics), 1, 8_000).astype(int).tolist(), Popularity(topics, 0.8)

    def talk(at_s: float, session: int) -> None:
        converse(log, rng, Style(turns_mean=_PER_SESSION[0]), at_s, chat, session)

    def answer(at_s: float, session: int) -> None:
        topic = interest.draw(rng)
        node = tree.extend(tree.extend(rag, sizes[topic], topic), length(rng, 50.0, 0.8, 1_000))
        log.add(at_s, node, length(rng, 220.0, 0.7, 2_000), session, 0, 1, 1)

    def loop(at_s: float, session: int) -> None:
        calls, _, _ = work(tree, rng, agent, at_s, tree.extend(system, length(rng, 120.0, 1.0, 6_000)))
        note(log, calls, session, 2, 2)

    def write(at_s: float, session: int) -> None:
        node = tree.extend(long, length(rng, 250.0, 0.8, 8_000))
        log.add(at_s, node, length(rng, 2_000.0, 0.6, 16_000), session, 0, 3, 3)

    def once(at_s: float, session: int) -> None:
        node = tree.extend(ROOT, length(rng, oneoff_tokens, 0.7, 30_000))
        log.add(at_s, node, length(rng, 120.0, 0.7, 2_000), session, 0, 4, 4)

    return talk, answer, loop, write, once


def cross_family(
    seed: int,
    requests: int = 6_000,
    block_tokens: int = 16,
    apps: int = 40,
    documents: int = 60,
    unique_tokens: float = 2_000.0,
) -> Trace:
    """Three families one after another: apps with system prompts, a hot set that shifts, then nothing but new prompts.

    Imitates nothing; it asks whether a policy tuned on one pattern lets go of it.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace, a third each (at least 1).
        block_tokens: Tokens per block.
        apps: Apps of the first third (:func:`shared_system`).
        documents: Documents in each of the two hot sets of the second third (:func:`stale_popularity`).
        unique_tokens: Median tokens of the prompts of the last third (:func:`zero_reuse`).

    Returns:
        The trace, with session, turn, tenant (app; -1 after the first third) and request_type (hot set of the second
        third, -1 elsewhere). The default has about 410,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    begin(cross_family, parameters)
    third = max(1, requests // 3)
    parts = [
        shared_system(seed, third, block_tokens, apps=apps),
        stale_popularity(seed, third, block_tokens, epochs=2, stale_share=0.5, documents=documents),
        zero_reuse(seed, max(1, requests - 2 * third), block_tokens, unique_tokens),
    ]
    whole = combine.concat(parts[: min(3, requests)], f"cross_family-seed{seed}", 1.0)
    source: dict[str, object] = {"format": "synthetic", "generator": "cross_family", "parameters": parameters}
    return whole.renamed(whole.name, source)
