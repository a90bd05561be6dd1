"""What every replay kernel shares: the request arrays it reads, the running set, and the names of its counters.

Knows requests and time; must not know how blocks are cached or which of them leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core.compiled import kernel

NONE = np.uint32(0xFFFFFFFF)
"""No block, no slot. Ids are unsigned so that numba need not check indices for Python's negative ones."""


UNSERVED = -1
"""Per-request hit count of a request with more blocks than the cache: an engine cannot run it."""

COUNTERS = (
    "hit_blocks",
    "looked_up_blocks",
    "admitted_blocks",
    "bypassed_blocks",
    "evicted_blocks",
    "generated_blocks",
    "unserved_requests",
    "resident_blocks",
    "peak_resident_blocks",
    "peak_used_blocks",
    "sum_used_blocks",
    "waited_requests",
    "priority_calls",
    "dropped_generated_blocks",
)
"""Order of the int64 counters every kernel fills; `sim.result.Result` says what each means."""

(
    HIT,
    LOOKED_UP,
    ADMITTED,
    BYPASSED,
    EVICTED,
    GENERATED,
    UNSERVED_COUNT,
    RESIDENT,
    PEAK_RESIDENT,
    PEAK_USED,
    SUM_USED,
    WAITED,
    PRIORITY_CALLS,
    DROPPED,
) = range(len(COUNTERS))


class Requests(NamedTuple):
    """The trace as kernels see it; arrays of `n` requests and their blocks in prefix order (CSR)."""

    offsets: npt.NDArray[np.int64]
    """Shape (n + 1,): `block_ids[offsets[i]:offsets[i + 1]]` are the full prompt blocks of request i."""
    block_ids: npt.NDArray[np.uint32]
    """Dense ids, 0 <= id < n_blocks; equal id means equal whole prefix."""
    generated_offsets: npt.NDArray[np.int64]
    """Shape (n + 1,), CSR of the blocks completed by generated tokens; all zero when decode is not modelled."""
    generated_ids: npt.NDArray[np.uint32]
    """Ids of generated blocks; those nobody asks for have ids of their own."""
    total_blocks: npt.NDArray[np.int32]
    """Shape (n,): blocks held at the finish, the partial last one included."""
    input_tokens: npt.NDArray[np.int32]
    """Shape (n,)."""
    output_tokens: npt.NDArray[np.int32]
    """Shape (n,)."""
    arrival_s: npt.NDArray[np.float64]
    """Shape (n,), non-decreasing."""


class Server(NamedTuple):
    """The constant-rate server of overlap mode; in serial mode a request finishes before the next arrives."""

    overlap: bool
    prefill_tokens_per_s: float
    decode_s_per_token: float
    max_running: int


SERIAL = Server(False, 8000.0, 0.02, 1)
"""One request at a time."""


class Running(NamedTuple):
    """A binary heap of the running requests by (finish time, request), and the clock.

    A trace may be replayed in steps: a kernel takes the first `size` requests of its arrays for those that an earlier
    step left running, and admits the others. Between steps the caller renumbers `request` (`carry_running`).
    """

    finish_s: npt.NDArray[np.float64]
    request: npt.NDArray[np.int32]
    """Indices into the arrays of this step."""
    size: npt.NDArray[np.int64]
    now_s: npt.NDArray[np.float64]
    """Shape (1,): the server's time after the last admission."""
    more: npt.NDArray[np.bool_]
    """Shape (1,): whether another step follows; else the policy engine finishes what still runs."""


def new_running(max_running: int) -> Running:
    """Return an empty running set for at most `max_running` requests."""
    return Running(
        np.empty(max_running, np.float64),
        np.empty(max_running, np.int32),
        np.zeros(1, np.int64),
        np.zeros(1),
        np.zeros(1, np.bool_),
    )


def carry_running(running: Running) -> npt.NDArray[np.int32]:
    """Renumber the running requests 0, 1, ... for the next step; return their old numbers in that order.

    Order of arrival stays, and with it the order of requests that finish at the same time.
    """
    size = int(running.size[0])
    carried = np.sort(running.request[:size])
    running.request[:size] = np.searchsorted(carried, running.request[:size])
    return carried


@kernel(inline=True)
def _before(running, i, j):
    if running.finish_s[i] != running.finish_s[j]:
        return running.finish_s[i] < running.finish_s[j]
    return running.request[i] < running.request[j]


@kernel(inline=True)
def _swap(running, i, j):
    running.finish_s[i], running.finish_s[j] = running.finish_s[j], running.finish_s[i]
    running.request[i], running.request[j] = running.request[j], running.request[i]


@kernel()
def start_running(running, finish_s, request):
    """Add a request that will finish at `finish_s`."""
    i = running.size[0]
    running.size[0] += 1
    running.finish_s[i] = finish_s
    running.request[i] = request
    while i > 0 and _before(running, i, (i - 1) // 2):
        _swap(running, i, (i - 1) // 2)
        i = (i - 1) // 2


@kernel()
def next_finish(running):
    """Remove and return the request that finishes first; the caller reads its time at index 0 before."""
    request = running.request[0]
    running.size[0] -= 1
    n = running.size[0]
    _swap(running, 0, n)
    i = 0
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and _before(running, child + 1, child):
            child += 1
        if not _before(running, child, i):
            break
        _swap(running, i, child)
        i = child
    return request


@kernel(inline=True)
def hit_limit(requests, i, block_tokens):
    """Return the most blocks request `i` may hit: its last token is always recomputed (vLLM rule 2)."""
    return (requests.input_tokens[i] - 1) // block_tokens


@kernel(inline=True)
def prompt_blocks(requests, i, block_tokens):
    """Return the blocks request `i` occupies for its prompt, the partial last one included."""
    return (requests.input_tokens[i] + block_tokens - 1) // block_tokens


@kernel(inline=True)
def finish_time(requests, i, hits, block_tokens, start_s, server):
    """Return when request `i`, admitted at `start_s` with `hits` blocks, finishes on the constant-rate server."""
    prefill_s = (requests.input_tokens[i] - hits * block_tokens) / server.prefill_tokens_per_s
    return start_s + prefill_s + server.decode_s_per_token * requests.output_tokens[i]


@kernel(inline=True)
def leave_unserved(i, hits_out, start_out, counts):
    """Record that request `i` has more blocks than the cache and was not run."""
    hits_out[i] = UNSERVED
    start_out[i] = np.nan
    counts[UNSERVED_COUNT] += 1


@kernel(inline=True)
def tally(counts, full, hits, entered):
    """Count the full blocks of a request: what was hit, what entered, what was neither."""
    counts[HIT] += hits
    counts[LOOKED_UP] += full
    counts[ADMITTED] += entered
    counts[BYPASSED] += full - hits - entered


@kernel(inline=True)
def account(counts, scratch_blocks):
    """Note the occupancy after an admission: resident blocks plus blocks running requests hold without a hash."""
    used = counts[RESIDENT] + scratch_blocks
    counts[PEAK_RESIDENT] = max(counts[PEAK_RESIDENT], counts[RESIDENT])
    counts[PEAK_USED] = max(counts[PEAK_USED], used)
    counts[SUM_USED] += used


def frozen(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a contiguous read-only view (kernel signatures name read-only inputs)."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def sample_requests() -> Requests:
    """Return an empty `Requests` of the exact types kernels are compiled for."""
    kinds = (np.int64, np.uint32, np.int64, np.uint32, np.int32, np.int32, np.int32, np.float64)
    return Requests(*(frozen(np.zeros(0), kind) for kind in kinds))
