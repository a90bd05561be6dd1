"""Prefix accounting: vLLM >= 0.23's rules around a classic policy; an object is a block, its id is its whole prefix.

A request hits the resident blocks from its first one on, up to the last-token limit. Blocks it finds are pinned, for
each missing one the policy is asked for a victim at allocation, a partial tail holds a slot while the request runs.
At the finish blocks are released last to first: only then is a block accessed (`hit`, or `insert` if the policy does
not list it yet), so recency is completion order, as in vLLM. A resident block that is not hit (an orphan, or the last
block under the last-token rule) is recomputed in place: an access for the policy, no hit, no further slot. vLLM makes
a second copy there; without such blocks LRU here equals vLLM's. Ghosts are keyed by the same ids: they belong to a
prefix, not to a request. A policy may evict a parent before its child, as vLLM may; each policy's module says whether
it does. Generated blocks are not modelled.
Knows requests, time and hooks; no policy.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo import state as st
from sim.core.zoo.hooks import BY_STATE, STATE, Hooks

PINNED, SCRATCH = range(2)
"""Places in `held`: blocks that running requests use, slots of their partial tails."""


@kernel(inline=True)
def _match(state, requests, i, block_tokens):
    """Return (hit blocks, blocks of the request that running ones use); changes nothing."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    limit = min(replay.hit_limit(requests, i, block_tokens), stop - start)
    hits, shared, missed = 0, 0, False
    for r in range(start, stop):
        node = state.nodes[requests.block_ids[r]]
        missed = missed or node.resident == 0 or r - start >= limit
        hits += not missed
        shared += node.pins > 0
    return hits, shared


@kernel(inline=True)
def _fits(state, held, requests, i, shared, block_tokens):
    """Return whether request `i` finds room once everything that nothing uses is evicted."""
    need = replay.prompt_blocks(requests, i, block_tokens) - shared
    return held[PINNED] + held[SCRATCH] + need <= state.whole[st.CAPACITY]


@kernel(inline=True)
def _make_room(state, held, block, hooks):
    while state.whole[st.RESIDENT] + held[SCRATCH] >= state.whole[st.CAPACITY]:
        hooks.evict(state, block)


@kernel(inline=True)
def _pin(state, held, block):
    held[PINNED] += state.nodes[block].pins == 0
    state.nodes[block].pins += 1


@kernel(inline=True)
def _admit(state, held, requests, i, block_tokens, hooks, counts):
    """Pin what is there, then make room for and bring in what is not."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    for r in range(start, stop):
        if state.nodes[requests.block_ids[r]].resident == 1:
            _pin(state, held, requests.block_ids[r])
    for r in range(start, stop):
        block = requests.block_ids[r]
        if state.nodes[block].resident == 0:
            state.whole[st.CLOCK] += 1
            hooks.miss(state, block)
            _make_room(state, held, block, hooks)
            _pin(state, held, block)
            state.nodes[block].resident = 1
            state.whole[st.RESIDENT] += 1
            counts[replay.ADMITTED] += 1
    for _ in range(replay.prompt_blocks(requests, i, block_tokens) - (stop - start)):
        _make_room(state, held, np.uint32(state.whole[st.IDS]), hooks)
        held[SCRATCH] += 1
    counts[replay.LOOKED_UP] += stop - start
    counts[replay.RESIDENT] = state.whole[st.RESIDENT]
    replay.account(counts, held[SCRATCH])


@kernel(inline=True)
def _release(state, held, requests, i, block_tokens, hooks):
    """Give the blocks back last to first; each is an access."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    held[SCRATCH] -= replay.prompt_blocks(requests, i, block_tokens) - (stop - start)
    for r in range(stop - 1, start - 1, -1):
        block = requests.block_ids[r]
        state.nodes[block].pins -= 1
        held[PINNED] -= state.nodes[block].pins == 0
        state.whole[st.CLOCK] += 1
        if state.nodes[block].listed == 1:
            hooks.hit(state, block)
        else:
            state.nodes[block].listed = 1
            hooks.insert(state, block)


def _signature() -> Any:
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    hooks = types.NamedUniTuple(types.FunctionType(BY_STATE), len(Hooks._fields), Hooks)
    requests, running, server = map(numba.typeof, (replay.sample_requests(), replay.new_running(1), replay.SERIAL))
    return types.void(requests, STATE, types.int64[::1], running, types.int64, hooks, server, *outputs)


@kernel(_signature())
def replay_prefix(requests, state, held, running, block_tokens, hooks, server, hits_out, start_out, counts):
    """Replay all requests.

    Args:
        requests: `replay.Requests`; generated blocks are not considered.
        state: `state.new_state(...)`, set up by the policy; holds the final state afterwards.
        held: int64 (2,), zero on entry; see `PINNED`.
        running: `replay.new_running(server.max_running)`.
        block_tokens: Tokens per block.
        hooks: `Hooks`.
        server: `replay.Server`; in serial mode a request finishes as it starts.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        start_out: float64 (n,), filled with admission times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    n, now_s = requests.input_tokens.size, 0.0
    for i in range(n + 1):
        if i < n and replay.prompt_blocks(requests, i, block_tokens) > state.whole[st.CAPACITY]:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        now_s = max(now_s, requests.arrival_s[i]) if i < n else np.inf
        due_s, hits, waited = now_s, 0, False
        while running.size[0] > 0 or i < n:
            if running.size[0] == 0 or running.finish_s[0] > due_s:
                hits, shared = _match(state, requests, i, block_tokens)
                room = _fits(state, held, requests, i, shared, block_tokens)
                if room and running.size[0] < running.finish_s.size:
                    break
                waited = True
            now_s = max(now_s, running.finish_s[0])
            _release(state, held, requests, replay.next_finish(running), block_tokens, hooks)
        if i == n:
            break
        _admit(state, held, requests, i, block_tokens, hooks, counts)
        counts[replay.HIT] += hits
        counts[replay.WAITED] += waited
        hits_out[i], start_out[i] = hits, now_s
        finish_s = replay.finish_time(requests, i, hits, block_tokens, now_s, server) if server.overlap else now_s
        replay.start_running(running, finish_s, i)
    counts[replay.RESIDENT] = state.whole[st.RESIDENT]
    counts[replay.EVICTED] = state.whole[st.EVICTED]
