"""Conversations with people: chat, many small apps, many tenants.

Knows how a dialogue grows turn by turn. Must not know tool loops, retrieval or adverse patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, gap_s, length, lengths, turns, wait_s
from workloads.synthetic.prompts import ROOT, RequestLog
from workloads.trace import Trace

OVERHANG = 1.15  # sessions are drawn until this many times the requests exist, so the end is not a drain


@dataclass(frozen=True)
class Style:
    """How people talk.

    Attributes:
        turns_mean: Mean turns per session (geometric).
        think_s: Median seconds between an answer and the next message (lognormal, sigma 1).
        user_tokens: Median tokens of a message (lognormal, sigma 1).
        reply_tokens: Median tokens of an answer (lognormal, sigma 0.8).
        attachment_share: Share of messages with a pasted document.
        attachment_tokens: Median tokens of such a document (lognormal, sigma 0.8).
        context_limit: A session ends before its prompt exceeds this many tokens.
    """

    turns_mean: float = 6.0
    think_s: float = 40.0
    user_tokens: float = 60.0
    reply_tokens: float = 260.0
    attachment_share: float = 0.08
    attachment_tokens: float = 2500.0
    context_limit: int = 32_768


def converse(
    log: RequestLog,
    rng: np.random.Generator,
    style: Style,
    start_s: float,
    node: int,
    session: int,
    tenant: int = 0,
    priority: int = 0,
    first_turn: int = 0,
) -> tuple[float, int, int]:
    """Add one session, or one visit of it, to the log: each prompt is the conversation so far plus a new message.

    Args:
        log: Where the requests go.
        rng: Random stream.
        style: How this person talks.
        start_s: Arrival of the first request in seconds.
        node: Prompt the session starts from (a system prompt, or ``ROOT``).
        session: Session number.
        tenant: Tenant number.
        priority: Priority of the requests.
        first_turn: Turns the session had before.

    Returns:
        When the next turn would be, the conversation so far and the number of its turns.
    """
    tree = log.tree
    now = start_s
    turn = first_turn
    for turn in range(first_turn, first_turn + turns(rng, style.turns_mean)):
        message = length(rng, style.user_tokens, 1.0, 8_000)
        if rng.random() < style.attachment_share:
            message += length(rng, style.attachment_tokens, 0.8, 24_000)
        if turn and tree.tokens(node) + message > style.context_limit:
            return now, node, turn
        node = tree.extend(node, message)
        reply = length(rng, style.reply_tokens, 0.8, 4_000)
        log.add(now, node, reply, session, turn, tenant=tenant, priority=priority)
        node = tree.extend(node, reply)
        now += reply / DECODE_TOKENS_PER_S + wait_s(rng, style.think_s, 1.0)
    return now, node, turn + 1


def chat(
    seed: int,
    requests: int = 5_000,
    block_tokens: int = 16,
    sessions_per_s: float = 0.5,
    burstiness: float = 2.0,
    system_tokens: int = 350,
    turns_mean: float = 6.0,
    think_s: float = 40.0,
) -> Trace:
    """Multi-turn chat behind one short system prompt: growing contexts, think times, occasional pasted documents.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        sessions_per_s: Rate of new sessions per second.
        burstiness: Coefficient of variation of the time between new sessions; 1 is Poisson.
        system_tokens: Tokens of the system prompt that all sessions share.
        turns_mean: Mean turns per session.
        think_s: Median think time in seconds.

    Returns:
        The trace, with session and turn. The default has about 210,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(chat, parameters)
    system = log.tree.extend(ROOT, system_tokens, "system")
    style = Style(turns_mean=turns_mean, think_s=think_s)
    now, session = 0.0, 0
    while len(log) < OVERHANG * requests:
        converse(log, rng, style, now, system, session)
        now += gap_s(rng, sessions_per_s, burstiness)
        session += 1
    return log.trace("chat", requests, parameters)


def shared_system(
    seed: int,
    requests: int = 12_000,
    block_tokens: int = 16,
    apps: int = 60,
    popularity: float = 0.9,
    system_tokens: float = 1_800.0,
    sessions_per_s: float = 4.0,
) -> Trace:
    """Many small apps, each with its own long system prompt and few examples, and mostly one-shot questions.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        apps: Number of apps; app prompts are the only content shared between sessions.
        popularity: Zipf exponent of the apps.
        system_tokens: Median tokens of an app's prompt (lognormal, sigma 0.7, at most 16,000).
        sessions_per_s: Poisson rate of sessions per second.

    Returns:
        The trace, with session, turn and tenant (the app). The default has about 180,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(shared_system, parameters)
    sizes = lengths(rng, system_tokens, 0.7, 16_000, apps)
    prompts = [log.tree.extend(ROOT, tokens, app) for app, tokens in enumerate(sizes)]
    ranks = Popularity(apps, popularity)
    style = Style(turns_mean=1.4, think_s=15.0, user_tokens=80.0, reply_tokens=90.0, attachment_share=0.02)
    now, session = 0.0, 0
    while len(log) < OVERHANG * requests:
        app = ranks.draw(rng)
        converse(log, rng, style, now, prompts[app], session, tenant=app)
        now += gap_s(rng, sessions_per_s, 1.0)
        session += 1
    return log.trace("shared_system", requests, parameters)


def multi_tenant(
    seed: int,
    requests: int = 5_000,
    block_tokens: int = 16,
    tenants: int = 16,
    popularity: float = 1.1,
    sessions_per_s: float = 0.8,
) -> Trace:
    """Tenants that differ in rate, system prompt, talking style and priority, sharing one server.

    Tenants are bursty: each time one becomes active it opens several sessions in a row. Priority is 0 for the
    interactive third of the tenants, 1 for the standard ones, 2 for the batch ones (many long documents, no thinking).

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        tenants: Number of tenants.
        popularity: Zipf exponent of the tenants' rates.
        sessions_per_s: Rate of new sessions per second over all tenants.

    Returns:
        The trace, with session, turn, tenant and priority. The default has about 330,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(multi_tenant, parameters)
    sizes = lengths(rng, 1_500.0, 1.0, 20_000, tenants)
    prompts = [log.tree.extend(ROOT, tokens, tenant) for tenant, tokens in enumerate(sizes)]
    classes = rng.integers(0, 3, tenants).tolist()
    styles = (
        Style(turns_mean=8.0, think_s=25.0),
        Style(turns_mean=4.0, think_s=60.0, reply_tokens=350.0),
        Style(turns_mean=1.5, think_s=2.0, attachment_share=0.8, attachment_tokens=4_000.0),
    )
    ranks = Popularity(tenants, popularity)
    now, session = 0.0, 0
    while len(log) < OVERHANG * requests:
        tenant = ranks.draw(rng)
        for _ in range(turns(rng, 4.0)):  # a burst of sessions of one tenant
            converse(log, rng, styles[classes[tenant]], now, prompts[tenant], session, tenant, classes[tenant])
            now += gap_s(rng, sessions_per_s, 1.5)
            session += 1
    return log.trace("multi_tenant", requests, parameters)
