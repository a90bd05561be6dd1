"""The policy engine: vLLM >= 0.23 accounting with a user policy deciding what enters and what leaves.

Match, touch, decide admission, make room, insert, run, release tail first. Knows blocks and time; must not know the
future, what a policy is made of, or how its results are scored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core import fields, heap, replay, residency, view
from sim.core import state as st
from sim.core.compiled import kernel
from sim.core.residency import AT_EVICTION, Rules


class Rows(NamedTuple):
    """What running requests hold; a row is reused when its request has finished."""

    row_of: npt.NDArray[np.int32]
    """Per request."""
    held: npt.NDArray[np.int64]
    """Prompt blocks, from the first on, that are pinned in the cache."""
    copy: npt.NDArray[np.uint32]
    """Further copy of the last block, or `replay.NONE`."""
    vacant: npt.NDArray[np.int64]
    """Stack of free rows; its top is at the number of running requests."""


def new_rows(n_requests: int, max_running: int) -> Rows:
    """Return room for `max_running` requests."""
    return Rows(
        np.zeros(n_requests, np.int32),
        np.zeros(max_running, np.int64),
        np.full(max_running, replay.NONE, np.uint32),
        np.arange(max_running),
    )


def next_rows(rows: Rows, n_requests: int, carried: npt.NDArray[np.int32]) -> Rows:
    """Return the rows for the next step of `n_requests`, the first of which were `carried` in the last."""
    row_of = np.zeros(n_requests, np.int32)
    row_of[: carried.size] = rows.row_of[carried]
    return rows._replace(row_of=row_of)


@kernel(inline=True)
def match(state, requests, i, block_tokens):
    """Return (hit blocks, those of them that nothing pins yet); changes nothing."""
    start = requests.offsets[i]
    limit = min(replay.hit_limit(requests, i, block_tokens), requests.offsets[i + 1] - start)
    hits, unpinned = 0, 0
    while hits < limit:
        node = st.node_of(state, requests.block_ids[start + hits])
        if node == replay.NONE:
            break
        unpinned += state.pins[node] == 0
        hits += 1
    return hits, unpinned


@kernel(inline=True)
def touch_hits(state, requests, i, hits, rules, on_hit):
    """Pin the blocks found, first to last."""
    start = requests.offsets[i]
    for k in range(hits):
        node = st.node_of(state, requests.block_ids[start + k])
        residency.pin(state, node, rules.scoring != AT_EVICTION)
        residency.touch(state, node)
        state.block[node].hits += 1
        if rules.has_on_hit:
            on_hit(state.block[node], state.request[0], state.cache[0])


@kernel(inline=True)
def _decide(state, requests, i, hits, rules, admit, on_evict, counts):
    """Touch the missing blocks and ask for admission until the first refusal; return blocks held from the start."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    held, open_ = hits, True
    for k in range(hits, stop - start):
        block = requests.block_ids[start + k]
        node = st.node_of(state, block)
        if node != replay.NONE and k + 1 == stop - start and k == hits:
            # Found, yet to be recomputed (last-token rule): a further copy, the first is not touched.
            if open_ and (not rules.has_admit or admit(state.block[node], state.request[0], state.cache[0]) != 0.0):
                held += 1
            break
        if node != replay.NONE:
            # An orphan: its prefix is recomputed, and so is it; the old ones, copies too, go.
            while node != replay.NONE and state.candidates.place_of[node] != replay.NONE:
                heap.remove(state.candidates, state.candidates.place_of[node], rules.scoring != AT_EVICTION)
                residency.evict(state, node, rules, on_evict, i, counts)
                node = st.node_of(state, block)
            if node != replay.NONE:
                open_ = False
                continue
        residency.known(state, block, k, 0.0)
        residency.touch(state, block)
        if open_ and rules.has_admit:
            open_ = admit(state.block[block], state.request[0], state.cache[0]) != 0.0
        if open_:
            held += 1
        else:
            st.remember(state, block)
    return held


