"""kvsess1: a header line, then one session per line with its requests and run-length block ids.

Knows that format. Must not know how sessions are laid on a common clock (``workloads.materialise``) or where the
files are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads import runs
from workloads.columns import F64, I64, INT32_MAX
from workloads.errors import TraceError
from workloads.formats import Head
from workloads.materialise import namespaced_starts
from workloads.readers.assemble import checked_repairs
from workloads.readers.kvt1 import read_header
from workloads.readers.lines import JsonLines, Record, source_of
from workloads.sessions import SessionSet

_USED_SESSION = frozenset(
    ("session", "kind", "abs_start_ms", "tool_tokens", "system_tokens", "subagents", "models", "n", "requests")
)
_USED_REQUEST = frozenset(("t", "a", "in", "out", "b", "api_ms", "think_ms"))
_UNKNOWN = (-1, -1)


@dataclass
class _Columns:
    """What has been read so far; see :class:`SessionSet` for the meanings."""

    block_tokens: int
    line: list[int] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    abs_start_ms: list[float] = field(default_factory=list)
    session_rows: list[int] = field(default_factory=lambda: [0])
    offset_ms: list[float] = field(default_factory=list)
    agent: list[int] = field(default_factory=list)
    input_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    prompt_parts: list[tuple[int, int]] = field(default_factory=list)
    run_rows: list[int] = field(default_factory=lambda: [0])
    run_flat: list[list[int]] = field(default_factory=list)
    requests_moved: int = 0


SUMMARY = "sessions with times of their own and runs of block ids"


def matches(head: Head) -> bool:
    """Return whether a file says so in its header."""
    return (head.first or {}).get("format") == "kvsess1"


def read(path: str | os.PathLike[str], name: str | None = None, repair: str | Iterable[str] = ()) -> SessionSet:
    """Read a kvsess1 file, plain or gzipped.

    Args:
        path: The file.
        name: Name of the set; default: the file's name without suffixes.
        repair: ``sort_time`` sorts (stably) the requests of a session whose times run backwards.

    Returns:
        The sessions. Ids are checked to be prefix-chained at the recorded block size.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    repairs = checked_repairs(repair, ("sort_time",))
    source = JsonLines(file)
    header: Record | None = None
    columns = _Columns(0)
    for record in source.records():
        if header is None:
            header = read_header(source, record, "kvsess1")
            if type(header.get("global_ids", False)) is not bool:
                source.refuse("global_ids", "true or false", header["global_ids"])
            columns.block_tokens = header["block_size"]
        else:
            _read_session(source, record, columns, repairs)
    if header is None or not columns.names:
        raise TraceError(f"{file}: no sessions in it - fix: check that this is the right file")
    made = {"sort_time": columns.requests_moved} if repairs else {}
    provenance: dict[str, object] = {
        "format": "kvsess1",
        "source": source_of(file),
        "time_unit": "ms",
        "header": header,
        "repairs": made,
    }
    set_name = name or file.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix("_sessions")
    sessions = _to_set(columns, set_name, bool(header.get("global_ids", False)), provenance | source.skipped())
    _check_chains(sessions, source, columns.line)
    return sessions


def _read_session(source: JsonLines, record: Record, columns: _Columns, repairs: frozenset[str]) -> None:
    """Check one line and append its session to the columns."""
    name = record.get("session")
    if type(name) is not str or not name or name in columns.names:
        source.refuse("session", "a session name not used before", name)
    requests = record.get("requests")
    if type(requests) is not list or not requests:
        source.refuse("requests", "a list of at least one request", requests)
    parts = _prompt_parts(source, record)
    timed = _timed(source, requests)
    if timed:
        requests = _in_time_order(source, requests, columns, repairs)
    for request in requests:
        _read_request(source, request, columns, parts)
    columns.abs_start_ms.append(
        source.milliseconds(record, "abs_start_ms") if record.get("abs_start_ms") is not None else np.nan
    )
    columns.names[name] = len(columns.names)
    columns.line.append(source.line)
    columns.session_rows.append(len(columns.agent))
    source.note_unused(record, _USED_SESSION)


def _timed(source: JsonLines, requests: list[Any]) -> bool:
    """Return whether the session's requests have times; all or none must."""
    for request in requests:
        if type(request) is not dict:
            source.refuse("requests", "a list of objects", request)
    timed = sum("t" in request for request in requests)
    if 0 < timed < len(requests):
        source.refuse("t", "in every request of a session or in none", f"{timed} of {len(requests)}")
    return timed > 0


