"""Doubly linked lists over ids, each behind a sentinel node. The head is the newest end, the tail the oldest.

Knows nodes only; must not know what a list is for.
"""

from __future__ import annotations

import numpy as np

from sim.core import replay
from sim.core.compiled import kernel
from sim.core.zoo.state import LISTS, NOWHERE


@kernel(inline=True)
def sentinel(state, number):
    """Return the node before the head and after the tail of a list."""
    return np.uint32(state.nodes.size - LISTS + number)


@kernel(inline=True)
def length(state, number):
    """Return how many nodes a list has."""
    return np.int64(state.nodes[sentinel(state, number)].count)


@kernel(inline=True)
def _link(state, number, node, before, after):
    nodes = state.nodes
    nodes[node].prev, nodes[node].next, nodes[node].home = before, after, number
    nodes[before].next = node
    nodes[after].prev = node
    nodes[sentinel(state, number)].count += 1


@kernel(inline=True)
def push(state, number, node):
    """Put a node that is in no list at the head."""
    end = sentinel(state, number)
    _link(state, number, node, end, state.nodes[end].next)


@kernel(inline=True)
def unlink(state, node):
    """Take a node out of its list."""
    nodes = state.nodes
    before, after = nodes[node].prev, nodes[node].next
    nodes[before].next = after
    nodes[after].prev = before
    nodes[sentinel(state, nodes[node].home)].count -= 1
    nodes[node].home = NOWHERE


@kernel(inline=True)
def move(state, number, node):
    """Put a node that is in some list at the head of another, or of its own."""
    unlink(state, node)
    push(state, number, node)


@kernel(inline=True)
def tail(state, number):
    """Return the oldest node, or `replay.NONE`."""
    end = sentinel(state, number)
    node = state.nodes[end].prev
    return replay.NONE if node == end else node


@kernel(inline=True)
def oldest_free(state, number):
    """Return the node nearest to the tail that no running request uses, or `replay.NONE`."""
    end = sentinel(state, number)
    node = state.nodes[end].prev
    while node != end and state.nodes[node].pins > 0:
        node = state.nodes[node].prev
    return replay.NONE if node == end else node


@kernel(inline=True)
def newest_free(state, number):
    """Return the node nearest to the head that no running request uses, or `replay.NONE`."""
    end = sentinel(state, number)
    node = state.nodes[end].next
    while node != end and state.nodes[node].pins > 0:
        node = state.nodes[node].next
    return replay.NONE if node == end else node


@kernel(inline=True)
def forget_oldest(state, number):
    """Drop the tail of a list of ghosts."""
    unlink(state, tail(state, number))


@kernel(inline=True)
def remember(state, number, node, limit):
    """Put a node that is in no list at the head of a list of at most `limit` ghosts; the oldest is forgotten."""
    if limit > 0:
        if length(state, number) >= limit:
            forget_oldest(state, number)
        push(state, number, node)