@kernel(inline=True)
def insert(state, requests, i, hits, held, rules, on_insert, counts):
    """Insert the admitted blocks; return the node of a further copy, if one was made."""
    start = requests.offsets[i]
    copy = replay.NONE
    for k in range(hits, held):
        block = requests.block_ids[start + k]
        first = st.node_of(state, block)
        if first == replay.NONE:
            if state.block[block].last_access != state.cache[0].now:
                # `_decide` found it, and making room has evicted it: it enters like any missing block.
                residency.known(state, block, k, 0.0)
                residency.touch(state, block)
            state.status[block] = st.RESIDENT
            residency.enter(state, block, block, rules, on_insert, counts)
            continue
        state.n[st.SPARES] -= 1
        copy = state.spare[state.n[st.SPARES]]
        state.copy_of[copy - state.status.size] = block
        last = block
        while state.next_copy[last] != replay.NONE:
            last = state.next_copy[last]
        state.next_copy[last] = copy
        state.block[copy] = state.block[first]
        residency.touch(state, copy)
        residency.enter(state, copy, block, rules, on_insert, counts)
    return copy


@kernel(inline=True)
def _generate(state, requests, i, held, rules, priority, admit, on_insert, on_evict, counts):
    """Take room for the generated blocks and insert the complete ones; return how many are pinned from the first."""
    first, last = requests.generated_offsets[i], requests.generated_offsets[i + 1]
    full = requests.offsets[i + 1] - requests.offsets[i]
    more = requests.total_blocks[i] - replay.prompt_blocks(requests, i, rules.block_tokens)
    if more > 0:
        residency.make_room(state, more, rules, priority, on_evict, i, counts)
    room = state.n[st.CAPACITY] - counts[replay.RESIDENT] - state.n[st.SCRATCH]
    room = min(room, more) + replay.prompt_blocks(requests, i, rules.block_tokens) - full
    kept = 0
    for k in range(last - first):
        block = requests.generated_ids[first + k]
        if held < full or k >= room or st.node_of(state, block) != replay.NONE:
            break
        residency.known(state, block, full + k, 1.0)
        residency.touch(state, block)
        if rules.has_admit and admit(state.block[block], state.request[0], state.cache[0]) == 0.0:
            st.remember(state, block)
            break
        state.status[block] = st.RESIDENT
        residency.enter(state, block, block, rules, on_insert, counts)
        kept += 1
    counts[replay.GENERATED] += kept
    counts[replay.DROPPED] += last - first - kept
    return kept


@kernel(inline=True)
def _finish(state, requests, labels, i, row, hits, rows, rules, hooks, counts):
    """Finish request `i`: generated blocks enter, then all its blocks are released last to first."""
    priority, admit, _, on_insert, on_evict = hooks
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    held, copy = rows.held[row], rows.copy[row]
    blocks = replay.prompt_blocks(requests, i, rules.block_tokens)
    if requests.total_blocks[i] > blocks or requests.generated_offsets[i + 1] > requests.generated_offsets[i]:
        view.present(state.request[0], requests, labels, i, hits, hits)
        kept = _generate(state, requests, i, held, rules, priority, admit, on_insert, on_evict, counts)
        first = requests.generated_offsets[i]
        for k in range(kept - 1, -1, -1):
            residency.let_go(state, requests.generated_ids[first + k], rules, priority, i, counts)
    state.n[st.SCRATCH] -= blocks - held
    for k in range(held - 1, -1, -1):
        if k == stop - start - 1 and copy != replay.NONE:
            residency.let_go(state, copy, rules, priority, i, counts)
        else:
            residency.let_go(state, st.node_of(state, requests.block_ids[start + k]), rules, priority, i, counts)


@kernel(inline=True)
def account(state, full, hits, held, evicted, counts):
    """Count an admission; `evicted` is the number of evictions before it."""
    replay.tally(counts, full, hits, held - hits)
    replay.account(counts, state.n[st.SCRATCH])
    view.average(state.cache[0], full, hits, counts[replay.EVICTED] - evicted)


@kernel(inline=True)
def _admit(state, requests, i, hits, row, rows, rules, hooks, counts):
    """Handle an admission: touch hits, decide on the rest, make room, insert."""
    priority, admit, on_hit, on_insert, on_evict = hooks
    evicted = counts[replay.EVICTED]
    full = requests.offsets[i + 1] - requests.offsets[i]
    blocks = replay.prompt_blocks(requests, i, rules.block_tokens)
    touch_hits(state, requests, i, hits, rules, on_hit)
    held = _decide(state, requests, i, hits, rules, admit, on_evict, counts)
    residency.make_room(state, blocks - hits, rules, priority, on_evict, i, counts)
    rows.copy[row] = insert(state, requests, i, hits, held, rules, on_insert, counts)
    rows.held[row] = held
    state.n[st.SCRATCH] += blocks - held
    account(state, full, hits, held, evicted, counts)


