"""Agents that call tools: tool classes with their own latencies, parallel calls, sub-agents that report back.

Knows how an agent's prompt grows call by call. Must not know people or adverse patterns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, length, lengths, turns, wait_s
from workloads.synthetic.prompts import ROOT, PromptTree, RequestLog
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace


@dataclass(frozen=True)
class Tool:
    """A class of tools: how often it is called, how long it takes, how much it returns.

    Attributes:
        share: Share of the calls.
        latency_s: Median seconds (lognormal with ``latency_sigma``).
        latency_sigma: Log-sigma of the latency.
        result_tokens: Median tokens of a result (lognormal with ``result_sigma``, at most 16,000).
        result_sigma: Log-sigma of the result.
    """

    share: float
    latency_s: float
    latency_sigma: float
    result_tokens: float
    result_sigma: float


TOOLS = (
    Tool(0.34, 0.05, 0.8, 850.0, 1.1),  # read a file
    Tool(0.22, 0.4, 1.0, 380.0, 1.0),  # search
    Tool(0.19, 0.1, 0.8, 90.0, 0.7),  # edit a file
    Tool(0.18, 6.0, 1.5, 480.0, 1.2),  # run a command or the tests
    Tool(0.07, 2.0, 0.9, 2_200.0, 0.9),  # fetch a page
)
_CHOSEN = np.cumsum([tool.share for tool in TOOLS])

Call = tuple[float, int, int, int]
"""Arrival in seconds, prompt, output tokens, request type."""


@dataclass(frozen=True)
class Agent:
    """How an agent works.

    Attributes:
        system: Its tools-and-system prompt.
        helpers: Prompts of the kinds of sub-agents it may start; none for a sub-agent.
        steps_mean: Mean model calls per task (geometric).
        parallel_share: Share of the calls that start two or more tools at once.
        subagent_share: Share of the calls that start one to three sub-agents side by side.
        latency_factor: Factor on all tool latencies.
        context_limit: Prompt tokens at which a summary replaces the history.
    """

    system: int
    helpers: tuple[int, ...]
    steps_mean: float
    parallel_share: float
    subagent_share: float
    latency_factor: float
    context_limit: int


def work(
    tree: PromptTree, rng: np.random.Generator, agent: Agent, at_s: float, node: int, kind: int = 0
) -> tuple[list[Call], float, int]:
    """Let an agent work on one task.

    Args:
        tree: Prompts.
        rng: Random stream.
        agent: Who works.
        at_s: Time of the first call in seconds.
        node: Prompt of the first call.
        kind: Request type of its own calls; those of its sub-agents have one more.

    Returns:
        The calls in no order, the time after the last one, and the prompt then.
    """
    calls: list[Call] = []
    for _ in range(turns(rng, agent.steps_mean)):
        if tree.tokens(node) > agent.context_limit:
            node = tree.extend(agent.system, length(rng, 1_800.0, 0.4, 6_000))
        output = length(rng, 110.0, 0.9, 4_000)
        calls.append((at_s, node, output, kind))
        node = tree.extend(node, output)
        at_s += output / DECODE_TOKENS_PER_S
        if agent.helpers and rng.random() < agent.subagent_share:
            inner, at_s, reported = _delegate(tree, rng, agent, at_s, kind + 1)
            calls += inner
            node = tree.extend(node, reported)
        else:
            waited_s, returned = _use_tools(rng, agent)
            at_s += waited_s
            node = tree.extend(node, returned)
    return calls, at_s, node


def _delegate(
    tree: PromptTree, rng: np.random.Generator, agent: Agent, at_s: float, kind: int
) -> tuple[list[Call], float, int]:
    """Start sub-agents side by side; return their calls, when the last is done, and the tokens they report."""
    calls: list[Call] = []
    done_s, reported = at_s, 0
    for _ in range(int(rng.integers(1, 4))):
        system = agent.helpers[int(rng.integers(0, len(agent.helpers)))]
        helper = replace(agent, system=system, helpers=(), steps_mean=agent.steps_mean / 2)
        inner, end_s, node = work(tree, rng, helper, at_s, tree.extend(system, length(rng, 300.0, 0.6, 3_000)), kind)
        report = length(rng, 500.0, 0.6, 3_000)
        calls += [*inner, (end_s, node, report, kind)]
        done_s = max(done_s, end_s + report / DECODE_TOKENS_PER_S)
        reported += report
    return calls, done_s, reported


def _use_tools(rng: np.random.Generator, agent: Agent) -> tuple[float, int]:
    """Call one tool, or several at once; return the seconds until all are done and the tokens they return."""
    count = 1 + int(rng.geometric(0.5)) if rng.random() < agent.parallel_share else 1
    waited_s, returned = 0.0, 0
    for _ in range(min(count, 8)):
        tool = TOOLS[min(int(np.searchsorted(_CHOSEN, rng.random(), side="right")), len(TOOLS) - 1)]
        waited_s = max(waited_s, agent.latency_factor * wait_s(rng, tool.latency_s, tool.latency_sigma))
        returned += length(rng, tool.result_tokens, tool.result_sigma, 16_000)
    return waited_s, returned


def note(log: RequestLog, calls: list[Call], session: int, tenant: int = 0, request_type: int | None = None) -> None:
    """Add a session's calls to the log, turns in time order; ``request_type`` replaces those of the calls."""
    for turn, (at_s, node, output, kind) in enumerate(sorted(calls, key=lambda call: call[0])):
        log.add(at_s, node, output, session, turn, tenant, kind if request_type is None else request_type)


