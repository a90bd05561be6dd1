"""Flat accounting: every reference to a full block is one access to an independent object of unit size.

Equal to libCacheSim's `cache_get_base` (0.3.5): look up; on a miss evict until there is room, then insert. No prefix
rule, no pins, no partial tails. Knows references and hooks; no policy.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import state as st
from sim.core.zoo.hooks import BY_STATE, STATE, Hooks


@kernel(inline=True)
def _enter(state, block, hooks, counts):
    """Ask for a missing block; return whether it entered."""
    _, miss, evict, insert = hooks
    miss(state, block)
    while state.whole[st.RESIDENT] >= state.whole[st.CAPACITY]:
        if not evict(state, block):
            counts[replay.BYPASSED] += 1
            return
    state.nodes[block].resident = 1
    state.nodes[block].listed = 1
    state.whole[st.RESIDENT] += 1
    insert(state, block)
    counts[replay.ADMITTED] += 1


def _signature() -> Any:
    function = types.FunctionType(BY_STATE)
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    hooks = types.NamedUniTuple(function, len(Hooks._fields), Hooks)
    return types.void(numba.typeof(replay.sample_requests()), STATE, hooks, *outputs)


@kernel(_signature())
def replay_flat(requests, state, hooks, hits_out, start_out, counts):
    """Replay all references.

    Args:
        requests: `replay.Requests`.
        state: `state.new_state(...)`, set up by the policy; holds the final state afterwards.
        hooks: `Hooks`.
        hits_out: int32 (n,), filled with the hit blocks of each request.
        start_out: float64 (n,), filled with arrival times.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    for i in range(requests.input_tokens.size):
        hits = 0
        for r in range(requests.offsets[i], requests.offsets[i + 1]):
            block = requests.block_ids[r]
            state.whole[st.CLOCK] = r + 1
            if state.nodes[block].resident == 1:
                hits += 1
                hooks.hit(state, block)
            else:
                _enter(state, block, hooks, counts)
            counts[replay.PEAK_RESIDENT] = max(counts[replay.PEAK_RESIDENT], state.whole[st.RESIDENT])
        hits_out[i], start_out[i] = hits, requests.arrival_s[i]
        counts[replay.HIT] += hits
        counts[replay.LOOKED_UP] += requests.offsets[i + 1] - requests.offsets[i]
        counts[replay.SUM_USED] += state.whole[st.RESIDENT]
    counts[replay.PEAK_USED] = counts[replay.PEAK_RESIDENT]
    counts[replay.RESIDENT] = state.whole[st.RESIDENT]
    counts[replay.EVICTED] = state.whole[st.EVICTED]
