"""Reasoning models: long outputs that may or may not re-enter the next prompt, in small bursts.

Knows thinking, answers and bursts. Must not know tools.
"""

from __future__ import annotations

from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import Popularity, length, lengths, turns, wait_s
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace


def reasoning(
    seed: int,
    requests: int = 3_000,
    block_tokens: int = 16,
    tasks: int = 40,
    popularity: float = 0.7,
    system_tokens: int = 900,
    task_tokens: float = 1_600.0,
    question_tokens: float = 180.0,
    thinking_tokens: float = 2_200.0,
    thinking_sigma: float = 0.9,
    answer_tokens: float = 350.0,
    keep_share: float = 0.3,
    followup_share: float = 0.25,
    turns_mean: float = 3.0,
    think_s: float = 60.0,
    burst: int = 1,
    bursts_per_s: float = 0.3,
    priority_share: float = 0.15,
    tenants: int = 2,
) -> Trace:
    """Reasoning with long outputs: the output, or only its answer, is part of the next prompt.

    Imitates services like DeepSeek-R1 (ServeGen: outputs of thousands of tokens). Most chat templates drop the thinking
    from the history, so the blocks that were just generated do not match the next prompt; agents that think between
    calls keep it. A burst sends several sessions on one task within a fifth of a second. Predicted output lengths are
    not part of a trace.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        tasks: Task prompts, each after the common system prompt.
        popularity: Zipf exponent of the tasks.
        system_tokens: Tokens of the system prompt.
        task_tokens: Median tokens of a task prompt (lognormal, sigma 0.6, at most 16,000).
        question_tokens: Median tokens of a message (lognormal, sigma 0.9, at most 8,000).
        thinking_tokens: Median tokens of thinking (lognormal with ``thinking_sigma``, at most 32,000).
        thinking_sigma: Log-sigma of the thinking.
        answer_tokens: Median tokens of an answer (lognormal, sigma 0.6, at most 4,000).
        keep_share: Share of the sessions whose history keeps the thinking.
        followup_share: Share of the requests answered without thinking.
        turns_mean: Mean turns per session (geometric).
        think_s: Median seconds between an answer and the next message (lognormal, sigma 1).
        burst: Sessions per burst.
        bursts_per_s: Poisson rate of bursts per second.
        priority_share: Share of the sessions with priority 1; the others have 0.
        tenants: Tenants, which share prompts.

    Returns:
        The trace, with session, turn, tenant, priority and request_type (0: with thinking, 1: without). The default
        has about 180,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(reasoning, parameters)
    system = log.tree.extend(ROOT, system_tokens, "system")
    sizes = lengths(rng, task_tokens, 0.6, 16_000, tasks)
    prompts = [log.tree.extend(system, tokens, task) for task, tokens in enumerate(sizes)]
    ranks = Popularity(tasks, popularity)
    for group, start_s in starts(log, requests, steady(rng, bursts_per_s)):
        prompt = prompts[ranks.draw(rng)]
        for member in range(burst):
            node, at_s, session = prompt, start_s + (0.2 * rng.random() if member else 0.0), group * burst + member
            keeps, urgent = rng.random() < keep_share, int(rng.random() < priority_share)
            tenant = int(rng.integers(0, tenants))
            for turn in range(turns(rng, turns_mean)):
                node = log.tree.extend(node, length(rng, question_tokens, 0.9, 8_000))
                short = rng.random() < followup_share
                thinking = 0 if short else length(rng, thinking_tokens, thinking_sigma, 32_000)
                answer = length(rng, answer_tokens, 0.6, 4_000)
                log.add(at_s, node, thinking + answer, session, turn, tenant, int(short), urgent)
                node = log.tree.extend(node, answer + (thinking if keeps else 0))
                at_s += (thinking + answer) / DECODE_TOKENS_PER_S + wait_s(rng, think_s, 1.0)
    return log.trace("reasoning", requests, parameters)
