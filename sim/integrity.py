"""Conservation laws of a replay: `check_integrity` names the first one that is broken.

Knows what must hold in the end, whatever the policy did; must not know how the kernels get there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.core import lru, replay
from sim.core import state as st
from sim.core.residency import AT_EVICTION
from sim.prepared import Prepared, prepare
from sim.simulation import Replay
from workloads.trace import Trace

NONE = int(replay.NONE)


class IntegrityError(AssertionError):
    """A replay broke a conservation law; the message names the law and the numbers."""


def _law(name: str, holds: bool | np.bool_, detail: object = "") -> None:
    if not holds:
        raise IntegrityError(f"{name}: {detail}")


def check_integrity(
    prepared: Prepared | Trace, outcome: Replay, capacity_blocks: int, serves_all: bool = False
) -> None:
    """Check a finished replay, of a policy (`run_policy`) or of the native engine (`run_engine`).

    Counters: every looked-up block is hit, admitted or bypassed; what entered has left or is resident; no request hits
    more than its limit or than an infinite cache would; nothing ever exceeds the capacity; time does not run backwards.
    A policy's final state: nothing is pinned; resident blocks and further copies add up; with leaf-only eviction the
    ancestors of a resident block are resident and children counts are right; the candidates are exactly the evictable
    blocks, in heap order; the ghost list holds exactly the remembered blocks, within its limit.
    The native pool: the free queue holds exactly the unused slots; a lookup reaches exactly the hashed ones.

    Args:
        prepared: What was replayed; a plain trace stands for decode mode "none".
        outcome: What `sim.simulation.run_policy` or `run_engine` returned.
        capacity_blocks: Size of the cache.
        serves_all: Whether requests with more blocks than the cache are served: a store beside the compute pool.

    Raises:
        IntegrityError: If a law is broken.
    """
    prepared = prepare(prepared) if isinstance(prepared, Trace) else prepared
    _check_counters(prepared, outcome, capacity_blocks)
    _check_requests(prepared, outcome, capacity_blocks, serves_all)
    if outcome.pool is not None:
        _check_pool(outcome.pool, outcome.counts, capacity_blocks)
    if outcome.state is not None:
        leaf_only = outcome.rules is None or not outcome.rules.orphans
        ordered = outcome.rules is None or outcome.rules.scoring != AT_EVICTION
        _check_residents(outcome.state, outcome.counts, capacity_blocks)
        if leaf_only:
            _check_tree(outcome.state)
        _check_candidates(outcome.state, leaf_only, ordered)
        _check_ghosts(outcome.state)


def _check_counters(prepared: Prepared, outcome: Replay, capacity_blocks: int) -> None:
    counts, hits = outcome.counts, outcome.hits
    served = hits >= 0
    full = np.diff(prepared.requests.offsets)
    _law("counters are not negative", min(counts.values()) >= 0, counts)
    looked_up = counts["hit_blocks"] + counts["admitted_blocks"] + counts["bypassed_blocks"]
    _law("hit + admitted + bypassed = looked up", looked_up == counts["looked_up_blocks"], counts)
    entered = counts["admitted_blocks"] + counts["generated_blocks"]
    left = counts["evicted_blocks"] + counts["resident_blocks"]
    _law("admitted + generated = evicted + resident", entered == left, counts)
    _law("hit blocks = sum over requests", int(hits[served].sum()) == counts["hit_blocks"], counts)
    _law("looked up = full blocks of served requests", int(full[served].sum()) == counts["looked_up_blocks"], counts)
    _law("unserved requests have hit count -1", int((~served).sum()) == counts["unserved_requests"], counts)
    generated = int(np.diff(prepared.requests.generated_offsets)[served].sum())
    kept = counts["generated_blocks"] + counts["dropped_generated_blocks"]
    finished = outcome.pool is None  # the native engine stops at the last admission in overlap mode
    _law("generated + dropped = completed by decode", kept == generated if finished else kept <= generated, counts)
    peaks = (counts["resident_blocks"], counts["peak_resident_blocks"], counts["peak_used_blocks"])
    _law("no peak exceeds the capacity", max(peaks) <= capacity_blocks, peaks)
    _law("resident peak <= used peak", peaks[1] <= peaks[2], peaks)


def _check_requests(prepared: Prepared, outcome: Replay, capacity_blocks: int, serves_all: bool) -> None:
    requests, hits, start_s = prepared.requests, outcome.hits, outcome.start_s
    tokens = requests.input_tokens.astype(np.int64)
    served = hits >= 0
    fits = (-(-tokens // prepared.block_tokens) <= capacity_blocks) | serves_all
    _law("a request is served if and only if it fits", np.array_equal(served, fits), np.flatnonzero(served != fits))
    limit = np.minimum(np.maximum(tokens - 1, 0) // prepared.block_tokens, np.diff(requests.offsets))
    infinite = np.minimum(_available_prefix(prepared), limit)
    over = np.flatnonzero(hits > infinite)
    _law("hits <= those of an infinite cache", over.size == 0, f"requests {over[:5]}")
    late = start_s[served] >= requests.arrival_s[served]
    _law("no admission before the arrival", bool(late.all()), np.flatnonzero(served)[~late][:5])
    _law("first come, first served", bool((np.diff(start_s[served]) >= 0).all()), "admission times run backwards")


def _available_prefix(prepared: Prepared) -> npt.NDArray[np.int64]:
    """Return how many leading blocks of each request an earlier one has asked for or generated."""
    requests = prepared.requests
    n = requests.input_tokens.size
    first = np.full(prepared.parents.size, n, np.int64)
    for offsets, ids in ((requests.offsets, requests.block_ids), (requests.generated_offsets, requests.generated_ids)):
        np.minimum.at(first, ids, np.repeat(np.arange(n), np.diff(offsets)))
    new = first[requests.block_ids] >= np.repeat(np.arange(n), np.diff(requests.offsets))
    position = np.append(np.where(new, np.arange(new.size), new.size), new.size)
    next_new = np.minimum.accumulate(position[::-1])[::-1]
    start, stop = requests.offsets[:-1], requests.offsets[1:]
    available: npt.NDArray[np.int64] = np.minimum(next_new[start], stop) - start
    return available


def _resident_nodes(state: st.State) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (node, its block id) of everything resident, first copies before further ones."""
    first = np.flatnonzero(state.status == st.RESIDENT)
    holders = np.flatnonzero(state.status >= st.RESIDENT)
    nodes, blocks = [first], [first]
    links, ids = state.next_copy[holders].astype(np.int64), holders
    while (links != NONE).any():
        ids, links = ids[links != NONE], links[links != NONE]
        nodes.append(links)
        blocks.append(ids)
        links = state.next_copy[links].astype(np.int64)
    return np.concatenate(nodes), np.concatenate(blocks)