def _in_time_order(
    source: JsonLines, requests: list[Record], columns: _Columns, repairs: frozenset[str]
) -> list[Record]:
    times = [source.milliseconds(request, "t") for request in requests]
    latest = -1.0
    late = 0
    for time_ms in times:
        late += time_ms < latest
        latest = max(latest, time_ms)
    if late == 0:
        return requests
    if "sort_time" not in repairs:
        source.refuse("t", "times that do not run backwards", f"{late} late requests", "pass repair='sort_time'")
    columns.requests_moved += late
    return [requests[i] for i in sorted(range(len(times)), key=times.__getitem__)]


def _prompt_parts(source: JsonLines, record: Record) -> list[tuple[int, int]]:
    """Return (tool tokens, system tokens) per agent, main agent first; (-1, -1) for a main agent without them."""
    main = _UNKNOWN
    if "tool_tokens" in record or "system_tokens" in record:
        main = source.integer(record, "tool_tokens", 0), source.integer(record, "system_tokens", 0)
    parts = [main]
    subagents = record.get("subagents", [])
    if type(subagents) is not list:
        source.refuse("subagents", "a list of [tool_tokens, system_tokens]", subagents)
    for pair in subagents:
        if type(pair) is not list or len(pair) != 2 or any(type(n) is not int or not 0 <= n <= INT32_MAX for n in pair):
            source.refuse("subagents", f"pairs of integers [tool_tokens, system_tokens] from 0 to {INT32_MAX}", pair)
        parts.append((pair[0], pair[1]))
    return parts


def _read_request(source: JsonLines, request: Record, columns: _Columns, parts: list[tuple[int, int]]) -> None:
    tokens = source.integer(request, "in", 0)
    blocks = source.block_runs(request, "b")
    count = sum(length for _, length in blocks)
    if count != tokens // columns.block_tokens:
        expected = f"{tokens // columns.block_tokens} blocks = in {tokens} // block_size {columns.block_tokens}"
        source.refuse("b", expected, f"{count} blocks", "list full blocks only")
    agent = source.integer(request, "a", 0) if "a" in request else 0
    if agent >= len(parts) and len(parts) > 1:
        source.refuse("a", f"an agent from 0 to {len(parts) - 1}", agent, "list the agent under 'subagents'")
    columns.offset_ms.append(request.get("t", np.nan))
    columns.agent.append(agent)
    columns.input_tokens.append(tokens)
    columns.output_tokens.append(source.integer(request, "out", 0))
    columns.prompt_parts.append(parts[agent] if agent < len(parts) else _UNKNOWN)
    columns.run_flat += blocks
    columns.run_rows.append(len(columns.run_flat))
    source.note_unused(request, _USED_REQUEST)


def _to_set(columns: _Columns, name: str, global_ids: bool, provenance: dict[str, object]) -> SessionSet:
    flat: I64 = np.array(columns.run_flat, np.int64).reshape(-1, 2)
    parts: I64 = np.array(columns.prompt_parts, np.int64).reshape(-1, 2)
    offset_ms: F64 = np.array(columns.offset_ms, np.float64)
    return SessionSet(
        name=name,
        block_tokens=columns.block_tokens,
        global_ids=global_ids,
        session_names=tuple(columns.names),
        abs_start_ms=np.array(columns.abs_start_ms, np.float64),
        session_rows=np.array(columns.session_rows, np.int64),
        offset_ms=offset_ms,
        agent=np.array(columns.agent, np.int32),
        input_tokens=np.array(columns.input_tokens, np.int32),
        output_tokens=np.array(columns.output_tokens, np.int32),
        tool_tokens=parts[:, 0].copy(),
        system_tokens=parts[:, 1].copy(),
        run_rows=np.array(columns.run_rows, np.int64),
        run_starts=flat[:, 0].copy(),
        run_lengths=flat[:, 1].copy(),
        provenance=provenance,
    )


def _check_chains(sessions: SessionSet, source: JsonLines, lines: list[int]) -> None:
    """Refuse block ids with two predecessors, at the recorded block size, without expanding the runs."""
    wrong = runs.first_violation(sessions.run_rows, namespaced_starts(sessions), sessions.run_lengths)
    if wrong >= 0:
        request = int(np.searchsorted(sessions.run_rows, wrong, side="right")) - 1
        session = int(np.searchsorted(sessions.session_rows, request, side="right")) - 1
        source.line = lines[session]
        source.refuse(
            "b",
            "prefix-chained ids (equal id = equal whole prefix)",
            f"request {request - int(sessions.session_rows[session])}: id {sessions.run_starts[wrong]} or its"
            " neighbour with two predecessors",
            "re-key ids by (path so far, id)",
        )
