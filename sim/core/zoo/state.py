"""What a classic policy remembers: lists and a heap over ids, a few registers, a sketch. One type for all policies.

Knows arrays only; must not know any policy, nor requests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import heap, replay
from sim.core.compiled import kernel, records

NODE = np.dtype(
    [
        ("prev", np.uint32),
        ("next", np.uint32),
        ("home", np.int32),
        ("count", np.int32),
        ("pins", np.int32),
        ("mark", np.int32),
        ("resident", np.int32),
        ("listed", np.int32),
        ("when", np.float64),
        ("before", np.float64),
    ]
)
"""One id. `prev`, `next`: neighbours in its list, `next` is nearer to the tail. `home`: number of that list, or
`NOWHERE`; of a sentinel unused. `count`: accesses; of a sentinel the length of its list. `pins`: running requests that
use it. `mark`: a flag of the policy. `resident`: whether it is in the cache. `listed`: whether the policy was told so
(a block that is being computed is resident, but in no list). `when`, `before`: numbers of the policy (a time or score).
"""

LISTS = 12
"""Lists a policy may use."""

NOWHERE = -1
"""In no list."""

CAPACITY, RESIDENT, EVICTED, CLOCK, IDS, STRICT, RANDOM, OWN = range(8)
"""Integer registers shared by all: size of the cache, ids in it, evictions so far, accesses so far, number of ids,
whether libCacheSim's evictions outside of allocation apply (flat accounting), state of the random numbers, and the
first register that belongs to the policy."""


class State(NamedTuple):
    """Arrays of one replay of one policy."""

    nodes: npt.NDArray[np.void]
    """Dtype `NODE`: `IDS` ids, one that stands for a block without an id, then, if the policy needs a second place per
    id, the same again, then `LISTS` sentinels."""
    whole: npt.NDArray[np.int64]
    """Integer registers."""
    real: npt.NDArray[np.float64]
    """Floating-point registers of the policy."""
    heap: heap.Heap
    """Of resident ids, lowest first; or an unordered bag to sample from."""
    sketch: npt.NDArray[np.uint32]
    """Counters of a frequency sketch."""
    future: npt.NDArray[np.int64]
    """Per reference: position of the next reference to the same id; empty unless the policy is offline."""


class Needs(NamedTuple):
    """How much of a state a policy uses."""

    second_place: bool = False
    heap: bool = False
    real: int = 4
    sketch: int = 0


def new_state(n_ids: int, capacity: int, needs: Needs, strict: bool, future: npt.NDArray[np.int64]) -> State:
    """Return a state in which nothing is resident."""
    places = (n_ids + 1) * (2 if needs.second_place else 1)
    nodes = np.zeros(places + LISTS, NODE)
    nodes["home"] = NOWHERE
    around = np.arange(places, places + LISTS, dtype=np.uint32)
    nodes["prev"][places:], nodes["next"][places:] = around, around
    whole = np.zeros(32, np.int64)
    whole[CAPACITY], whole[IDS], whole[STRICT] = capacity, n_ids, strict
    entries = heap.new_heap(n_ids + 1 if needs.heap else 0, min(capacity, n_ids) + 1 if needs.heap else 0)
    sketch = np.zeros(needs.sketch, np.uint32)
    return State(records(nodes), whole, np.zeros(needs.real), entries, sketch, replay.frozen(future, np.int64))


@kernel(inline=True)
def second(state, block):
    """Return the second place of an id."""
    return np.uint32(block + np.uint32(state.whole[IDS]) + np.uint32(1))


@kernel(inline=True)
def leave(state, block):
    """Note that an id left the cache; the caller has taken it off its lists."""
    state.nodes[block].resident = 0
    state.nodes[block].listed = 0
    state.whole[RESIDENT] -= 1
    state.whole[EVICTED] += 1


@kernel(inline=True)
def random_below(state, n):
    """Return a whole number in 0..n-1 (xorshift64; the register must not be 0)."""
    x = np.uint64(state.whole[RANDOM])
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state.whole[RANDOM] = np.int64(x)
    return np.int64((x >> np.uint64(11)) % np.uint64(n))
