"""What engine modules share: the arrays a kernel fills, and refusing what an engine does not model.

Knows options and arrays; must not know any engine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import replay
from sim.core import state as st
from sim.options import Options, PolicyError, Replay
from sim.prepared import Prepared


class Outputs(NamedTuple):
    """Hits (int32) and admission times in seconds (float64) per request, and the int64 counters of a kernel."""

    hits: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    @property
    def totals(self) -> dict[str, int]:
        """The counters by name."""
        return named(self.counts)

    def replay(self) -> Replay:
        """Return the outcome of a native replay."""
        return Replay(self.totals, self.hits, self.start_s, None)


def new_outputs(prepared: Prepared) -> Outputs:
    """Return arrays for one replay, as kernels want them."""
    n = prepared.requests.input_tokens.size
    return Outputs(np.zeros(n, np.int32), np.zeros(n), new_counts())


def new_counts() -> npt.NDArray[np.int64]:
    """Return the counters of a kernel, at 0."""
    return np.zeros(len(replay.COUNTERS), np.int64)


def named(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return a kernel's counters by name."""
    return dict(zip(replay.COUNTERS, counts.tolist(), strict=True))


def require(options: Options, engine: str, **needed: str) -> None:
    """Refuse options an engine does not model.

    Raises:
        ValueError: If an option is not what is `needed`.
    """
    for name, value in needed.items():
        given = getattr(options, name)
        if given != value:
            raise ValueError(f"engine {engine!r} models {name}={value!r} only, not {given!r}")


def check_finite(state: st.State, policy: str, number: npt.NDArray[np.int64] | None = None) -> None:
    """Refuse the outcome of a policy one of whose priorities was not finite.

    Args:
        state: As a kernel left it.
        policy: Name for the message.
        number: int64 (n,), number in the trace of each request the kernel was given; None if they are equal.

    Raises:
        PolicyError: The message says at which request.
    """
    if state.n[st.BROKEN]:
        given = int(state.n[st.BROKEN]) - 1
        request = given if number is None else int(number[given])
        raise PolicyError(
            f"{policy}: priority returned a number that is not finite at request {request}; guard "
            "divisions and logarithms (a block's gap, hits and depth can be 0)"
        )
