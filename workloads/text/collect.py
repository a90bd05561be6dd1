"""Requests of a log collected into sessions.

Knows requests, sessions and runs of blocks. Must not know text, tokenizers or files. What is kept grows with requests
and distinct blocks, not with the text: some 100 bytes a distinct block, 16 a run of new blocks.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

import numpy as np

from workloads import chains
from workloads.columns import F64, I32, I64
from workloads.keys import Names
from workloads.sessions import SessionSet
from workloads.text.chain import Prompt


@dataclass(frozen=True, eq=False, repr=False)
class KeyedSessions(SessionSet):
    """Sessions whose blocks, sessions and tenants also have keyed names that mean the same in every log.

    Attributes:
        block_keys: int64[n_blocks] keyed id by block id.
        session_keys: Keyed name of each session.
        tenant_keys: Keyed name by tenant.
    """

    block_keys: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    session_keys: tuple[str, ...] = ()
    tenant_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One request of a log.

    Attributes:
        session: Id of its session, or its number in the log where sessions have none; kept while reading only.
        prompt: Its prompt.
        output_tokens: Length of the answer.
        time_ms: When it arrived, or was answered where only that is known; NaN if unknown.
        start_ms: When its session started, for sessions whose requests have no times; NaN if unknown.
        tenant: Id of its user, the first one of a session counts; kept while reading only.
    """

    session: str | int
    prompt: Prompt
    output_tokens: int
    time_ms: float = nan
    start_ms: float = nan
    tenant: str | None = None


@dataclass
class _Session:
    """The requests of one session; `runs` is [first id, length, ...], `rows` the number of runs of each request."""

    owner: str | int
    order: str
    start_ms: float
    tenant: int = -1
    time_ms: array[float] = field(default_factory=lambda: array("d"))
    input_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    runs: array[int] = field(default_factory=lambda: array("q"))

    def times(self) -> tuple[I64, F64, float, str, int]:
        """Return the order of its requests, their times since its start and that start; what was found, how often."""
        times = np.array(self.time_ms)
        known = ~np.isnan(times)
        if not known.all():
            unknown = np.full(len(times), nan)
            return np.arange(len(times)), unknown, self.start_ms, "sessions_partly_timed", int(known.any())
        order = np.argsort(times, kind="stable")
        late = int((times < np.maximum.accumulate(times)).sum())
        start_ms = float(times[order[0]])
        return order, times[order] - start_ms, start_ms, "requests_sorted_by_time", late


class Collection:
    """What has been read of a log.

    Attributes:
        counts: What was done to it.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.counts: Counter[str] = Counter()
        self._blocks: dict[int, int] = {}
        self._sessions: dict[str | int, _Session] = {}
        self._tenants: dict[str, int] = {}

    def __len__(self) -> int:
        """Number of sessions."""
        return len(self._sessions)

    def add(self, request: Request, order: str) -> None:
        """Add a request.

        Args:
            request: The request.
            order: What its session is sorted by if it is new: the name of the file.
        """
        session = self._sessions.get(request.session)
        if session is None:
            session = self._sessions[request.session] = _Session(request.session, order, request.start_ms)
        if request.tenant is not None and session.tenant < 0:
            session.tenant = self._tenants.setdefault(request.tenant, len(self._tenants))
        session.time_ms.append(request.time_ms)
        session.input_tokens.append(request.prompt.tokens)
        session.output_tokens.append(request.output_tokens)
        blocks, runs, before, follows = self._blocks, session.runs, len(session.runs), -1
        for name in request.prompt.ids:
            block = blocks.setdefault(name, len(blocks))
            if block == follows:
                runs[-1] += 1
            else:
                runs.extend((block, 1))
            follows = block + 1
        session.rows.append((len(runs) - before) // 2)

    def columns(self, whole_ms: bool) -> dict[str, Any]:
        """Return the columns of a :class:`SessionSet`; sessions sorted by file, their requests by time, both stably.

        Args:
            whole_ms: Cut times to whole milliseconds.
        """
        sessions = self._sorted()
        orders, offsets, starts, first = list[I64](), list[F64](), list[float](), 0
        for session in sessions:
            order, offset_ms, start_ms, found, count = session.times()
            orders.append(order + first)
            offsets.append(np.floor(offset_ms) if whole_ms else offset_ms)
            starts.append(start_ms // 1 if whole_ms and not isnan(start_ms) else start_ms)
            first += len(order)
            self.counts[found] += count
        order = np.concatenate(orders)
        rows, runs = (_joined(sessions, name, np.int64) for name in ("rows", "runs"))
        run_rows, taken = chains.take_rows(_offsets(rows), np.arange(len(runs) // 2), order)
        unknown = np.full(first, -1, np.int64)
        return {
            "session_names": tuple(map(str, range(len(sessions)))),
            "abs_start_ms": np.array(starts),
            "session_rows": _offsets(np.array([len(session.rows) for session in sessions])),
            "offset_ms": np.concatenate(offsets),
            "agent": np.zeros(first, np.int32),
            "input_tokens": _joined(sessions, "input_tokens", np.int32)[order],
            "output_tokens": _joined(sessions, "output_tokens", np.int32)[order],
            "tool_tokens": unknown,
            "system_tokens": unknown.copy(),
            "run_rows": run_rows,
            "run_starts": runs[::2][taken],
            "run_lengths": runs[1::2][taken],
            "tenant": self._tenant_column(sessions),
        }

    def keyed(self, key: bytes, log: str) -> dict[str, Any]:
        """Return the further columns of :class:`KeyedSessions`.

        Args:
            key: The secret.
            log: What tells this log from others: the number of a session means something in its own log only.
        """
        names, numbers = Names(key, "session"), Names(key, "numbered session")
        return {
            "block_keys": np.fromiter(self._blocks, np.int64, len(self._blocks)),
            "session_keys": tuple(
                names.text(_bytes(s.owner)) if isinstance(s.owner, str) else numbers.text(f"{log} {s.owner}".encode())
                for s in self._sorted()
            ),
            "tenant_keys": tuple(map(Names(key, "tenant").text, map(_bytes, self._tenants))),
        }

    def _sorted(self) -> list[_Session]:
        return sorted(self._sessions.values(), key=lambda session: session.order)

    def _tenant_column(self, sessions: list[_Session]) -> I32 | None:
        return np.array([session.tenant for session in sessions], np.int32) if self._tenants else None


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _joined(sessions: list[_Session], name: str, kind: type[np.integer[Any]]) -> Any:
    return np.concatenate([_numbers(session, name) for session in sessions]).astype(kind)


def _numbers(session: _Session, name: str) -> I64:
    return np.array(getattr(session, name), np.int64)


def _offsets(counts: I64) -> I64:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
