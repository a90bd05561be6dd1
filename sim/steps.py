"""One step of a replay: the requests a kernel is given at a time, all of a trace or the next ones of a long one.

Knows how requests that still run go from step to step. Must not know engines, policies or where requests come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.core.replay import Requests, Running, carry_running, frozen
from sim.core.view import Labels
from sim.prepared import Prepared
from workloads import chains

_OFFSETS = ("offsets", "generated_offsets")
_IDS = ("block_ids", "generated_ids")


@dataclass(frozen=True, eq=False)
class Step:
    """Requests in order: first those that the last step left running, then new ones; `n` in all.

    Attributes:
        requests: Arrays for the kernels.
        labels: Optional columns of the same requests.
        carried: int32, numbers that the running ones had in the last step.
        number: int64 (n,), number of each request in the trace.
        hits: int32 (n,), hit blocks; given for running requests, filled for new ones.
        start_s: float64 (n,), admission times; filled for new requests.
    """

    requests: Requests
    labels: Labels
    carried: npt.NDArray[np.int32]
    number: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.float64]


def whole(prepared: Prepared) -> Step:
    """Return all requests of a trace as one step."""
    n = prepared.requests.input_tokens.size
    return Step(
        prepared.requests, prepared.labels, np.zeros(0, np.int32), np.arange(n), np.zeros(n, np.int32), np.zeros(n)
    )


def following(last: Step | None, running: Running, requests: Requests, labels: Labels) -> Step:
    """Return the step of new requests after another; renumbers the running ones."""
    carried, n = carry_running(running), requests.input_tokens.size
    number = np.arange(n) + (int(last.number[-1]) + 1 if last else 0)
    if last is None or carried.size == 0:
        return Step(requests, labels, carried, number, np.zeros(n, np.int32), np.zeros(n))
    columns = {}
    for name, new in requests._asdict().items():
        old = getattr(last.requests, name)
        if name not in (*_OFFSETS, *_IDS):
            columns[name] = frozen(np.concatenate([old[carried], new]), new.dtype)
    for offsets, ids in zip(_OFFSETS, _IDS, strict=True):
        rows = getattr(last.requests, offsets), getattr(last.requests, ids)
        kept, values = chains.take_rows(*rows, carried.astype(np.int64))
        new_offsets, new_values = getattr(requests, offsets), getattr(requests, ids)
        columns[offsets] = frozen(np.concatenate([kept, new_offsets[1:] + kept[-1]]), np.int64)
        columns[ids] = frozen(np.concatenate([values, new_values]), np.uint32)
    return Step(
        Requests(**columns),
        Labels(*(_joined(getattr(last.labels, name), getattr(labels, name), carried) for name in Labels._fields)),
        carried,
        np.concatenate([last.number[carried], number]),
        np.concatenate([last.hits[carried], np.zeros(n, np.int32)]),
        np.concatenate([last.start_s[carried], np.zeros(n)]),
    )


def _joined(old: npt.NDArray[Any], new: npt.NDArray[Any], carried: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Return a column of the carried requests and the new ones; empty where unknown."""
    return frozen(np.concatenate([old[carried] if old.size else old, new]), new.dtype)
