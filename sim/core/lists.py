"""Intrusive doubly linked lists over ids, several in one array: the queues of every engine that keeps order.

Knows links; must not know what an id stands for. A node array has a record per id and, after them, one per list, its
sentinel: list `k` of `n` ids has the head `n + k`. An id is in at most one of the lists of an array. The record type is
the caller's: any with the uint32 fields `next` and `prev`, so that an engine keeps what it reads together in one line
of cache.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.core import replay
from sim.core.compiled import kernel, records

LINKS = (("next", np.uint32), ("prev", np.uint32))
"""Fields every node has; `next` is `replay.NONE` for an id that is in no list."""


def new_nodes(n_ids: int, lists: int, *fields: tuple[str, type]) -> npt.NDArray[np.void]:
    """Return nodes of `n_ids` ids, none in a list, and of `lists` empty lists.

    Args:
        n_ids: Ids 0..n_ids-1.
        lists: Number of lists; their heads are n_ids, n_ids + 1, ...
        fields: Names and types of further fields, all zero at first.
    """
    nodes = np.zeros(n_ids + lists, np.dtype([*LINKS, *fields]))
    nodes["next"][:n_ids] = nodes["prev"][:n_ids] = replay.NONE
    nodes["next"][n_ids:] = nodes["prev"][n_ids:] = np.arange(n_ids, n_ids + lists)
    return records(nodes)


@kernel(inline=True)
def linked(nodes, i):
    """Return whether an id is in a list."""
    return nodes[i].next != replay.NONE


@kernel(inline=True)
def unlink(nodes, i):
    """Take an id out of its list; the caller links it again, or calls `drop` instead."""
    after, before = nodes[i].next, nodes[i].prev
    nodes[before].next = after
    nodes[after].prev = before


@kernel(inline=True)
def drop(nodes, i):
    """Take an id out of its list for good."""
    unlink(nodes, i)
    nodes[i].next = replay.NONE


@kernel(inline=True)
def push_back(nodes, head, i):
    """Put an id that is in no list, or just unlinked, at the end of a list."""
    last = nodes[head].prev
    nodes[i].next, nodes[i].prev = head, last
    nodes[last].next = i
    nodes[head].prev = i


@kernel(inline=True)
def move_back(nodes, head, i):
    """Move an id that is in a list to the end of a list, the same or another."""
    unlink(nodes, i)
    push_back(nodes, head, i)
