"""Recorded sessions: requests with times inside their session, but no common clock.

Knows sessions, their requests and run-length block ids. Must not know file formats, nor how sessions are laid on a
clock (that is ``materialise``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from workloads import chains
from workloads.columns import F64, I32, I64, frozen
from workloads.errors import TraceError


@dataclass(frozen=True, eq=False, repr=False)
class SessionSet:
    """Sessions in columns; immutable. ``s`` sessions, ``n`` requests, ``r`` runs.

    Attributes:
        name: Short name.
        block_tokens: Tokens per block as recorded.
        global_ids: True if block ids are comparable across sessions; else they are local to a session.
        session_names: ``s`` names as in the source, unique.
        abs_start_ms: float64[s] recorded start of each session in ms, NaN where not recorded.
        session_rows: int64[s + 1], CSR over requests, file order.
        offset_ms: float64[n] time since the session's start in ms, NaN where not recorded.
        agent: int32[n] 0 for the main agent, i for sub-agent i.
        input_tokens: int32[n] prompt length.
        output_tokens: int32[n] output length.
        tool_tokens: int64[n] tool-definition tokens of the request's agent, -1 unknown.
        system_tokens: int64[n] system-prompt tokens of the request's agent, -1 unknown.
        run_rows: int64[n + 1], CSR over runs.
        run_starts: int64[r] first block id of each run.
        run_lengths: int64[r] blocks in each run.
        provenance: Source and header, JSON-able.
        tenant: int32[s] user of each session, -1 unknown; None where the source names none.
    """

    name: str
    block_tokens: int
    global_ids: bool
    session_names: tuple[str, ...]
    abs_start_ms: F64
    session_rows: I64
    offset_ms: F64
    agent: I32
    input_tokens: I32
    output_tokens: I32
    tool_tokens: I64
    system_tokens: I64
    run_rows: I64
    run_starts: I64
    run_lengths: I64
    provenance: dict[str, object] = field(default_factory=dict)
    tenant: I32 | None = None

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                frozen(value)

    @property
    def n_sessions(self) -> int:
        """Number of sessions."""
        return len(self.session_names)

    @property
    def n_requests(self) -> int:
        """Number of requests over all sessions."""
        return len(self.agent)

    def __repr__(self) -> str:
        return (
            f"SessionSet({self.name!r}, {self.n_sessions} sessions, {self.n_requests:,} requests,"
            f" blocks of {self.block_tokens} tokens, {'global' if self.global_ids else 'local'} ids)"
        )

    def select(self, sessions: Iterable[int], name: str | None = None) -> SessionSet:
        """Return some of the sessions, in the order of this set.

        Args:
            sessions: Session indices; duplicates count once.
            name: Name of the result; default: this set's.

        Raises:
            TraceError: no session selected, or an index out of range.
        """
        kept = np.array(sorted(set(sessions)), np.int64)
        if len(kept) == 0 or kept[0] < 0 or kept[-1] >= self.n_sessions:
            raise TraceError(f"{self.name}: expected session indices from 0 to {self.n_sessions - 1}, at least one")
        requests = np.arange(self.n_requests, dtype=np.int64)
        session_rows, rows = chains.take_rows(self.session_rows, requests, kept)
        run_rows, of_run = chains.take_rows(self.run_rows, np.arange(len(self.run_starts), dtype=np.int64), rows)
        return SessionSet(
            name=name or self.name,
            block_tokens=self.block_tokens,
            global_ids=self.global_ids,
            session_names=tuple(self.session_names[i] for i in kept.tolist()),
            abs_start_ms=self.abs_start_ms[kept],
            session_rows=session_rows,
            offset_ms=self.offset_ms[rows],
            agent=self.agent[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            tool_tokens=self.tool_tokens[rows],
            system_tokens=self.system_tokens[rows],
            run_rows=run_rows,
            run_starts=self.run_starts[of_run],
            run_lengths=self.run_lengths[of_run],
            provenance={**self.provenance, "sessions_selected": f"{len(kept)} of {self.n_sessions}"},
            tenant=None if self.tenant is None else self.tenant[kept],
        )

    def hash_split(self, low: float, high: float, name: str | None = None) -> SessionSet:
        """Return the sessions whose name hashes into [low, high): a split that depends on nothing but the names.

        Args:
            low: Lower bound, 0 <= low < high.
            high: Upper bound, <= 1.
            name: Name of the result.

        Raises:
            TraceError: bad bounds, or no session falls into them.
        """
        if not 0 <= low < high <= 1:
            raise TraceError(f"hash_split({low}, {high}): expected 0 <= low < high <= 1")
        inside = [i for i, session in enumerate(self.session_names) if low <= hash_share(session) < high]
        if not inside:
            raise TraceError(f"{self.name}: no session name hashes into [{low}, {high}) - fix: use a wider range")
        return self.select(inside, name)


def hash_share(session_name: str) -> float:
    """Return a number in [0, 1) that depends on the name only: the first 53 bits of its SHA-256."""
    digest = hashlib.sha256(session_name.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53
