"""What the policy engine keeps: block records, residency, pins, the eviction candidates, the ghost list.

Knows layout only; must not know when anything changes (that is `sim.core.engine`). A *node* is one physical block:
node = id for the first copy of a block; further copies (vLLM recomputes a full hit's last block into a second copy)
have nodes from n_ids on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import fields, replay
from sim.core.compiled import kernel, records
from sim.core.heap import Heap, new_heap

ABSENT, GHOST, RESIDENT, COPY_ONLY = range(4)
"""State of an id: unknown; remembered, not resident; resident; resident only as a further copy."""

SCALARS = ("ghosts", "spares", "pinned", "scratch", "capacity", "ghost_limit", "broken", "logged", "draws")
"""Order of `State.n`. `broken` is 1 + the request at which a priority was not finite; 0 while all is well."""
GHOSTS, SPARES, PINNED, SCRATCH, CAPACITY, GHOST_LIMIT, BROKEN, LOGGED, DRAWS = range(len(SCALARS))


class State(NamedTuple):
    """All arrays of one replay."""

    block: npt.NDArray[np.void]
    """`fields.BLOCK_DTYPE` per node."""
    request: npt.NDArray[np.void]
    """Shape (1,), the request being handled."""
    cache: npt.NDArray[np.void]
    """Shape (1,), what policies see of the cache."""
    blank: npt.NDArray[np.void]
    """Shape (1,), a forgotten block."""
    parents: npt.NDArray[np.uint32]
    """Per id, `replay.NONE` for the first block of a prompt."""
    status: npt.NDArray[np.uint8]
    """Per id: ABSENT, GHOST, RESIDENT or COPY_ONLY."""
    next_copy: npt.NDArray[np.uint32]
    """Per node: the next physical copy of the same id."""
    copy_of: npt.NDArray[np.uint32]
    """Per further node: its id."""
    spare: npt.NDArray[np.uint32]
    """Stack of further nodes not in use."""
    pins: npt.NDArray[np.int32]
    """Per node: running requests that use it."""
    candidates: Heap
    """Nodes that may be evicted now, by (score, order of release)."""
    touch_score: npt.NDArray[np.float64]
    """Per node, only with touch-time scoring: the score at release."""
    older: npt.NDArray[np.uint32]
    """Ghost list per id and a sentinel at n_ids."""
    newer: npt.NDArray[np.uint32]
    n: npt.NDArray[np.int64]
    """Scalars, see `SCALARS`."""
    released: npt.NDArray[np.float64]
    """Shape (1,): blocks released so far."""
    log_request: npt.NDArray[np.int32]
    """Eviction log; empty if not wanted."""
    log_block: npt.NDArray[np.uint32]


def new_state(
    parents: npt.NDArray[Any], capacity: int, copies: int, ghost_blocks: int, touch: bool, logged: int = 0
) -> State:
    """Return an empty cache.

    Args:
        parents: Parent id per id, -1 (or `replay.NONE`) for roots.
        capacity: Blocks.
        copies: Most further copies that can exist at one time.
        ghost_blocks: Length of the ghost list; 0 remembers nothing.
        touch: Whether scores are kept from release on.
        logged: Evictions to log.
    """
    n_ids = parents.size
    nodes = n_ids + copies
    none = replay.NONE
    scalars = np.zeros(len(SCALARS), np.int64)
    scalars[[SPARES, CAPACITY, GHOST_LIMIT]] = copies, capacity, ghost_blocks
    return State(
        block=records(np.zeros(nodes, fields.BLOCK_DTYPE)),
        request=records(np.zeros(1, fields.REQUEST_DTYPE)),
        cache=records(np.zeros(1, fields.CACHE_DTYPE)),
        blank=records(np.zeros(1, fields.BLOCK_DTYPE)),
        parents=replay.frozen(parents.astype(np.int32, copy=False).view(np.uint32), np.uint32),
        status=np.zeros(n_ids, np.uint8),
        next_copy=np.full(nodes, none, np.uint32),
        copy_of=np.zeros(copies, np.uint32),
        spare=np.arange(n_ids, nodes, dtype=np.uint32),
        pins=np.zeros(nodes, np.int32),
        candidates=new_heap(nodes, min(capacity, nodes) + 1),
        touch_score=np.zeros(nodes if touch else 1),
        older=np.full(n_ids + 1, n_ids, np.uint32),
        newer=np.full(n_ids + 1, n_ids, np.uint32),
        n=scalars,
        released=np.zeros(1),
        log_request=np.empty(logged, np.int32),
        log_block=np.empty(logged, np.uint32),
    )


@kernel(inline=True)
def node_of(state, block):
    """Return the node a lookup of `block` finds, or `replay.NONE`."""
    status = state.status[block]
    if status == RESIDENT:
        return block
    return state.next_copy[block] if status == COPY_ONLY else replay.NONE


@kernel(inline=True)
def known_blocks(state, requests, i, hits):
    """Return the full blocks of request `i`, from the start on, that are resident or remembered; `hits` are."""
    start, stop = requests.offsets[i], requests.offsets[i + 1]
    k = start + hits
    while k < stop and state.status[requests.block_ids[k]] != ABSENT:
        k += 1
    return k - start


@kernel(inline=True)
def remember(state, block):
    """Put a block that is not resident at the new end of the ghost list; forget the oldest beyond the limit."""
    end = np.uint32(state.status.size)
    newest = state.older[end]
    state.newer[newest], state.older[block] = block, newest
    state.newer[block], state.older[end] = end, block
    state.status[block] = GHOST
    state.n[GHOSTS] += 1
    if state.n[GHOSTS] > state.n[GHOST_LIMIT]:
        oldest = state.newer[end]
        recall(state, oldest)
        state.status[oldest] = ABSENT
        state.block[oldest] = state.blank[0]


@kernel(inline=True)
def recall(state, block):
    """Take a block out of the ghost list; its record stays."""
    after, before = state.newer[block], state.older[block]
    state.newer[before], state.older[after] = after, before
    state.n[GHOSTS] -= 1
