"""What a shadowed replay writes down: every eviction and every decision on a missing block, in order.

Knows layout only; must not know who decides, or what a mistake is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import fields
from sim.core.compiled import kernel, records

_FACTS = [(name, np.int32) for name in ("depth", "age", "seen", "turn", "tenant", "type")]

EVICTION_DTYPE = np.dtype(
    [
        ("request", np.int32),
        ("block", np.uint32),
        ("next_use", np.int64),
        ("instead", np.uint32),
        ("instead_next_use", np.int64),
        ("wanted", np.uint8),
        *_FACTS,
    ],
    align=True,
)
"""An eviction: for which request, the block and where it is asked for next, the oracle's choice and the same of it;
`wanted` is 1 if the optimum hits the block then. `age` is in steps since the last access."""

ADMISSION_DTYPE = np.dtype(
    [
        ("request", np.int32),
        ("block", np.uint32),
        ("next_use", np.int64),
        ("admitted", np.uint8),
        ("wanted", np.uint8),
        ("hits", np.int32),
        *[(name if name != "age" else "gap", kind) for name, kind in _FACTS],
    ],
    align=True,
)
"""A decision on a missing block; `hits` until it left, or to the end. `gap` is in steps between this access and the
one before."""


class Log(NamedTuple):
    """Decisions in order; arrays too short for all take the first ones."""

    eviction: npt.NDArray[np.void]
    """`EVICTION_DTYPE`."""
    victim: npt.NDArray[np.void]
    """`fields.BLOCK_DTYPE` of every `stride`-th evicted block."""
    instead: npt.NDArray[np.void]
    """The same of the oracle's choice."""
    admission: npt.NDArray[np.void]
    """`ADMISSION_DTYPE`."""
    block: npt.NDArray[np.void]
    """`fields.BLOCK_DTYPE` of every `stride`-th missing block, as `admit` sees it."""
    request: npt.NDArray[np.void]
    """`fields.REQUEST_DTYPE`, the same."""
    n: npt.NDArray[np.int64]
    """Shape (2,): evictions and admission decisions so far, logged or not."""
    decision_of: npt.NDArray[np.int64]
    """Per node: number of the decision that admitted it, -1 if none."""


def new_log(evictions: int, decisions: int, stride: int, nodes: int) -> Log:
    """Return an empty log for so many decisions."""
    shown = (-(-evictions // stride), -(-decisions // stride))
    return Log(
        records(np.zeros(evictions, EVICTION_DTYPE)),
        records(np.zeros(shown[0], fields.BLOCK_DTYPE)),
        records(np.zeros(shown[0], fields.BLOCK_DTYPE)),
        records(np.zeros(decisions, ADMISSION_DTYPE)),
        records(np.zeros(shown[1], fields.BLOCK_DTYPE)),
        records(np.zeros(shown[1], fields.REQUEST_DTYPE)),
        np.zeros(2, np.int64),
        np.full(nodes, -1, np.int64),
    )


@kernel(inline=True)
def note_facts(entry, record):
    """Write down what both kinds of entry have in common."""
    entry.depth = int(record.depth)
    entry.seen = int(record.seen)
    entry.turn = int(record.turn)
    entry.tenant = int(record.tenant)
    entry.type = int(record.type)