def agent_tools(
    seed: int,
    requests: int = 3_000,
    block_tokens: int = 16,
    toolkits: int = 6,
    popularity: float = 1.0,
    sessions_per_s: float = 0.015,
    tasks_mean: float = 2.5,
    steps_mean: float = 16.0,
    parallel_share: float = 0.25,
    subagent_share: float = 0.05,
    latency_factor: float = 1.0,
    context_limit: int = 60_000,
) -> Trace:
    """Coding agents: tool classes with latencies, tools called in parallel, sub-agents that return a summary.

    Imitates assistants such as Claude Code (the WEKA sessions): reads and edits come back at once, commands and tests
    after seconds to minutes, so one session's gaps span four orders of magnitude. A sub-agent starts from a prompt of
    its own, shared by all of its kind; its last answer, a report, goes into the parent's prompt. At the context limit
    a summary replaces the history. `TOOLS` holds the tool classes; the figures are ours.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        toolkits: Tools-and-system prompts (lognormal, median 9,000 tokens, sigma 0.3).
        popularity: Zipf exponent of the toolkits.
        sessions_per_s: Rate of new sessions per second, burstiness 1.5.
        tasks_mean: Mean tasks the user sets per session (geometric), a median of 90 s apart.
        steps_mean: Mean model calls per task (geometric); half for sub-agents.
        parallel_share: Share of the calls that start two to eight tools at once.
        subagent_share: Share of the main agent's calls that start one to three sub-agents side by side.
        latency_factor: Factor on all tool latencies.
        context_limit: Prompt tokens at which the history is compacted.

    Returns:
        The trace, with session, turn, tenant (toolkit) and request_type (0: main agent, 1: sub-agent). The default has
        about 310,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(agent_tools, parameters)
    tree = log.tree
    kits = []
    for kit, tokens in enumerate(lengths(rng, 9_000.0, 0.3, 20_000, toolkits)):
        helpers = tuple(tree.extend(ROOT, max(1, tokens // part), ("helper", kit, part)) for part in (2, 3, 5))
        main = tree.extend(ROOT, tokens, ("main", kit))
        kits.append(Agent(main, helpers, steps_mean, parallel_share, subagent_share, latency_factor, context_limit))
    ranks = Popularity(toolkits, popularity)
    for session, at_s in starts(log, requests, steady(rng, sessions_per_s, 1.5)):
        kit = ranks.draw(rng)
        node, calls = kits[kit].system, []
        for _ in range(turns(rng, tasks_mean)):
            node = tree.extend(node, length(rng, 120.0, 1.0, 6_000))
            done, at_s, node = work(tree, rng, kits[kit], at_s, node)
            calls += done
            at_s += wait_s(rng, 90.0, 1.0)
        note(log, calls, session, kit)
    return log.trace("agent_tools", requests, parameters)
