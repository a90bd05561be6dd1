"""Sessions laid on one clock.

Knows the procedure of ``traces.md`` section 7: uniform starts, capped gaps, think times, per-session ids, shared
system prefix, coarser blocks. Must not know file formats, caches or policies.

The result rests on assumptions that belong beside every number computed from it: session starts are uniform (no
diurnal shape, no bursts), concurrency is set by ``window_s``, one server, 40 tokens/s decoding where times are
missing, lognormal think time, equal token counts taken to mean the same system prompt, and recorded gaps kept even
where a faster cache would have shortened them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from workloads import chains, progress, runs
from workloads.batch import BATCH_REFS, Batch
from workloads.columns import F64, I32, I64
from workloads.errors import TraceError
from workloads.sessions import SessionSet
from workloads.trace import Trace
from workloads.validation import check_block_tokens

PROCEDURE = "traces.md section 7"
DECODE_TOKENS_PER_S = 40.0
THINK_SIGMA = 1.0


def materialise(
    sessions: SessionSet,
    window_s: float | None,
    max_gap_s: float | None = None,
    think_s: float | None = None,
    seed: int = 0,
    shared_prefix: bool = False,
    block_tokens: int | None = None,
    use_recorded_starts: bool = False,
    name: str | None = None,
) -> Trace:
    """Lay sessions on one clock and write their block ids out.

    Args:
        sessions: The recorded sessions.
        window_s: Sessions start uniformly within this time, drawn in file order from ``random.Random(seed)``.
            None only with ``use_recorded_starts``.
        max_gap_s: Longer gaps between consecutive requests of a session are cut to this; None keeps all.
        think_s: Median think time, for sessions without recorded times: a request follows its predecessor after
            ``output_tokens / 40`` seconds plus a lognormal think time with sigma 1.
        seed: Seed of starts and think times.
        shared_prefix: Share the blocks of the tools-and-system prompt between sessions with equal token counts.
        block_tokens: Size of the blocks written, a multiple of the recorded one; None keeps the recorded one.
        use_recorded_starts: Start sessions at their ``abs_start_ms`` instead.
        name: Name of the trace; default: the set's.

    Returns:
        The trace, with session, turn, request_type (1: sub-agent) and, if known, tenant; times rounded to 0.1 ms and
        sorted stably.

    Raises:
        TraceError: an argument that does not fit the set.
    """
    options = {key: value for key, value in locals().items() if key not in ("sessions", "name")}
    factor = _coarsening(sessions, block_tokens)
    _check_times(sessions, window_s, max_gap_s, think_s, use_recorded_starts)
    arrival_ms = _arrivals_ms(sessions, window_s, max_gap_s, think_s, seed, use_recorded_starts)
    order = np.argsort(arrival_ms, kind="stable")
    offsets, ids = _block_ids(sessions, order, factor)
    if shared_prefix:
        ids = _share_prefixes(sessions, order, offsets, ids, factor)
    options.update(procedure=PROCEDURE, block_tokens=sessions.block_tokens * factor)
    return Trace.build(
        name=name or sessions.name,
        block_tokens=sessions.block_tokens * factor,
        offsets=offsets,
        block_ids=ids,
        arrival_s=arrival_ms[order] / 1000.0,
        provenance={**sessions.provenance, "materialisation": options},
        **_request_columns(sessions, order),
    )


def materialise_batches(
    sessions: SessionSet,
    window_s: float | None,
    max_gap_s: float | None = None,
    think_s: float | None = None,
    seed: int = 0,
    block_tokens: int | None = None,
    use_recorded_starts: bool = False,
    batch_refs: int = BATCH_REFS,
) -> Iterator[Batch]:
    """Lay sessions on one clock and yield their requests in order, a batch of ids written out at a time.

    The same requests as :func:`materialise` makes, for sessions that are too many to write out as a whole. Ids are
    distinct between sessions, but not dense; prefixes are not shared, which would need all ids at once.

    Args:
        sessions: The recorded sessions.
        window_s: As for :func:`materialise`, like all up to ``use_recorded_starts``.
        max_gap_s: Longest gap kept.
        think_s: Median think time.
        seed: Seed of starts and think times.
        block_tokens: Size of the blocks written.
        use_recorded_starts: Start sessions at their ``abs_start_ms`` instead.
        batch_refs: About how many block references a batch has.

    Raises:
        TraceError: an argument that does not fit the set.
    """
    factor = _coarsening(sessions, block_tokens)
    _check_times(sessions, window_s, max_gap_s, think_s, use_recorded_starts)
    arrival_ms = _arrivals_ms(sessions, window_s, max_gap_s, think_s, seed, use_recorded_starts)
    order = np.argsort(arrival_ms, kind="stable")
    columns = _request_columns(sessions, order)
    refs = np.cumsum(columns["input_tokens"] // (sessions.block_tokens * factor), dtype=np.int64)
    cuts = np.searchsorted(refs, np.arange(batch_refs, int(refs[-1]) + batch_refs, batch_refs)) + 1
    for start, stop in pairwise(np.unique([0, *np.minimum(cuts, len(order))]).tolist()):
        offsets, ids = _block_ids(sessions, order[start:stop], factor)
        part: dict[str, Any] = {name: column[start:stop] for name, column in columns.items()}
        arrival_s = arrival_ms[order[start:stop]] / 1000.0
        yield Batch(offsets=offsets, block_ids=ids.view(np.uint64), arrival_s=arrival_s, **part)


def _request_columns(sessions: SessionSet, order: I64) -> dict[str, I32 | I64]:
    """Return the columns that need no clock, requests in the given order."""
    session = np.repeat(np.arange(sessions.n_sessions), np.diff(sessions.session_rows))
    columns: dict[str, I32 | I64] = {
        "input_tokens": sessions.input_tokens,
        "output_tokens": sessions.output_tokens,
        "session": session,
        "turn": np.arange(sessions.n_requests) - sessions.session_rows[session],
        "request_type": np.minimum(sessions.agent, 1),
    }
    if sessions.tenant is not None:
        columns["tenant"] = sessions.tenant[session]
    return {name: column[order] for name, column in columns.items()}


def namespaced_starts(sessions: SessionSet) -> I64:
    """Return int64[r] first ids of the runs, made distinct between sessions where ids are local to a session."""
    if sessions.global_ids or len(sessions.run_starts) == 0:
        return sessions.run_starts
    session_runs = sessions.run_rows[sessions.session_rows]
    highest = np.zeros(sessions.n_sessions, np.int64)
    filled = np.diff(session_runs) > 0
    highest[filled] = np.maximum.reduceat(sessions.run_starts + sessions.run_lengths, session_runs[:-1][filled])
    first = np.cumsum(highest) - highest
    return sessions.run_starts + np.repeat(first, np.diff(session_runs))


def _coarsening(sessions: SessionSet, block_tokens: int | None) -> int:
    if block_tokens is None:
        return 1
    check_block_tokens(block_tokens)
    if block_tokens % sessions.block_tokens:
        raise TraceError(
            f"{sessions.name}: block_tokens {block_tokens}: expected a multiple of the recorded {sessions.block_tokens}"
            " (blocks can be merged, not split)"
        )
    return block_tokens // sessions.block_tokens


def _check_times(
    sessions: SessionSet,
    window_s: float | None,
    max_gap_s: float | None,
    think_s: float | None,
    use_recorded_starts: bool,
) -> None:
    """Refuse time options that do not fit the set."""
    named = {"window_s": window_s, "max_gap_s": max_gap_s, "think_s": think_s}
    for key, value in named.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise TraceError(f"{sessions.name}: {key} {value}: expected finite seconds > 0")
    if use_recorded_starts == (window_s is not None):
        raise TraceError(f"{sessions.name}: pass either window_s (seconds) or use_recorded_starts, not both or neither")
    if use_recorded_starts and np.isnan(sessions.abs_start_ms).any():
        raise TraceError(f"{sessions.name}: sessions without abs_start_ms - fix: pass window_s instead")
    if think_s is None and np.isnan(sessions.offset_ms).any():
        raise TraceError(f"{sessions.name}: requests without times - fix: pass think_s (median think time in seconds)")


def _arrivals_ms(
    sessions: SessionSet,
    window_s: float | None,
    max_gap_s: float | None,
    think_s: float | None,
    seed: int,
    use_recorded_starts: bool,
) -> F64:
    """Return float64[n] absolute arrival times in ms, rounded to 0.1 ms, in file order."""
    draw = random.Random(seed)
    arrival_ms = np.empty(sessions.n_requests, np.float64)
    for session in range(sessions.n_sessions):
        progress.tell("laying out sessions", session, sessions.n_sessions)
        rows = slice(int(sessions.session_rows[session]), int(sessions.session_rows[session + 1]))
        if use_recorded_starts or window_s is None:
            start_ms = float(sessions.abs_start_ms[session])
        else:
            start_ms = draw.random() * window_s * 1000.0
        offset_ms = sessions.offset_ms[rows]
        if np.isnan(offset_ms[0]):
            offset_ms = _thinking_ms(sessions.output_tokens[rows].tolist(), think_s or 0.0, draw)
        if max_gap_s is not None:
            gaps = np.diff(offset_ms, prepend=0.0)
            gaps[1:] = np.minimum(gaps[1:], max_gap_s * 1000.0)
            offset_ms = np.cumsum(gaps)
        arrival_ms[rows] = start_ms + offset_ms
    progress.tell("laying out sessions", sessions.n_sessions, sessions.n_sessions)
    return np.round(arrival_ms, 1)


def _thinking_ms(output_tokens: list[int], think_s: float, draw: random.Random) -> F64:
    """Return float64[len] times since the session's start: decoding, then a lognormal think time."""
    times = [0.0]
    for tokens in output_tokens[:-1]:
        times.append(times[-1] + tokens / DECODE_TOKENS_PER_S + draw.lognormvariate(math.log(think_s), THINK_SIGMA))
    return np.array(times) * 1000.0