def _check_residents(state: st.State, counts: dict[str, int], capacity_blocks: int) -> None:
    n_ids = state.status.size
    nodes, blocks = _resident_nodes(state)
    pinned, scratch, spares = (int(state.n[k]) for k in (st.PINNED, st.SCRATCH, st.SPARES))
    _law("nothing is pinned in the end", pinned == 0 and not state.pins.any(), f"{pinned} pinned")
    _law("no scratch block is held in the end", scratch == 0, scratch)
    _law("resident counter = resident blocks", nodes.size == counts["resident_blocks"], (nodes.size, counts))
    free = capacity_blocks - nodes.size - scratch
    _law("free + resident + scratch = capacity, free >= 0", free >= 0, free)
    further = nodes >= n_ids
    _law("further copies know their block", np.array_equal(state.copy_of[nodes[further] - n_ids], blocks[further]))
    unused = state.copy_of.size - int(further.sum())
    _law("copies in use + spare copies = all copies", spares == unused, (spares, unused))
    alone = np.flatnonzero(state.status < st.RESIDENT)
    _law("only resident blocks have copies", bool((state.next_copy[alone] == NONE).all()))
    orphaned = (state.status == st.COPY_ONLY) & (state.next_copy[:n_ids] == NONE)
    _law("a block resident as a copy has one", not orphaned.any(), np.flatnonzero(orphaned)[:5])


