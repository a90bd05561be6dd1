"""The best any cache can do, by trying everything: for traces of a few requests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from sim.twin_server import asks_of
from workloads import Trace


def exhaustive(trace: Trace, capacity: int, values: Sequence[float] | None = None) -> float:
    """Return the most value over all choices of what to keep; kept sets need not be prefixes.

    A hit at depth k is worth `values[k]`, or 1. While a request runs, its blocks and the others kept share the
    capacity. Afterwards its full blocks may stay as well; dropping later what could be dropped now loses nothing, so
    only the choice of `others` matters.
    """
    best: dict[frozenset[int], float] = {frozenset(): 0.0}
    for ask in asks_of(trace, "none"):
        if ask.prompt_blocks > capacity:
            continue
        after: dict[frozenset[int], float] = {}
        for kept, total in best.items():
            hits = 0
            while hits < ask.hit_limit and ask.blocks[hits] in kept:
                hits += 1
            others = kept - set(ask.blocks)
            for stay in combinations(sorted(others), min(len(others), capacity - ask.prompt_blocks)):
                state = frozenset([*stay, *ask.blocks])
                value = total + (hits if values is None else sum(values[:hits]))
                after[state] = max(after.get(state, 0.0), value)
        best = after
    return max(best.values())
