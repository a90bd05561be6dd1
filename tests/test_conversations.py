"""Which request continues which, told from block ids: by hand, against the slow twin, and forgetting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import dialogue_trace, random_traces

from sim.core import conversations
from sim.core.conversations import Turns, follow, new_tails
from sim.core.fields import NEVER
from sim.twin_server import Conversations


def told(prompts, arrival_s=None, parts=1):
    """Return the columns of prompts given as lists of block ids, told in parts."""
    times = np.arange(len(prompts), dtype=float) if arrival_s is None else np.asarray(arrival_s)
    tails, found = new_tails(len(prompts)), []
    for chunk in np.array_split(np.arange(len(prompts)), parts):
        chosen = [prompts[i] for i in chunk]
        keys = np.array([block for prompt in chosen for block in prompt], np.uint64)
        found.append(follow(tails, np.cumsum([0, *map(len, chosen)]), keys, times[chunk]))
    return Turns(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def test_a_conversation_grows_turn_by_turn():
    turns = told([[0, 1], [0, 1, 2], [9], [0, 1, 2, 3]], arrival_s=[0, 1.5, 2, 5])
    assert turns.inferred_turn.tolist() == [1, 2, 1, 3]
    assert turns.turn_gap.tolist() == [0, 1, 0, 2]
    assert turns.turn_gap_s.tolist() == [0, 1.5, 0, 3.5]
    assert turns.continued == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert turns.usual_gap == pytest.approx([0, 1, 1, np.sqrt(2)])


def test_a_shared_system_prompt_is_no_conversation():
    prompts = [[0, 1, 2], [0, 1, 3], [0, 1], [0, 1, 4], [0, 1, 5]]
    assert told(prompts).inferred_turn.tolist() == [1, 1, 1, 2, 1], "only the first goes on from a prompt's end"


def test_the_same_prompt_again_is_a_turn_until_another_has_gone_on():
    assert told([[0, 1], [0, 1], [0, 1, 2], [0, 1], [0, 1, 2]]).inferred_turn.tolist() == [1, 2, 3, 1, 4]


def test_a_request_without_full_blocks_ends_nowhere_but_counts_as_a_step():
    turns = told([[], [0], [], [0, 1]])
    assert turns.inferred_turn.tolist() == [1, 1, 1, 2]
    assert turns.turn_gap.tolist() == [0, 0, 0, 2]
    assert turns.continued.tolist() == [0, 0, 0, 0.5]


def test_what_ended_long_ago_is_forgotten():
    n = conversations.REMEMBERED
    fillers = [[10 + i] for i in range(n)]
    assert told([[0], *fillers[: n - 1], [0, 1]]).turn_gap[-1] == n
    assert told([[0], *fillers, [0, 1]]).turn_gap[-1] == 0


def test_a_full_table_is_built_again():
    n = 3 * conversations.REMEMBERED
    prompts = [[i] if i % 1000 else [2_000_000 + i // 1000 - k for k in range(i // 1000, -1, -1)] for i in range(n)]
    turns = told(prompts, parts=2)
    assert turns.inferred_turn[::1000].tolist() == list(range(1, n // 1000 + 1))
    assert np.count_nonzero(turns.turn_gap) == n // 1000 - 1


def test_a_whole_trace_in_parts(monkeypatch):
    trace = dialogue_trace()
    whole = conversations.turns_of(trace.offsets, trace.block_ids, trace.arrival_s)
    monkeypatch.setattr(conversations, "PART_REFS", 7)  # less than most prompts
    parts = conversations.turns_of(trace.offsets, trace.block_ids, trace.arrival_s)
    assert np.count_nonzero(whole.turn_gap) > 100
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


@given(random_traces(most_requests=60), st.integers(1, 5))
def test_equals_the_slow_twin_whole_or_in_parts(trace, parts):
    prompts = [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    found = told(prompts, trace.arrival_s, parts)
    slow = Conversations()
    for i, prompt in enumerate(prompts):
        expected = slow.add(prompt, float(trace.arrival_s[i]))
        gap = found.turn_gap[i]
        shown = (found.inferred_turn[i], gap or NEVER, found.turn_gap_s[i] if gap else NEVER)
        assert shown == (expected["inferred_turn"], expected["turn_gap"], expected["turn_gap_s"])
        assert (found.continued[i], found.usual_gap[i]) == (expected["continued"], expected["usual_gap"])
