"""DynoSim's agentic_mooncake: Mooncake rows that name the requests they wait for.

Knows both versions and the clock of a workflow. Must not know where the files are. Source: ai-dynamo/dynamo,
lib/data-gen/src/mooncake.rs @ c1b1ab0 and lib/mocker/src/loadgen/driver.rs @ 0c7705a: from source, not measured.

Both have ``request_id``, ``input_length``, ``output_length``, ``hash_ids``, optional ``session_id`` and ``priority``.

- Version 1, no header: a row without ``wait_for`` starts at ``timestamp`` (ms); any other when all rows in ``wait_for``
  have ended, plus ``delay`` plus ``tool_wait_ms``; its timestamp is not used. ``branches`` names the first requests of
  sub-agents.
- Version 2, a header line ``{"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": ...}``: a row starts at
  ``not_before_ms`` or later, when each of ``dependencies`` allows it: ``delay_ms`` after the request was dispatched or
  completed (``trigger``); ``relation`` "spawn" marks the first request of a sub-agent. Block ids and sessions are those
  of a ``play_id``: equal ids of different plays are different blocks.

A request ends after its output tokens were decoded at a constant rate; nothing else takes time.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads import chains
from workloads.columns import I64, INT32_MAX
from workloads.formats import Head
from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.readers.assemble import Rows, assemble, checked_repairs, integers
from workloads.readers.lines import JsonLines, Record, source_of, stem_of
from workloads.readers.session_clock import SessionClock
from workloads.trace import Trace
from workloads.validation import check_block_tokens

SUMMARY = "DynoSim's agentic_mooncake: requests that wait for others"
SCHEMA = "dynamo.agentic_mooncake"
VERSION = 2
RULE = "arrival = latest over what it waits for of (arrival + output_tokens / decode_tokens_per_s) + delay"

_MARKS = frozenset(("wait_for", "branches", "tool_wait_ms", "not_before_ms", "dependencies"))
_LENGTHS = frozenset(("input_length", "input_tokens", "output_length", "output_tokens", "hash_ids"))
_TIMES = frozenset(("timestamp", "created_time", "delay", "delay_ms"))
_USED = _MARKS | _LENGTHS | _TIMES | frozenset(("request_id", "session_id", "play_id", "priority"))


def matches(head: Head) -> bool:
    """Return whether the first line is the header, or a row with a field of this format alone."""
    first = head.first or {}
    return first.get("schema") == SCHEMA or ("hash_ids" in first and not _MARKS.isdisjoint(first))


@dataclass(frozen=True)
class _Wait:
    """What a request waits for: a request's dispatch or completion, plus a delay."""

    request_id: str
    delay_ms: float
    completion: bool


@dataclass
class _Workflow:
    """What has been read so far."""

    block_tokens: int
    header: Record | None = None
    rows: Rows = field(default_factory=Rows)
    ids: array[int] = field(default_factory=integers)
    play_of: array[int] = field(default_factory=integers)
    plays: dict[str | int, int] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)
    waits: list[list[_Wait]] = field(default_factory=list)
    spawned: set[str] = field(default_factory=set)
    partial: int = 0
    unused_timestamps: int = 0


