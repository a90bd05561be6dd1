"""A small valid file of every line-based format, and what changes it into a broken one.

Files of formats whose real ones are not at hand (Bailian, Dynamo, agentic_mooncake, LMCache, prefix-cache-evolve)
follow the published description; the readers' modules say which.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import SessionSet, Trace
from workloads.readers import (
    agentic_mooncake,
    bailian,
    dynamo,
    kvsess1,
    kvt1,
    lmcache,
    mooncake,
    prefix_cache_evolve,
    ragpulse,
)

Records = list[dict[str, Any]]

# Blocks of 4 tokens unless the format says 16. 9 tokens: ids 0 1 and partial 2; 8: ids 0 1, nothing partial.
MOONCAKE: Records = [
    {"timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 1500, "input_length": 8, "output_length": 0, "hash_ids": [0, 1]},
    {"timestamp": 1500.5, "input_length": 13, "output_length": 1, "hash_ids": [0, 1, 3, 4]},
]
CLOSED_LOOP: Records = [
    {"session_id": "a", "created_time": 1000, "input_tokens": 9, "output_tokens": 40, "hash_ids": [0, 1, 2]},
    {"session_id": "a", "delay_ms": 500, "input_tokens": 13, "output_tokens": 20, "hash_ids": [0, 1, 3, 4]},
    {"session_id": "a", "input_tokens": 13, "output_tokens": 20, "hash_ids": [0, 1, 3, 4], "priority": 7},
    {"session_id": "b", "timestamp": 2200, "input_tokens": 4, "output_tokens": 0, "hash_ids": [0]},
]
DELTA: Records = [
    {"session_id": "a", "timestamp": 0, "input_length": 6, "output_length": 3, "hash_ids": [1, 2]},
    {"session_id": "b", "timestamp": 10, "input_length": 8, "output_length": 0, "hash_ids": [1, 9]},
    {"session_id": "a", "delay": 5, "input_length": 5, "output_length": 1, "hash_ids": [3, 4]},
]
KVT1: Records = [
    {"format": "kvt1", "name": "tiny", "block_size": 4, "source": "by hand", "licence": "none"},
    {"t": 0, "in": 9, "out": 5, "s": 3, "b": [[0, 2]]},
    {"t": 1000, "in": 17, "out": 1, "s": 4, "b": [[0, 2], [5, 2]]},
    {"t": 1000, "in": 12, "out": 1, "s": 3, "b": [[0, 3]]},
]
KVSESS1: Records = [
    {"format": "kvsess1", "block_size": 4, "sessions": 2},
    {
        "session": "a",
        "tool_tokens": 5,
        "system_tokens": 3,
        "subagents": [[2, 2]],
        "requests": [
            {"t": 0, "a": 0, "in": 9, "out": 5, "b": [[1, 2]]},
            {"t": 2000, "a": 1, "in": 8, "out": 5, "b": [[9, 2]]},
            {"t": 9000, "a": 0, "in": 14, "out": 1, "b": [[1, 3]]},
        ],
    },
    {
        "session": "b",
        "tool_tokens": 5,
        "system_tokens": 3,
        "requests": [{"t": 0, "a": 0, "in": 12, "out": 2, "b": [[1, 3]]}],
    },
]


def chat(chat_id: int, parent: int, t: float, tokens: int, turn: int, *ids: int, kind: str = "text") -> dict[str, Any]:
    """One line of Qwen-Bailian."""
    lengths = {"timestamp": t, "input_length": tokens, "output_length": 3, "type": kind, "turn": turn}
    return {"chat_id": chat_id, "parent_chat_id": parent, **lengths, "hash_ids": list(ids)}


BAILIAN: Records = [
    chat(0, -1, 0.25, 40, 1, 7, 8, 9),
    chat(1, -1, 0.5, 32, 1, 8, 7, kind="file"),  # the ids of other places: other blocks
    chat(2, 0, 1.0, 64, 2, 7, 8, 5, 6),
    chat(4, 3, 2.0, 16, 6, 7),  # its parent lies before the trace
]


def ended(
    request: str, received: int, tokens: int, *hashes: int, agent: dict[str, Any] | None = None, model: str = "m"
) -> dict[str, Any]:
    """One `request_end` of a Dynamo request trace, blocks of 4 tokens."""
    replay = {"trace_block_size": 4, "input_length": tokens, "input_sequence_hashes": list(hashes)}
    inner = {"request_id": request, "model": model, "request_received_ms": received, "output_tokens": 2}
    event = {"schema": dynamo.SCHEMA, "event_type": "request_end", "event_time_unix_ms": received + 100}
    return {**event, "request": inner | {"replay": replay}} | ({} if agent is None else {"agent_context": agent})


DYNAMO: Records = [
    ended("r2", 1_500, 8, 2**64 - 1, 22, agent={"session_id": "child", "parent_session_id": "root"}),
    {"schema": dynamo.SCHEMA, "event_type": "tool_end", "event_time_unix_ms": 1, "tool": {"tool_call_id": "c"}},
    {"timestamp": 1, "event": ended("r1", 1_000, 11, 2**64 - 1, 22, 33, agent={"session_id": "root"})},
    ended("r3", 2_000, 8, 2**64 - 1, 22, agent={"session_id": "root"}, model="other"),
]


def row(request: str, tokens: int, output: int, *ids: int, **fields: Any) -> dict[str, Any]:
    """One row of agentic_mooncake."""
    return {"request_id": request, "input_length": tokens, "output_length": output, "hash_ids": list(ids), **fields}


AGENTIC_1: Records = [
    row("root", 4, 2, 1, session_id="s", timestamp=1000, branches=["sub"]),
    row("child", 9, 4, 1, 2, 3, session_id="s", timestamp=7, wait_for=["root", "sub"], delay=2, tool_wait_ms=3),
    row("sub", 4, 8, 1, session_id="t", wait_for=["root"]),
]


def dependency(request: str, trigger: str, delay_ms: float, relation: str = "sequence") -> dict[str, Any]:
    """One dependency of agentic_mooncake version 2."""
    return {"request_id": request, "trigger": trigger, "delay_ms": delay_ms, "relation": relation}


def played(request: str, play: str, session: str, start: float, *dependencies: dict[str, Any]) -> dict[str, Any]:
    """One row of agentic_mooncake version 2, 8 tokens in two blocks with the same ids everywhere."""
    more = {"play_id": play, "session_id": session, "model": "m", "not_before_ms": start}
    return row(request, 8, 4, 1, 2, **more, dependencies=list(dependencies))


AGENTIC_2: Records = [
    {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 4, "hash_id_scope": "local"},
    played("r1", "p", "main", 10.0),
    played("r2", "p", "sub", 0.0, dependency("r1", "dispatch", 12.0, "spawn")),
    played("r3", "p", "main", 500.0, dependency("r1", "completion", 5.0), dependency("r2", "completion", 0, "join")),
    played("q1", "q", "main", 0.0),
]


def lookup(t: float, tokens: int, *chunks: str, model: str = "m") -> dict[str, Any]:
    """One line of LMCache's lookup log, chunks of 4 tokens."""
    rest = {"dtypes": ["bfloat16"], "shapes": [[2, 4, 8]], "chunk_hashes": list(chunks)}
    return {"timestamp": t, "request_id": "r", "model_name": model, "chunk_size": 4, "seq_len": tokens, **rest}


