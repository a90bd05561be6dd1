"""Agents that go back: forks, retries from an earlier point, and switches between branches.

Knows a workflow as a set of branches. Must not know tools or people.
"""

from __future__ import annotations

import numpy as np

from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, length, turns, wait_s
from workloads.synthetic.prompts import ROOT, RequestLog
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace

STEP, FORK, REPLAN, RESUME = range(4)


def agent_branches(
    seed: int,
    requests: int = 2_500,
    block_tokens: int = 16,
    workflows: int = 12,
    system_tokens: int = 5_000,
    sessions_per_s: float = 0.05,
    steps_mean: float = 16.0,
    fork_share: float = 0.09,
    replan_share: float = 0.08,
    resume_share: float = 0.14,
    common_share: float = 0.3,
    result_tokens: float = 900.0,
    step_s: float = 6.0,
    context_limit: int = 100_000,
) -> Trace:
    """Agent workflows as trees: fork the history, roll back and plan anew, return to a branch left before.

    Imitates checkpoints and rewinds of coding agents, tree search over plans, and retries after a failed tool: the old
    branch may or may not be used again, which recency cannot tell.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        workflows: Kinds of workflow (Zipf exponent 0.8); each goes on from the common prompt with 600 tokens.
        system_tokens: Tokens of the prompt common to all.
        sessions_per_s: Poisson rate of new sessions per second.
        steps_mean: Mean steps per session (geometric).
        fork_share: Share of the steps that copy the history into a new branch and go on there.
        replan_share: Share of the steps that first drop the last one to four steps.
        resume_share: Share of the steps that go on in another branch, if there is one.
        common_share: Share of the results that are one of six per prompt: the same call again gives the same text.
        result_tokens: Median tokens a step adds (lognormal, sigma 0.9, at most 16,000).
        step_s: Median seconds between steps, beyond decoding (lognormal, sigma 1.2).
        context_limit: A session ends before a prompt other than its first exceeds this many tokens.

    Returns:
        The trace, with session, turn and request_type (0: step, 1: fork, 2: replan, 3: resume). The default has about
        200,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(agent_branches, parameters)
    root = log.tree.extend(ROOT, system_tokens, "system")
    roots = [log.tree.extend(root, 600, kind) for kind in range(workflows)]
    ranks = Popularity(workflows, 0.8)
    moves = (fork_share, replan_share, resume_share)
    for session, at_s in starts(log, requests, steady(rng, sessions_per_s)):
        branches = [[log.tree.extend(roots[ranks.draw(rng)], length(rng, 150.0, 0.8, 4_000))]]
        current = 0
        for turn in range(turns(rng, steps_mean)):
            current, kind = _move(rng, branches, current, moves)
            node = branches[current][-1]
            if turn and log.tree.tokens(node) > context_limit:
                break
            output = length(rng, 110.0, 0.9, 4_000)
            log.add(at_s, node, output, session, turn, request_type=kind)
            branches[current].append(_result(log, rng, node, output, result_tokens, common_share))
            at_s += output / DECODE_TOKENS_PER_S + wait_s(rng, step_s, 1.2)
    return log.trace("agent_branches", requests, parameters)


def _move(
    rng: np.random.Generator, branches: list[list[int]], current: int, shares: tuple[float, ...]
) -> tuple[int, int]:
    """Choose the branch of the next step, which may be new or cut back; return its number and the request type."""
    fork, replan, resume = np.cumsum(shares).tolist()
    drawn = rng.random()
    if drawn < fork:
        branches.append(list(branches[current]))
        return len(branches) - 1, FORK
    if drawn < replan:
        if len(branches[current]) == 1:
            return current, STEP
        del branches[current][max(1, len(branches[current]) - int(rng.integers(1, 5))) :]
        return current, REPLAN
    if drawn < resume and len(branches) > 1:
        return (current + int(rng.integers(1, len(branches)))) % len(branches), RESUME
    return current, STEP


def _result(
    log: RequestLog, rng: np.random.Generator, node: int, output: int, result_tokens: float, common_share: float
) -> int:
    """Return the prompt after a step: the model's call and what came back, new or one of the six common ones."""
    tokens = output + length(rng, result_tokens, 0.9, 16_000)
    key = int(rng.integers(0, 6)) if rng.random() < common_share else None
    return log.tree.extend(node, tokens, key)
