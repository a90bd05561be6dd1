"""Small traces for tests: written by hand, and random prefix trees with every awkward case in reach."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from workloads import Trace


def hand_trace(
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[int],
    block_tokens: int = 10,
    output_tokens: Sequence[int] | None = None,
    arrival_s: Sequence[float] | None = None,
    **columns: Sequence[int],
) -> Trace:
    """Return a trace from the full blocks and the prompt length of each request."""
    n = len(prompts)
    return Trace.build(
        name="hand",
        block_tokens=block_tokens,
        offsets=np.cumsum([0, *map(len, prompts)]),
        block_ids=[block for prompt in prompts for block in prompt],
        arrival_s=list(range(n)) if arrival_s is None else arrival_s,
        input_tokens=tokens,
        output_tokens=[0] * n if output_tokens is None else output_tokens,
        **columns,
    )


def dialogue_trace(labels: bool = False) -> Trace:
    """Return 1,200 requests: dialogues that grow turn by turn on three shared prompts, one-off scans, 10-token blocks.

    With labels: the turn within the dialogue, and a priority per shared prompt (90, 50, 20; scans have none).
    """
    rng = random.Random(20)
    trunks = [list(range(8 * k, 8 * k + 8)) for k in range(3)]
    next_id = 24
    open_dialogues: list[tuple[list[int], int]] = []
    prompts, tokens, outputs, turns, priorities = [], [], [], [], []
    for _ in range(1_200):
        turn = 0
        if rng.random() < 0.25:
            prompt, new, output = [], rng.randint(2, 10), 1
        elif open_dialogues and rng.random() < 0.75:
            prompt, turn = open_dialogues.pop(rng.randrange(len(open_dialogues)))
            new, output = rng.randint(0, 3), 12
        else:
            prompt, new, output = trunks[min(int(rng.expovariate(1.0)), 2)], rng.randint(1, 4), 12
        prompt = [*prompt, *range(next_id, next_id + new)]
        next_id += new
        if output == 12 and rng.random() < 0.85 and len(open_dialogues) < 40:
            open_dialogues.append((prompt, turn + 1))
        prompts.append(prompt)
        tokens.append(10 * len(prompt) + rng.choice([0, 3, 7]))
        outputs.append(output)
        turns.append(turn)
        priorities.append((90, 50, 20)[prompt[0] // 8] if prompt[0] < 24 else 0)
    arrival_s = np.cumsum([rng.randint(0, 4) / 64 for _ in prompts])
    columns = {"turn": turns, "priority": priorities} if labels else {}
    return hand_trace(prompts, tokens, 10, output_tokens=outputs, arrival_s=arrival_s, **columns)


CHOICES = (6, 8, 4, 6, 10, 4)
"""Per request: whose prompt it starts with, blocks kept of it, new blocks, tail tokens, output tokens, gap."""


@st.composite
def random_traces(draw: st.DrawFn, most_requests: int = 30, outputs: bool = True) -> Trace:
    """Draw a trace over a random prefix tree: exact multiples, equal arrivals, empty prompts, continuations."""
    size = draw(st.sampled_from([1, 2, 3, 4]))
    n = draw(st.integers(1, most_requests))
    codes = draw(st.lists(st.integers(0, int(np.prod(CHOICES)) - 1), min_size=n, max_size=n))
    rows = [[int(digit) for digit in np.unravel_index(code, CHOICES)] for code in codes]
    prompts: list[list[int]] = []
    tokens, next_id = [], 0
    for i, (back, keep, new, tail, _, _) in enumerate(rows):
        base = prompts[i - 1 - back][: keep + 1] if i > back else []
        prompt = [*base, *range(next_id, next_id + new)]
        next_id += new
        prompts.append(prompt)
        tokens.append(len(prompt) * size + max(tail - 2, 0) % size)
    pace = draw(st.sampled_from([0.0, 0.01, 0.05]))
    labels = draw(st.booleans())
    sessions = [row[0] % 3 for row in rows]
    columns = (
        {"session": sessions, "turn": turns_of(sessions), "tenant": [row[1] % 2 for row in rows]} if labels else {}
    )
    return hand_trace(
        prompts,
        tokens,
        size,
        output_tokens=[row[4] if outputs else 0 for row in rows],
        arrival_s=np.cumsum([row[5] * pace for row in rows]),
        **columns,
    )


@st.composite
def prioritised_traces(draw: st.DrawFn, priorities: Sequence[int], most_requests: int = 60) -> Trace:
    """Draw a trace without generated tokens, half of the time with a priority per request."""
    trace = draw(random_traces(most_requests=most_requests, outputs=False))
    n = trace.n_requests
    column = draw(st.none() | st.lists(st.sampled_from(priorities), min_size=n, max_size=n))
    return trace if column is None else replace(trace, priority=np.array(column, np.int32))


def turns_of(sessions: Sequence[int]) -> list[int]:
    """Return the running number of each request within its session."""
    return [list(sessions[:i]).count(session) for i, session in enumerate(sessions)]