LMCACHE: Records = [
    lookup(1711929600.5, 9, "0xaa", "0xbb"),
    lookup(1711929601.0, 8, "0xaa", "0xbb", model="other"),
    lookup(1711929602.0, 13, "0xaa", "0xbb", "0xcc"),
]
EVOLVE: Records = [
    {"timestamp_ms": 0, "tenant_id": "t", "session_id": "s", "prompt_length": 9, "output_length": 5}
    | {"prefix_path": ["x", "y", "z"], "request_type": "chat", "priority": 2, "predicted_output_length": 4},
    {"timestamp_ms": 1500, "tenant_hash": 5, "session_hash": "s", "prompt_length": 8, "output_length": 0}
    | {"prefix_hashes": ["y", "x"]},  # the names of other places: other blocks
]
RAGPULSE: Records = [
    {"timestamp": "90", "input_length": 14, "output_length": 2, "session_id": "b"}
    | {"hash_ids": {"sys_prompt": [1], "passages_ids": [2, 3], "history": [], "web_search": [], "user_input": [5]}},
    {"timestamp": "3", "input_length": 20, "output_length": 1, "session_id": "a"}
    | {"hash_ids": {"sys_prompt": [1], "passages_ids": [2], "history": [4], "web_search": [6], "user_input": [5]}},
]
RAGPULSE_LENGTHS = {"1_sys_prompt": {1: 6}, "2_passages": {2: 3, 3: 1}, "3_history": {4: 5}}
RAGPULSE_LENGTHS |= {"4_user_input": {5: 2}, "5_web_search": {6: 0}}


def ragpulse_folder(folder: Path, records: list[Any] = RAGPULSE) -> Path:
    """Write the six files of RAGPulse; return the one with the requests."""
    folder.mkdir(exist_ok=True)
    for name, lengths in RAGPULSE_LENGTHS.items():
        key = ragpulse.LENGTH_FILES[f"{name}.jsonl"]
        write(folder / f"{name}.jsonl", [{key: number, "token_length": length} for number, length in lengths.items()])
    return write(folder / ragpulse.TRACE_FILE, records)


def write(path: Path, records: list[Any]) -> Path:
    """Write records as JSON lines; strings are written as they are."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


READERS: dict[str, tuple[Records, Callable[[Path], Trace | SessionSet]]] = {
    "mooncake": (MOONCAKE, lambda path: mooncake.read(path, block_tokens=4)),
    "closed_loop": (CLOSED_LOOP, lambda path: mooncake.read(path, block_tokens=4)),
    "delta": (DELTA, lambda path: mooncake.read(path, block_tokens=4, prompts="delta")),
    "kvt1": (KVT1, kvt1.read),
    "kvsess1": (KVSESS1, kvsess1.read),
    "bailian": (BAILIAN, bailian.read),
    "dynamo": (DYNAMO, dynamo.read),
    "agentic_1": (AGENTIC_1, lambda path: agentic_mooncake.read(path, block_tokens=4)),
    "agentic_2": (AGENTIC_2, agentic_mooncake.read),
    "lmcache": (LMCACHE, lmcache.read),
    "evolve": (EVOLVE, lambda path: prefix_cache_evolve.read(path, block_tokens=4)),
    "ragpulse": (RAGPULSE, lambda path: ragpulse.read(path, block_tokens=4)),
}
"""Records and how they are read, by dialect."""


def changed(records: Records, line: int, **fields: Any) -> list[Any]:
    """Return the records with fields of one line (from 1) replaced."""
    return [{**r, **fields} if i == line - 1 else r for i, r in enumerate(records)]


def without(records: Records, line: int, field: str) -> list[Any]:
    """Return the records with one field of one line removed."""
    return [{k: v for k, v in r.items() if i != line - 1 or k != field} for i, r in enumerate(records)]