def _share_prefixes(sessions: SessionSet, order: I64, offsets: I64, ids: I64, factor: int) -> I64:
    """Give the blocks of every request's system prefix ids common to all sessions with the same token counts.

    A recorded id names one content throughout its session, so it is replaced everywhere, by the key of the request
    that used it first: (tool tokens, system tokens, position).

    Args:
        sessions: The recorded sessions.
        order: int64[n] requests in the order of the rows of ``ids``.
        offsets: int64[n + 1].
        ids: int64[n_refs] ids distinct between sessions, already coarsened.
        factor: Recorded blocks per block.

    Returns:
        int64[n_refs] new ids.
    """
    if sessions.global_ids:
        raise TraceError(f"{sessions.name}: shared_prefix needs local ids; here ids are comparable across sessions")
    if (sessions.tool_tokens < 0).any() or (sessions.system_tokens < 0).any():
        raise TraceError(f"{sessions.name}: shared_prefix needs tool_tokens and system_tokens in every session")
    pairs = np.stack([sessions.tool_tokens, sessions.system_tokens], axis=1)[order]
    kinds, kind = np.unique(pairs, axis=0, return_inverse=True)
    prefix = kinds.sum(axis=1) // sessions.block_tokens // factor  # blocks
    longest = int(np.diff(offsets).max())
    head = np.minimum(prefix[kind.reshape(-1)], np.diff(offsets))
    ends = np.cumsum(head)
    position = np.arange(ends[-1]) - np.repeat(ends - head, head)
    at = np.repeat(offsets[:-1], head) + position
    key = np.repeat(kind.reshape(-1), head) * longest + position
    local, n_local = chains.densify(ids)
    shared = np.full(n_local, -1, np.int64)
    shared[local[at[::-1]]] = key[::-1]  # the last write wins: the first use
    return np.where(shared >= 0, n_local + shared, np.arange(n_local))[local]


def _block_ids(sessions: SessionSet, order: I64, factor: int) -> tuple[I64, I64]:
    """Write out the requests in the given order: offsets int64[n + 1] and ids distinct between sessions."""
    every = np.arange(len(sessions.run_starts), dtype=np.int64)
    rows, index = chains.take_rows(sessions.run_rows, every, order)
    return runs.expand(rows, namespaced_starts(sessions)[index], sessions.run_lengths[index], factor)
