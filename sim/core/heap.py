"""A binary min-heap of nodes by (score, tie), with the place of every node known so that any can be removed.

Knows numbers; must not know what a node or a score stands for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import replay
from sim.core.compiled import kernel


class Heap(NamedTuple):
    """Entries lie at places 0..size-1; lower (score, tie) is nearer to place 0."""

    score: npt.NDArray[np.float64]
    tie: npt.NDArray[np.float64]
    node: npt.NDArray[np.uint32]
    place_of: npt.NDArray[np.uint32]
    """Per node: its place, or `replay.NONE`."""
    size: npt.NDArray[np.int64]
    """Shape (1,)."""


def new_heap(nodes: int, entries: int) -> Heap:
    """Return an empty heap for at most `entries` of `nodes` nodes."""
    return Heap(
        np.empty(entries),
        np.empty(entries),
        np.empty(entries, np.uint32),
        np.full(nodes, replay.NONE, np.uint32),
        np.zeros(1, np.int64),
    )


@kernel(inline=True)
def _place(heap, i, score, tie, node):
    heap.score[i], heap.tie[i], heap.node[i] = score, tie, node
    heap.place_of[node] = i


@kernel(inline=True)
def _earlier(score, tie, other_score, other_tie):
    """Lower score leaves first; of equal scores the one with the lower tie."""
    return score < other_score or (score == other_score and tie < other_tie)


@kernel(inline=True)
def _sift_up(heap, i, score, tie, node):
    """Place an entry at `i` or above."""
    while i > 0:
        above = (i - np.uint64(1)) // np.uint64(2)
        if not _earlier(score, tie, heap.score[above], heap.tie[above]):
            break
        _place(heap, i, heap.score[above], heap.tie[above], heap.node[above])
        i = above
    _place(heap, i, score, tie, node)


@kernel(inline=True)
def _sift_down(heap, i, score, tie, node):
    """Place an entry at `i` or below."""
    n = np.uint64(heap.size[0])
    while True:
        child = np.uint64(2) * i + np.uint64(1)
        if child >= n:
            break
        right = child + np.uint64(1)
        if right < n and _earlier(heap.score[right], heap.tie[right], heap.score[child], heap.tie[child]):
            child = right
        if not _earlier(heap.score[child], heap.tie[child], score, tie):
            break
        _place(heap, i, heap.score[child], heap.tie[child], heap.node[child])
        i = child
    _place(heap, i, score, tie, node)


@kernel(inline=True)
def order(heap):
    """Turn a bag of scored entries into a heap."""
    for place in range(heap.size[0] // 2, 0, -1):
        i = np.uint64(place - 1)
        _sift_down(heap, i, heap.score[i], heap.tie[i], heap.node[i])


@kernel(inline=True)
def add(heap, node, score, tie, ordered):
    """Add a node; unless `ordered`, the heap becomes a bag until `order`."""
    i = np.uint64(heap.size[0])
    heap.size[0] += 1
    if ordered:
        _sift_up(heap, i, score, tie, node)
    else:
        _place(heap, i, score, tie, node)


@kernel(inline=True)
def replace_first(heap, node, score, tie):
    """Put a node in the place of the first entry."""
    heap.place_of[heap.node[0]] = replay.NONE
    _sift_down(heap, np.uint64(0), score, tie, node)


@kernel(inline=True)
def remove(heap, place, ordered):
    """Remove the node at a place of the heap."""
    i = np.uint64(place)
    heap.size[0] -= 1
    last = np.uint64(heap.size[0])
    heap.place_of[heap.node[i]] = replay.NONE
    if i == last:
        return
    score, tie, node = heap.score[last], heap.tie[last], heap.node[last]
    if not ordered:
        _place(heap, i, score, tie, node)
        return
    above = (i - np.uint64(1)) // np.uint64(2)
    if i > 0 and _earlier(score, tie, heap.score[above], heap.tie[above]):
        _sift_up(heap, i, score, tie, node)
    else:
        _sift_down(heap, i, score, tie, node)
