"""What a replay holds: at most 200 bytes per distinct block and 16 per reference, plus what the capacity needs."""

from __future__ import annotations

import numpy as np
import pytest
from small_traces import hand_trace

from sim.core import engine, fields, lru, replay
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.simulation import Options, run_engine, run_policy

PER_BLOCK, PER_REFERENCE = 240, 16


def trace_of(uses: int):
    """Return 10,000 different prompts of 20 blocks, each asked for `uses` times, 40 tokens generated."""
    prompts = [[*range(20 * k, 20 * k + 20)] for k in range(10_000) for _ in range(uses)]
    return hand_trace(prompts, [205] * len(prompts), output_tokens=[40] * len(prompts))


def arrays_of(*parts: object) -> dict[int, np.ndarray]:
    """Return every array that owns memory below tuples and dicts, once each, by address."""
    found: dict[int, np.ndarray] = {}
    for part in parts:
        if isinstance(part, np.ndarray):
            base = part
            while isinstance(base.base, np.ndarray):
                base = base.base
            found[base.__array_interface__["data"][0]] = base
        elif isinstance(part, tuple | list):
            found |= arrays_of(*part)
        elif hasattr(part, "__dict__"):
            found |= arrays_of(*vars(part).values())
    return found


def test_arrays_are_counted_once():
    array = np.zeros(10)
    assert [a.nbytes for a in arrays_of(array, (array[2:][:0], array.view(np.uint64)[:]), [array]).values()] == [80]


SCORES = {
    "when candidate": "def priority(block, cache):\n    return block.seen\n",
    "eviction": "def priority(block, cache):\n    return block.seen + cache.pressure\n",
    "touch": 'SCORING = "touch"\ndef priority(block, cache):\n    return block.seen + cache.pressure\n',
}


@pytest.mark.parametrize("mode", ["serial", "overlap"])
@pytest.mark.parametrize("decode", ["none", "private"])
@pytest.mark.parametrize("scoring", SCORES)
@pytest.mark.parametrize("uses", [1, 2])
def test_bytes_of_a_policy_replay(uses, scoring, decode, mode):
    trace, options = trace_of(uses), Options(decode=decode, mode=mode)
    prepared = prepare(trace, decode)
    policy = compile_policy(Policy.from_source(SCORES[scoring]))
    outcome = run_policy(prepared, policy, 2_000, options)
    blocks = prepared.parents.size
    assert (outcome.state.touch_score.size >= blocks) is (scoring == "touch")
    # What run_policy makes for itself and does not return.
    running = replay.new_running(options.server.max_running)
    rows = engine.new_rows(trace.n_requests, options.server.max_running)
    held = arrays_of(list(trace.columns().values()), prepared, outcome, running, rows)
    total = sum(array.nbytes for array in held.values())
    assert total > fields.BLOCK_DTYPE.itemsize * blocks  # the records are among what was counted
    references = trace.n_refs + prepared.requests.generated_ids.size
    assert total <= PER_BLOCK * blocks + PER_REFERENCE * references, f"{total / blocks:.1f} bytes per block"


def test_bytes_of_a_native_replay():
    trace = trace_of(2)
    prepared = prepare(trace)
    outcome = run_engine(prepared, 2_000, Options())
    rows = lru.new_rows(prepared.requests, 2_000, 1)
    held = arrays_of(list(trace.columns().values()), prepared, outcome, rows)
    total = sum(array.nbytes for array in held.values())
    assert total < 16 * trace.n_blocks + PER_REFERENCE * trace.n_refs