def read(
    path: str | os.PathLike[str],
    block_tokens: int | None = None,
    name: str | None = None,
    repair: str | Iterable[str] = (),
    decode_tokens_per_s: float = DECODE_TOKENS_PER_S,
) -> Trace:
    """Read an agentic_mooncake file, plain or packed.

    Args:
        path: The file.
        block_tokens: Tokens per block; default: the header's, or 512 without a header.
        name: Name of the trace; default: the file's name without suffixes.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`: ``rechain``.
        decode_tokens_per_s: Output tokens a request generates per second.

    Returns:
        The trace in order of time; ``request_type`` is 1 for requests of sub-agents' sessions. Provenance says what was
        assumed about times (``closed_loop``).

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    repairs = checked_repairs(repair, ("rechain",))
    clock, source = SessionClock(decode_tokens_per_s), JsonLines(file)
    flow = _Workflow(512 if block_tokens is None else block_tokens)
    check_block_tokens(flow.block_tokens)
    for record in source.records():
        if "schema" in record:
            flow.header = _read_header(source, record, flow, block_tokens)
        else:
            _read_request(source, record, flow)
    _lay_out(flow, source, clock)
    _mark_sub_agents(flow)
    return assemble(
        source,
        flow.rows,
        _ids_by_play(flow),
        name=name or stem_of(file),
        block_tokens=flow.block_tokens,
        repairs=repairs,
        provenance=_provenance(flow, file, clock, repairs),
        by_time=True,
    )


def _provenance(flow: _Workflow, file: Path, clock: SessionClock, repairs: frozenset[str]) -> dict[str, object]:
    """Return what is known about the source."""
    return {
        "format": "agentic_mooncake",
        "source": source_of(file),
        "time_unit": "ms",
        "header": flow.header,
        "options": {"block_tokens": flow.block_tokens, "repair": sorted(repairs)},
        "partial_tail_ids_dropped": flow.partial,
        "timestamps_not_used": flow.unused_timestamps,
        "closed_loop": clock.constants(RULE) | {"requests_following": sum(map(bool, flow.waits))},
    }


def _read_header(source: JsonLines, record: Record, flow: _Workflow, block_tokens: int | None) -> Record:
    """Check the header line of version 2."""
    if record["schema"] != SCHEMA:
        source.refuse("schema", repr(SCHEMA), record["schema"], "check that this is the right file for this reader")
    if record.get("version") != VERSION:
        source.refuse("version", f"version {VERSION}", record.get("version"), "this version is not known")
    if flow.rows.line:
        source.refuse("schema", "a header in the first line only", "one after requests")
    size = source.integer(record, "block_size", 1)
    if block_tokens not in (None, size):
        source.refuse("block_size", f"block_tokens {block_tokens} as given", size, "leave block_tokens out")
    flow.block_tokens = size
    return record


def _read_request(source: JsonLines, record: Record, flow: _Workflow) -> None:
    """Check one row and append it to the columns; its arrival is set later."""
    second = flow.header is not None
    request = _id(source, record.get("request_id"), "request_id")
    if request in flow.index:
        source.refuse("request_id", "a request id not used before", request)
    tokens = source.integer(record, "input_length" if "input_length" in record else "input_tokens", 0)
    output = source.integer(record, "output_length" if "output_length" in record else "output_tokens", 0)
    listed = source.block_ids(record, "hash_ids")
    begun, full = -(-tokens // flow.block_tokens), tokens // flow.block_tokens
    if len(listed) != begun:
        expected = f"{begun} ids = input_length {tokens} / block_tokens {flow.block_tokens}, rounded up"
        source.refuse("hash_ids", expected, f"{len(listed)} ids", "give the trace's own block_tokens")
    start_ms, waits = (_dependencies if second else _wait_for)(source, record, flow)
    flow.index[request] = len(flow.waits)
    flow.waits.append(waits)
    flow.ids.extend(listed[:full])
    flow.partial += begun - full
    play = source.label(record, "play_id") if second else None
    flow.play_of.append(flow.plays.setdefault(play if play is not None else "", len(flow.plays)))
    flow.rows.add(source.line, start_ms, tokens, output, full)
    session = source.label(record, "session_id")
    if session is not None:
        flow.rows.name("session", session if play is None else f"{play}\n{session}")
    if record.get("priority") is not None:
        flow.rows.put("priority", source.integer(record, "priority", -INT32_MAX))
    source.note_unused(record, _USED)


def _wait_for(source: JsonLines, record: Record, flow: _Workflow) -> tuple[float, list[_Wait]]:
    """Return the earliest start of a row of version 1 in ms and what it waits for."""
    time = "timestamp" if record.get("timestamp") is not None else "created_time"
    delay = "delay" if record.get("delay") is not None else "delay_ms"
    awaited = _list(source, record, "wait_for")
    flow.spawned.update(_id(source, branch, "branches") for branch in _list(source, record, "branches"))
    given = [key for key in (delay, "tool_wait_ms") if record.get(key) is not None]
    delay_ms = sum(source.milliseconds(record, key) for key in given)
    if not awaited:
        return source.milliseconds(record, time), []
    flow.unused_timestamps += record.get(time) is not None
    return 0.0, [_Wait(_id(source, request, "wait_for"), delay_ms, True) for request in awaited]


def _dependencies(source: JsonLines, record: Record, flow: _Workflow) -> tuple[float, list[_Wait]]:
    """Return the earliest start of a row of version 2 in ms and what it waits for."""
    waits = []
    for dependency in _list(source, record, "dependencies"):
        if type(dependency) is not dict or dependency.get("trigger") not in ("dispatch", "completion"):
            source.refuse("dependencies", "objects with a trigger dispatch or completion", dependency)
        awaited = _id(source, dependency.get("request_id"), "dependencies")
        completion = dependency["trigger"] == "completion"
        waits.append(_Wait(awaited, source.milliseconds(dependency, "delay_ms"), completion))
        if dependency.get("relation") == "spawn":
            flow.spawned.add(record["request_id"])
    return source.milliseconds(record, "not_before_ms"), waits


def _id(source: JsonLines, value: Any, name: str) -> str:
    """Return a request id."""
    if type(value) is not str or not value:
        source.refuse(name, "a request id, a string that is not empty", value)
    return value


def _list(source: JsonLines, record: Record, name: str) -> list[Any]:
    """Return an optional field that is a list."""
    value = record.get(name)
    if value is None:
        return []
    if type(value) is not list:
        source.refuse(name, "a list", value)
    return value


def _lay_out(flow: _Workflow, source: JsonLines, clock: SessionClock) -> None:
    """Set the arrivals: every request after all it waits for, rounded to 0.1 ms."""
    name = "wait_for" if flow.header is None else "dependencies"
    rows, waits = flow.rows, flow.waits
    followers: list[list[int]] = [[] for _ in waits]
    for row, awaited in enumerate(waits):
        for wait in awaited:
            if wait.request_id not in flow.index:
                source.line = rows.line[row]
                source.refuse(name, "a request id of this file", wait.request_id)
            followers[flow.index[wait.request_id]].append(row)
    missing = [len(awaited) for awaited in waits]
    ready = [row for row, count in enumerate(missing) if count == 0]
    for row in ready:
        times = [rows.arrival_ms[row]]
        for wait in waits[row]:
            before = flow.index[wait.request_id]
            service_ms = clock.service_ms(rows.output_tokens[before]) if wait.completion else 0.0
            times.append(rows.arrival_ms[before] + service_ms + wait.delay_ms)
        rows.arrival_ms[row] = round(max(times), 1)
        for follower in followers[row]:
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    if len(ready) < len(waits):
        row = next(row for row, count in enumerate(missing) if count)
        source.line = rows.line[row]
        source.refuse(name, "a request that can start", "one that waits, at some remove, for itself or a circle")


def _mark_sub_agents(flow: _Workflow) -> None:
    """Set ``request_type``: 1 for requests of sessions whose first request was spawned, else 0."""
    sessions = flow.rows.more.get("session")
    if sessions is None:
        return
    sessions.extend([-1] * (len(flow.waits) - len(sessions)))
    spawned = {sessions[flow.index[request]] for request in flow.spawned if request in flow.index} - {-1}
    flow.rows.more["request_type"] = array("q", (int(session in spawned) for session in sessions))


def _ids_by_play(flow: _Workflow) -> I64:
    """Return int64[n_refs] ids of the blocks, one per play and id."""
    ids: I64 = chains.densify(np.asarray(flow.ids, np.int64))[0].astype(np.int64)
    ids *= max(len(flow.plays), 1)
    ids += np.repeat(np.asarray(flow.play_of, np.int64), np.asarray(flow.rows.counts, np.int64))
    return ids