@kernel(inline=True)
def _fits(state, requests, i, hits, unpinned, rules):
    """Return whether request `i` finds room once everything that nothing uses is evicted."""
    taken = state.n[st.SCRATCH] + state.n[st.PINNED] + unpinned
    return taken + replay.prompt_blocks(requests, i, rules.block_tokens) - hits <= state.n[st.CAPACITY]


class Hooks(NamedTuple):
    """The native functions of a policy, in the order the engine unpacks them."""

    priority: Any
    admit: Any
    on_hit: Any
    on_insert: Any
    on_evict: Any


def hooks_type() -> Any:
    """Return the numba type of `Hooks`."""
    block, request, cache = (numba.from_dtype(dtype) for dtype in fields.DTYPES)
    by_block = types.FunctionType(types.float64(block, cache))
    by_request = types.FunctionType(types.float64(block, request, cache))
    return types.NamedTuple((by_block, by_request, by_request, by_request, by_block), Hooks)


def _signature() -> Any:
    state = st.new_state(np.zeros(1, np.int32), 1, 1, 1, False)
    values = (replay.sample_requests(), view.sample_labels(), state, new_rows(1, 1), replay.new_running(1))
    rules = numba.typeof(Rules(1, 0, False, False, False, False, False))
    outputs = (types.int32[::1], types.float64[::1], types.int64[::1])
    kinds = (numba.typeof(value) for value in values)
    return types.void(*kinds, hooks_type(), rules, numba.typeof(replay.SERIAL), types.float64, *outputs)


@kernel(_signature())
def replay_policy(requests, labels, state, rows, running, hooks, rules, server, origin, hits_out, start_out, counts):
    """Replay all requests against a policy.

    Args:
        requests: `replay.Requests`; first those still running, if this is not the first step of a replay.
        labels: `view.Labels`.
        state: `state.new_state(...)`; holds the final state afterwards.
        rows: `new_rows(n, server.max_running)`, or `next_rows`.
        running: `replay.new_running(server.max_running)`, kept from step to step like `state` and `counts`.
        hooks: `Hooks` of native functions.
        rules: `Rules`.
        server: `replay.Server`; in serial mode a request finishes as it starts.
        origin: Where the clocks a policy sees begin, a whole number.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`; those of running requests are read.
        start_out: float64 (n,), filled with admission times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    n, now_s = requests.input_tokens.size, running.now_s[0]
    if state.cache[0].capacity_blocks == 0.0:  # a new state
        state.cache[0].capacity_blocks = state.n[st.CAPACITY]
        state.cache[0].block_tokens = rules.block_tokens
        state.cache[0].now = origin
        state.released[0] = origin
    for i in range(running.size[0], n if running.more[0] else n + 1):
        if i < n and replay.prompt_blocks(requests, i, rules.block_tokens) > state.n[st.CAPACITY]:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        now_s = max(now_s, requests.arrival_s[i]) if i < n else np.inf
        due_s, hits, waited = now_s, 0, False
        while running.size[0] > 0 or i < n:
            if running.size[0] == 0 or running.finish_s[0] > due_s:
                hits, unpinned = match(state, requests, i, rules.block_tokens)
                if running.size[0] < running.finish_s.size and _fits(state, requests, i, hits, unpinned, rules):
                    break
                waited = True
            finish_s = running.finish_s[0]
            now_s = max(now_s, finish_s)
            j = replay.next_finish(running)
            row = rows.row_of[j]
            view.observe(state.cache[0], finish_s, origin, state.n[st.PINNED] + state.n[st.SCRATCH], counts)
            _finish(state, requests, labels, j, row, hits_out[j], rows, rules, hooks, counts)
            rows.vacant[running.size[0]] = row
        if i == n or state.n[st.BROKEN] > 0:
            return
        state.cache[0].now += 1.0
        view.observe(state.cache[0], now_s, origin, state.n[st.PINNED] + state.n[st.SCRATCH], counts)
        view.follow(state.cache[0], labels, i)
        view.present(state.request[0], requests, labels, i, hits, st.known_blocks(state, requests, i, hits))
        row = rows.vacant[running.size[0]]
        rows.row_of[i] = row
        _admit(state, requests, i, hits, row, rows, rules, hooks, counts)
        counts[replay.WAITED] += waited
        hits_out[i], start_out[i] = hits, now_s
        finish_s = replay.finish_time(requests, i, hits, rules.block_tokens, now_s, server) if server.overlap else now_s
        replay.start_running(running, finish_s, i)
        running.now_s[0] = now_s
