"""WEKA kv-cache-tester: one JSON object a session, with nested sub-agents and ids local to the session.

Knows that format. Must not know how sessions are laid on a clock. Source: callanjfox/kv-cache-tester @ 94f6046,
``traces/*.json`` and ``docs/trace_replay_tester.md``. Also read: the same objects as JSON lines
(semianalysisai/cc-traces-weka-*) and ``hash_id_scope`` "global" (``build_traces_from_neon.py``); both from source, not
measured.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import nan

import numpy as np

from workloads import chains, runs
from workloads.columns import F64, I64
from workloads.errors import TraceError, unknown_name
from workloads.formats import Head
from workloads.materialise import namespaced_starts
from workloads.readers.assemble import checked_repairs
from workloads.readers.members import first_bytes, source
from workloads.sessions import SessionSet
from workloads.text.records import Record, Records, resolved

SUMMARY = "WEKA kv-cache-tester (Claude Code sessions), files or a folder"

SUBAGENT_TIMES = ("auto", "relative", "absolute")
_MAX_S = 1e12
_MAX_LOCAL_ID = 2**40
_MAX_DEPTH = 16
_USED = frozenset(("id", "block_size", "hash_id_scope", "tool_tokens", "system_tokens", "requests", "type", "t"))
_USED_REQUEST = frozenset(("t", "type", "in", "out", "hash_ids"))
_BEGIN = re.compile(rb'\s*+\[?\s*+\{\s*+"')


@dataclass
class _Requests:
    """The requests of one session, flat: (time in s, agent, input, output, ids)."""

    rows: list[tuple[float, int, int, int, I64]] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)  # tool and system tokens by agent


@dataclass(frozen=True)
class _Session:
    """One session, flat and in time order; columns as in :class:`SessionSet`."""

    name: str
    order: str
    where: str
    block_tokens: int
    global_ids: bool
    offset_ms: F64
    columns: I64  # [n, 5] agent, input, output, tool and system tokens
    run_rows: I64
    run_starts: I64
    run_lengths: I64

    def digest(self) -> bytes:
        """Return what tells sessions apart that differ in more than their name."""
        digest = hashlib.sha256(f"{self.block_tokens} {self.global_ids}".encode())
        for column in (self.offset_ms, self.columns, self.run_rows, self.run_starts, self.run_lengths):
            digest.update(len(column).to_bytes(8, "big") + column.tobytes())
        return digest.digest()


def matches(head: Head) -> bool:
    """Return whether the (first) file begins like a session."""
    start = first_bytes(head)
    names = (b'"id"', b'"block_size"', b'"requests"', b'"hash_ids"')
    return _BEGIN.match(start) is not None and all(name in start for name in names)


def read(
    path: str | os.PathLike[str],
    name: str | None = None,
    repair: str | Iterable[str] = (),
    subagent_times: str = "auto",
) -> SessionSet:
    """Read sessions; exact duplicates (equal but for their name) are left out and counted.

    Args:
        path: A session's file, JSON lines of sessions, a folder or a tar archive of either.
        name: Name of the set; default: the file's.
        repair: ``clip_input`` lowers the prompt length of a request that lists fewer ids than it has full blocks.
        subagent_times: What the times within a sub-agent count from: ``relative``, its own ``t``; ``absolute``, the
            session's start; ``auto``, the former if its first request would else precede it (as AIPerf decides).

    Returns:
        The sessions sorted by file, requests of a session by time (stably). Provenance counts what was sorted, dropped
        and not used. Requests are without times if one of the session has none.

    Raises:
        TraceError: naming file, position and field.
    """
    file = resolved(path)
    repairs = checked_repairs(repair, ("clip_input",))
    if subagent_times not in SUBAGENT_TIMES:
        raise unknown_name("subagent_times", subagent_times, SUBAGENT_TIMES)
    records = Records(file)
    found: dict[bytes, _Session] = {}
    names: set[str] = set()
    for record in records:
        session = _session(records, record, "clip_input" in repairs, subagent_times)
        digest = session.digest()
        if digest in found:
            records.counts["duplicate_sessions_dropped"] += 1
        elif session.name in names:
            records.refuse("id", "a session id not used before", record["id"], "rename or remove the session")
        else:
            found[digest] = session
            names.add(session.name)
    if not found:
        raise TraceError(f"{file}: no sessions in it - fix: check that this is the right file")
    sessions = sorted(found.values(), key=lambda session: session.order)
    for session in sessions:
        if (session.block_tokens, session.global_ids) != (sessions[0].block_tokens, sessions[0].global_ids):
            raise TraceError(f"{session.where}: block_size or hash_id_scope differs from the others' - fix: read apart")
    provenance: dict[str, object] = {
        "format": "weka",
        "source": source(file),
        "time_unit": "s",
        "options": {"repair": sorted(repairs), "subagent_times": subagent_times},
    }
    made = _to_set(sessions, name or file.name.partition(".")[0], provenance, records.counts)
    _check_chains(made, sessions)
    return made


def _session(records: Records, record: Record, clip: bool, subagent_times: str) -> _Session:
    """Check one session and flatten it."""
    block_tokens = records.count(record, "block_size", 1)
    scope = record.get("hash_id_scope", "local")
    if scope not in ("local", "global"):
        records.refuse("hash_id_scope", "local or global", scope)
    flat = _Requests()
    _Reader(records, block_tokens, clip, subagent_times).flatten(record, flat, 0.0, 0)
    if not flat.rows:
        records.refuse("requests", "at least one request", record["requests"])
    offset_ms = np.round(np.array([row[0] for row in flat.rows]) * 1000.0, 3)
    order = np.arange(len(offset_ms))
    if np.isnan(offset_ms).any():
        offset_ms[:] = nan
    else:
        records.counts["requests_sorted_by_time"] += int((offset_ms < np.maximum.accumulate(offset_ms)).sum())
        order = np.argsort(offset_ms, kind="stable")
    rows = [flat.rows[i] for i in order.tolist()]
    columns = np.array([(*row[1:4], *flat.parts[row[1]]) for row in rows], np.int64)
    runs_of = runs.compressed([row[4] for row in rows])
    name = records.text(record, "id")
    return _Session(
        name, records.member, records.where, block_tokens, scope == "global", offset_ms[order], columns, *runs_of
    )


@dataclass(frozen=True)
class _Reader:
    """Flattens the requests of one session."""

    records: Records
    block_tokens: int
    clip: bool
    subagent_times: str

    def flatten(self, owner: Record, flat: _Requests, base_s: float, depth: int) -> None:
        """Append the requests of a session or sub-agent, and of the sub-agents in it."""
        records, agent = self.records, len(flat.parts)
        if depth > _MAX_DEPTH:
            records.refuse("requests", f"sub-agents at most {_MAX_DEPTH} deep", owner["requests"])
        flat.parts.append(self._parts(owner))
        records.counts.update(f"unused {name}" for name in owner.keys() - _USED)
        for request in records.objects(owner, "requests"):
            if request.get("type") == "subagent":
                inner = self._base_s(request, base_s)
                self.flatten(request, flat, inner, depth + 1)
            else:
                time_s = self._time_s(request)
                tokens, ids = self._ids(request)
                flat.rows.append((base_s + time_s, agent, tokens, records.count(request, "out"), ids))
                records.counts.update(f"unused {name}" for name in request.keys() - _USED_REQUEST)

    def _parts(self, owner: Record) -> tuple[int, int]:
        """Return tool and system tokens; (-1, -1) where neither is given."""
        if owner.get("tool_tokens") is None and owner.get("system_tokens") is None:
            return -1, -1
        return self.records.count(owner, "tool_tokens"), self.records.count(owner, "system_tokens")

    def _time_s(self, request: Record) -> float:
        return nan if request.get("t") is None else self.records.number_of(request, "t", _MAX_S)

    def _base_s(self, subagent: Record, base_s: float) -> float:
        """Return the time in the session that the times within a sub-agent count from."""
        own_s = self._time_s(subagent)
        if self.subagent_times == "absolute" or np.isnan(own_s):
            return base_s
        first_s = min(map(self._time_s, _leaves(self.records.objects(subagent, "requests"))), default=0.0)
        return base_s if self.subagent_times == "auto" and first_s >= own_s else base_s + own_s

    def _ids(self, request: Record) -> tuple[int, I64]:
        """Return prompt length and ids of the full blocks."""
        records, tokens = self.records, self.records.count(request, "in")
        ids, full = request.get("hash_ids"), tokens // self.block_tokens
        if type(ids) is not list:
            records.refuse("hash_ids", "a list of block ids", ids)
        if ids and (set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > _MAX_LOCAL_ID):
            records.refuse("hash_ids", f"integers from 0 to {_MAX_LOCAL_ID}", ids)
        if len(ids) == full + 1 and tokens % self.block_tokens:
            records.counts["partial_tail_ids_dropped"] += 1
            ids = ids[:full]
        if len(ids) < full and self.clip:
            records.counts["clip_input"] += 1
            tokens = (len(ids) + 1) * self.block_tokens - 1
        elif len(ids) != full:
            fix = "pass repair='clip_input' to lower 'in'" if len(ids) < full else "drop ids past the last block"
            expected = f"{full} ids = in {tokens} // block_size {self.block_tokens}"
            records.refuse("hash_ids", expected, ids, fix)
        return tokens, np.array(ids, np.int64)


def _leaves(requests: list[Record]) -> Iterator[Record]:
    return (request for request in requests if request.get("type") != "subagent")


def _to_set(sessions: list[_Session], name: str, provenance: dict[str, object], counts: Counter[str]) -> SessionSet:
    unused = {key.removeprefix("unused "): counts[key] for key in sorted(counts) if key.startswith("unused ")}
    provenance |= {key: counts[key] for key in sorted(counts) if counts[key] and not key.startswith("unused ")}
    columns = np.concatenate([session.columns for session in sessions])
    return SessionSet(
        name=name,
        block_tokens=sessions[0].block_tokens,
        global_ids=sessions[0].global_ids,
        session_names=tuple(session.name for session in sessions),
        abs_start_ms=np.full(len(sessions), nan),
        session_rows=chains.joined([np.array([0, len(session.offset_ms)]) for session in sessions]),
        offset_ms=np.concatenate([session.offset_ms for session in sessions]),
        agent=columns[:, 0].astype(np.int32),
        input_tokens=columns[:, 1].astype(np.int32),
        output_tokens=columns[:, 2].astype(np.int32),
        tool_tokens=columns[:, 3].copy(),
        system_tokens=columns[:, 4].copy(),
        run_rows=chains.joined([session.run_rows for session in sessions]),
        run_starts=np.concatenate([session.run_starts for session in sessions]),
        run_lengths=np.concatenate([session.run_lengths for session in sessions]),
        provenance=provenance | ({"unused_fields": unused} if unused else {}),
    )


def _check_chains(made: SessionSet, sessions: list[_Session]) -> None:
    """Refuse ids with two predecessors, without writing the runs out."""
    wrong = runs.first_violation(made.run_rows, namespaced_starts(made), made.run_lengths)
    if wrong >= 0:
        request = int(np.searchsorted(made.run_rows, wrong, side="right")) - 1
        session = int(np.searchsorted(made.session_rows, request, side="right")) - 1
        raise TraceError(
            f"{sessions[session].where}: field 'hash_ids': expected prefix-chained ids (equal id = equal whole prefix),"
            f" got id {made.run_starts[wrong]} or its neighbour with two predecessors, request"
            f" {request - int(made.session_rows[session])} in time - fix: re-key ids by (path so far, id)",
            field="hash_ids",
        )