def _check_tree(state: st.State) -> None:
    nodes, blocks = _resident_nodes(state)
    resident = state.status >= st.RESIDENT
    parents = state.parents[blocks].astype(np.int64)
    inner = parents != NONE
    lost = blocks[inner][~resident[parents[inner]]]
    _law("ancestors of a resident block are resident", lost.size == 0, f"orphans {lost[:5]}")
    expected = np.zeros(state.pins.size)
    of = parents[inner]
    found = np.where(state.status[of] == st.RESIDENT, of, state.next_copy[of]).astype(np.int64)
    np.add.at(expected, found, 1.0)
    wrong = nodes[state.block["children"][nodes] != expected[nodes]]
    _law("children counts are right", wrong.size == 0, f"nodes {wrong[:5]}")


def _check_candidates(state: st.State, leaf_only: bool, ordered: bool) -> None:
    heap = state.candidates
    size = int(heap.size[0])
    listed = heap.node[:size].astype(np.int64)
    nodes, _ = _resident_nodes(state)
    children = state.block["children"][nodes]
    evictable = nodes[(state.pins[nodes] == 0) & (~np.bool_(leaf_only) | (children <= 0))]
    same = np.array_equal(np.sort(listed), np.sort(evictable))
    _law("candidates = evictable blocks", same, np.setxor1d(listed, evictable)[:5])
    places = np.full(state.pins.size, NONE, np.int64)
    places[listed] = np.arange(size)
    _law("each candidate is where it is said to be", np.array_equal(places, heap.place_of))
    released = state.block["released"][listed]
    _law("ties go by order of release", np.array_equal(heap.tie[:size], released))
    if ordered and size > 1:
        below = np.arange(1, size)
        above = (below - 1) // 2
        score, tie = heap.score[:size], heap.tie[:size]
        fine = (score[above] < score[below]) | ((score[above] == score[below]) & (tie[above] < tie[below]))
        _law("no candidate lies below a later one", bool(fine.all()), below[~fine][:5])


def _check_ghosts(state: st.State) -> None:
    end = state.status.size
    remembered = np.flatnonzero(state.status == st.GHOST)
    count, limit = int(state.n[st.GHOSTS]), int(state.n[st.GHOST_LIMIT])
    _law("ghost counter = remembered blocks", count == remembered.size, (count, remembered.size))
    _law("ghosts <= limit", count <= limit, (count, limit))
    for name, links in (("newer", state.newer), ("older", state.older)):
        walked: list[int] = []
        at = int(links[end])
        while at != end and len(walked) <= count:
            walked.append(at)
            at = int(links[at])
        whole = at == end and np.array_equal(np.sort(np.array(walked, np.int64)), remembered)
        _law(f"the ghost list is whole ({name})", whole, walked[:5])
    forgotten = state.block[:end][state.status == st.ABSENT]
    _law("forgotten blocks have blank records", not forgotten.view(np.float64).any())


def _check_pool(pool: lru.Pool, counts: dict[str, int], capacity_blocks: int) -> None:
    queue: list[int] = []
    nexts, prevs, content = pool.slots["next"], pool.slots["prev"], pool.slots["content"][:-1]
    at = int(nexts[capacity_blocks])
    while at != capacity_blocks and len(queue) <= capacity_blocks:
        _law("the free queue is linked both ways", int(nexts[prevs[at]]) == at, at)
        queue.append(at)
        at = int(nexts[at])
    unused = np.flatnonzero(pool.references == 0)
    _law("the free queue holds exactly the unused slots", np.array_equal(np.sort(np.array(queue, np.int64)), unused))
    _law("free counter = length of the queue", int(pool.free[0]) == len(queue), (int(pool.free[0]), len(queue)))
    _law("no slot has negative references", bool((pool.references >= 0).all()))
    hashed = np.flatnonzero(content != lru.UNHASHED)
    _law("resident counter = hashed slots", hashed.size == counts["resident_blocks"], (hashed.size, counts))
    reached: list[int] = []
    for block in np.unique(content[hashed]):
        slot = int(pool.first_copy[block])
        while slot != NONE and len(reached) <= hashed.size:
            _law("a slot holds the block it is listed under", content[slot] == block, slot)
            reached.append(slot)
            slot = int(pool.slots["next_copy"][slot])
    _law("a lookup reaches exactly the hashed slots", np.array_equal(np.sort(np.array(reached, np.int64)), hashed))
    listed = np.flatnonzero(pool.first_copy != NONE)
    _law("no block is listed without a slot", np.array_equal(listed, np.unique(content[hashed])))
