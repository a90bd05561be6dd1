"""How a policy plugs into the drivers: four native functions of one signature, called through pointers.

A driver is compiled once for all policies; a policy costs its small functions only. Knows types; no policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core import config

from sim.core.compiled import keyed_cache
from sim.core.zoo import state as st

STATE = numba.typeof(st.new_state(1, 1, st.Needs(), True, np.zeros(0, np.int64)))
BY_STATE = types.boolean(STATE, types.uint32)


class Hooks(NamedTuple):
    """The native functions of a policy. Every one returns True, except `evict` (see there).

    A driver calls, for an access to a resident id, `hit`; else `miss`, then `evict` while there is no room, then
    `insert`. The driver keeps `resident`, `listed` and `pins` of an id; a hook that drops an id calls `state.leave`.
    """

    hit: Any
    """An id that is in the policy's lists is accessed."""
    miss: Any
    """An id that is not resident is asked for; ghosts are looked up and parameters adapt here."""
    evict: Any
    """Make room for the given id, never by an id with pins; may be called again. At least one listed id is without
    pins. Returns False if the given id is to stay out (flat accounting only)."""
    insert: Any
    """An id enters the policy's lists; it is counted as resident already."""


class Kit(NamedTuple):
    """A policy, ready for a driver."""

    hooks: Hooks
    needs: Callable[[int], st.Needs]
    """Of the capacity."""
    setup: Callable[[st.State], None]
    """Fills the registers of a new state."""


def no_setup(state: st.State) -> None:
    """Leave all registers at zero."""


def plain(capacity: int) -> st.Needs:
    """Return the needs of a policy that uses lists only."""
    return st.Needs()


def with_heap(capacity: int) -> st.Needs:
    """Return the needs of a policy that uses the heap."""
    return st.Needs(heap=True)


def hook(function: Callable[..., Any]) -> Any:
    """Compile a hook eagerly, from the keyed cache where possible."""
    if config.DISABLE_JIT:
        return function
    with keyed_cache(function.__module__) as kept:
        return numba.cfunc(BY_STATE, cache=kept, error_model="numpy", _nrt=False)(function)


@hook
def nothing(state, block):
    """Do nothing."""
    return True
