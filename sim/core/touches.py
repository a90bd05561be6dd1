"""What can be known of a block when a request touches it, whatever the cache does: features per block reference.

Remembers everything ever seen, which no engine does: for the learnable ceiling, not for policies. Knows the past of
each reference only; must not know caches or policies.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from sim.core.compiled import kernel
from sim.core.replay import frozen

NEVER = 1e6
"""Seconds since what has not happened."""
HALF_MINUTE_S, FIVE_MINUTES_S, MINUTE_S = 30.0, 300.0, 60.0
EXTENDS = 0.6
"""A request that finds this share of the path of the one before it continues that conversation."""

FEATURES = (
    "depth", "from_end", "beyond_known", "blocks", "input_tokens", "output_tokens", "known_blocks", "known_share",
    "new_blocks", "turn", "path_gap_s", "path_gap_before_s", "path_mean_gap_s", "extended_share", "deepest_seen",
    "seen", "gap_s", "gap_before_s", "mean_gap_s", "first_seen_s", "uses_30s", "uses_300s", "branches", "next_is_new",
    "seen_minus_next", "root_seen", "run_blocks", "place_in_run", "from_end_before", "blocks_before", "request_gap_s",
    "recent_known_share", "turn_label", "type_label", "session_gap_s", "session_requests", "session_activity",
    "beyond_branch", "parent_gap_s", "was_last",
)  # fmt: skip
"""Columns, in order; seconds and counts. The labels are -1 where the trace has none."""

(DEPTH, FROM_END, BEYOND, BLOCKS, INPUT, OUTPUT, KNOWN, KNOWN_SHARE, NEW, TURN, PATH_GAP, PATH_GAP_BEFORE, PATH_MEAN,
 EXTENDED, DEEPEST, SEEN, GAP, GAP_BEFORE, MEAN_GAP, FIRST, USES_30, USES_300, BRANCHES, NEXT_NEW, MINUS_NEXT, ROOT,
 RUN, IN_RUN, FROM_END_BEFORE, BLOCKS_BEFORE, RATE, RECENT, TURN_LABEL, TYPE_LABEL, SESSION_GAP, SESSION_N,
 SESSION_ACTIVITY, BEYOND_BRANCH, PARENT_GAP, WAS_LAST) = range(len(FEATURES))  # fmt: skip

B_SEEN, B_LAST, B_FIRST, B_GAP, B_USES30, B_USES300, B_BRANCHES, B_FROM_END, B_WAS_LAST, B_REQUEST = range(10)
R_TURN, R_GAP, R_MEAN, R_BLOCKS = range(4)
S_LAST, S_N, S_ACTIVITY = range(3)


KINDS = (np.int64, np.int32, np.float64, np.int32, np.int32, np.int32, np.int32, np.int64)
"""Of the columns of a `Stream`."""


class Stream(NamedTuple):
    """A trace as this kernel sees it; n requests, labels -1 where unknown."""

    offsets: npt.NDArray[np.int64]
    block_ids: npt.NDArray[np.int32]
    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int32]
    output_tokens: npt.NDArray[np.int32]
    turn: npt.NDArray[np.int32]
    request_type: npt.NDArray[np.int32]
    session: npt.NDArray[np.int64]
    """0 .. sessions; the last number stands for "unknown"."""


class Memory(NamedTuple):
    """Scratch, all that is remembered; zero on entry."""

    block: npt.NDArray[np.float64]
    """Shape (blocks, 10)."""
    request: npt.NDArray[np.float64]
    """Shape (n, 4)."""
    session: npt.NDArray[np.float64]
    """Shape (sessions + 1, 3)."""
    averages: npt.NDArray[np.float64]
    """Shape (2,): gap between requests, share of known blocks."""


def new_memory(blocks: int, requests: int, sessions: int) -> Memory:
    """Return an empty memory."""
    return Memory(np.zeros((blocks, 10)), np.zeros((requests, 4)), np.zeros((sessions + 1, 3)), np.zeros(2))


@kernel(inline=True)
def _known(stream, memory, i):
    """Return how many leading blocks of a request were ever seen."""
    start, known = stream.offsets[i], 0
    while start + known < stream.offsets[i + 1] and memory.block[stream.block_ids[start + known], B_SEEN] > 0:
        known += 1
    return known


@kernel(inline=True)
def _follow(stream, memory, i, known):
    """Write what the request has from the one whose path it follows: turn, gap, mean gap."""
    mine, now_s = memory.request[i], stream.arrival_s[i]
    mine[R_BLOCKS] = stream.offsets[i + 1] - stream.offsets[i]
    mine[R_TURN], mine[R_GAP], mine[R_MEAN] = 0.0, NEVER, NEVER
    if known == 0:
        return
    deepest = memory.block[stream.block_ids[stream.offsets[i] + known - 1]]
    before = memory.request[int(deepest[B_REQUEST])]
    mine[R_GAP] = now_s - deepest[B_LAST]
    if known > EXTENDS * before[R_BLOCKS]:
        mine[R_TURN] = before[R_TURN] + 1.0
        earlier = before[R_MEAN] if mine[R_TURN] > 1.0 else mine[R_GAP]
        mine[R_MEAN] = earlier + (mine[R_GAP] - earlier) / mine[R_TURN]


@kernel(inline=True)
def _request_features(stream, memory, i, known, row):
    """Fill the columns that all blocks of a request share."""
    mine = memory.request[i]
    blocks = mine[R_BLOCKS]
    row[BLOCKS], row[INPUT], row[OUTPUT] = blocks, stream.input_tokens[i], stream.output_tokens[i]
    row[KNOWN], row[KNOWN_SHARE], row[NEW] = known, known / max(blocks, 1.0), blocks - known
    row[TURN], row[PATH_GAP], row[PATH_MEAN] = mine[R_TURN], mine[R_GAP], mine[R_MEAN]
    row[PATH_GAP_BEFORE], row[EXTENDED], row[DEEPEST] = NEVER, 0.0, 0.0
    if known > 0:
        deepest = memory.block[stream.block_ids[stream.offsets[i] + known - 1]]
        before = memory.request[int(deepest[B_REQUEST])]
        row[PATH_GAP_BEFORE] = before[R_GAP]
        row[EXTENDED], row[DEEPEST] = known / max(before[R_BLOCKS], 1.0), deepest[B_SEEN]
    row[ROOT] = memory.block[stream.block_ids[stream.offsets[i]], B_SEEN]
    row[RATE], row[RECENT] = memory.averages[0], memory.averages[1]
    row[TURN_LABEL], row[TYPE_LABEL] = stream.turn[i], stream.request_type[i]
    session = memory.session[stream.session[i]]
    known_session = stream.session[i] < memory.session.shape[0] - 1
    row[SESSION_GAP] = stream.arrival_s[i] - session[S_LAST] if known_session and session[S_N] > 0 else NEVER
    row[SESSION_N], row[SESSION_ACTIVITY] = session[S_N], session[S_ACTIVITY]


@kernel(inline=True)
def _block_features(stream, memory, i, k, known, row):
    """Fill the columns of one block of a request, but for those of its run."""
    start, blocks = stream.offsets[i], stream.offsets[i + 1] - stream.offsets[i]
    block = memory.block[stream.block_ids[start + k]]
    was = block[B_SEEN] > 0
    gap_s = stream.arrival_s[i] - block[B_LAST] if was else NEVER
    row[DEPTH], row[FROM_END], row[BEYOND] = k, blocks - 1 - k, k - known
    row[SEEN], row[GAP], row[GAP_BEFORE] = block[B_SEEN] + 1.0, gap_s, block[B_GAP] if block[B_SEEN] > 1 else NEVER
    row[FIRST] = stream.arrival_s[i] - block[B_FIRST] if was else 0.0
    row[MEAN_GAP] = row[FIRST] / block[B_SEEN] if was else NEVER
    row[USES_30] = 1.0 + block[B_USES30] * np.exp(-gap_s / HALF_MINUTE_S)
    row[USES_300] = 1.0 + block[B_USES300] * np.exp(-gap_s / FIVE_MINUTES_S)
    row[BRANCHES] = block[B_BRANCHES]
    following = memory.block[stream.block_ids[start + k + 1], B_SEEN] if k + 1 < blocks else 0.0
    row[NEXT_NEW] = 1.0 if k + 1 < blocks and following == 0.0 else 0.0
    row[MINUS_NEXT] = block[B_SEEN] - following
    row[FROM_END_BEFORE] = block[B_FROM_END] if was else -1.0
    row[BLOCKS_BEFORE] = memory.request[int(block[B_REQUEST]), R_BLOCKS] if was else -1.0
    row[PARENT_GAP] = 0.0
    if k > 0 and was:
        row[PARENT_GAP] = memory.block[stream.block_ids[start + k - 1], B_LAST] - block[B_LAST]
    row[WAS_LAST] = block[B_WAS_LAST]


@kernel(inline=True)
def _runs(start, stop, out):
    """Fill the columns of runs: consecutive blocks of a request that were seen equally often."""
    first = start
    for place in range(start, stop):
        if out[place, SEEN] != out[first, SEEN]:
            first = place
        out[place, IN_RUN] = place - first
    end = stop
    for place in range(stop - 1, start - 1, -1):
        if place + 1 < stop and out[place, SEEN] != out[place + 1, SEEN]:
            end = place + 1
        out[place, RUN] = end - (place - out[place, IN_RUN])


@kernel(inline=True)
def _remember(stream, memory, i):
    """Note that a request touched its blocks."""
    start, blocks = stream.offsets[i], stream.offsets[i + 1] - stream.offsets[i]
    now_s = stream.arrival_s[i]
    for k in range(blocks):
        block = memory.block[stream.block_ids[start + k]]
        if block[B_SEEN] == 0.0:
            block[B_FIRST], block[B_LAST] = now_s, now_s
            if k > 0:
                memory.block[stream.block_ids[start + k - 1], B_BRANCHES] += 1.0
        block[B_GAP] = now_s - block[B_LAST]
        block[B_USES30] = 1.0 + block[B_USES30] * np.exp(-block[B_GAP] / HALF_MINUTE_S)
        block[B_USES300] = 1.0 + block[B_USES300] * np.exp(-block[B_GAP] / FIVE_MINUTES_S)
        block[B_SEEN] += 1.0
        block[B_LAST], block[B_REQUEST], block[B_FROM_END] = now_s, i, blocks - 1 - k
        block[B_WAS_LAST] += k + 1 == blocks
    session = memory.session[stream.session[i]]
    if stream.session[i] < memory.session.shape[0] - 1:
        quiet_s = now_s - session[S_LAST] if session[S_N] > 0 else NEVER
        session[S_ACTIVITY] = 1.0 + session[S_ACTIVITY] * np.exp(-quiet_s / MINUTE_S)
        session[S_LAST] = now_s
        session[S_N] += 1.0


def _signature():
    stream = Stream(*(frozen(np.zeros(0), kind) for kind in KINDS))
    return types.void(numba.typeof(stream), numba.typeof(new_memory(1, 1, 0)), types.float32[:, ::1])


@kernel(_signature())
def describe(stream, memory, out):
    """Fill the features of every reference.

    Args:
        stream: The trace.
        memory: `new_memory(...)`.
        out: float32 (references, len(FEATURES)).
    """
    for i in range(stream.arrival_s.size):
        start, stop = stream.offsets[i], stream.offsets[i + 1]
        known = _known(stream, memory, i)
        if i > 0:
            memory.averages[0] += (stream.arrival_s[i] - stream.arrival_s[i - 1] - memory.averages[0]) / 64.0
        if stop > start:
            memory.averages[1] += (known / (stop - start) - memory.averages[1]) / 64.0
        _follow(stream, memory, i, known)
        branch = 0
        for k in range(stop - start):
            row = out[start + k]
            _request_features(stream, memory, i, known, row)
            _block_features(stream, memory, i, k, known, row)
            if row[BRANCHES] >= 2.0:
                branch = k
            row[BEYOND_BRANCH] = k - branch
        _runs(start, stop, out)
        _remember(stream, memory, i)
