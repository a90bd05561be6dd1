"""Mooncake JSONL: one request per line with ``timestamp``, ``input_length``, ``output_length``, ``hash_ids``.

Knows that format, its partial tail id and its dialects. Must not know where the files are. Sources:
kvcache-ai/Mooncake, FAST25-release (Qin et al., USENIX FAST'25); ai-dynamo/dynamo, lib/data-gen/src/mooncake.rs
@ c1b1ab0 and lib/mocker/src/loadgen @ 0a9ff0c (DynoSim); ai-dynamo/aiperf, MooncakeTrace. What the dialects add (from
source, not measured):

- ``input_tokens``, ``output_tokens``, ``created_time``, ``delay_ms``: other names of ``input_length``,
  ``output_length``, ``timestamp``, ``delay``.
- ``session_id``, and closed-loop rows: ``delay`` (ms after the session's previous row ends) instead of ``timestamp``.
  They are laid on the clock by :mod:`workloads.readers.session_clock`. A row that has both arrives at its timestamp,
  the recorded time (DynoSim would use the delay).
- ``priority``; and of Qwen-Bailian ``chat_id`` with ``parent_chat_id``, ``turn``, ``type``.
- DynoSim's mooncake-delta (``prompts=delta``): a row's lengths and ids are those of what is new since the session's
  previous row; the prompt is everything before, the previous outputs, and that.

DynoSim's agentic_mooncake is a format of its own (:mod:`workloads.readers.agentic_mooncake`).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workloads.columns import I64, INT32_MAX
from workloads.errors import TraceError
from workloads.formats import Head
from workloads.materialise import DECODE_TOKENS_PER_S
from workloads.readers.assemble import REPAIRS, Rows, assemble, checked_repairs, integers, recorded_lengths
from workloads.readers.chats import Chats
from workloads.readers.lines import JsonLines, Record, source_of, stem_of
from workloads.readers.pieces import PieceTree, Prompt
from workloads.readers.session_clock import SessionClock
from workloads.trace import Trace
from workloads.validation import check_block_tokens
from workloads.writers.mooncake import KEEPS, SUFFIXES, write

__all__ = ["KEEPS", "SUFFIXES", "SUMMARY", "matches", "read", "write"]

_PLAIN = frozenset(("timestamp", "input_length", "output_length", "hash_ids"))
_OTHER_NAMES = frozenset(("created_time", "input_tokens", "output_tokens", "delay_ms"))
_MORE = frozenset(("session_id", "delay", "priority", "chat_id", "parent_chat_id", "turn", "type"))
_USED = _PLAIN | _OTHER_NAMES | _MORE
_AGENTIC = ("wait_for", "dependencies", "tool_wait_ms", "not_before_ms", "branches")
_CHOICES = {"partial_tail": ("drop", "block"), "prompts": ("full", "delta")}

SUMMARY = "Mooncake, NVIDIA Dynamo and DynoSim (mooncake, mooncake-delta), AIPerf"


def matches(head: Head) -> bool:
    """Return whether the first line has block hashes, or the lengths and time of a request without them."""
    first = head.first or {}
    lengths = "input_length" in first or "input_tokens" in first
    return "hash_ids" in first or (lengths and ("timestamp" in first or "delay" in first))


@dataclass
class _Reader:
    """What has been read so far."""

    source: JsonLines
    block_tokens: int
    keep_tail: bool
    clip: bool
    clock: SessionClock
    rows: Rows = field(default_factory=Rows)
    ids: array[int] = field(default_factory=integers)
    chats: Chats = field(default_factory=Chats)
    recorded_tokens: array[int] = field(default_factory=integers)
    partial: int = 0
    unused_delays: int = 0


def read(
    path: str | os.PathLike[str],
    block_tokens: int = 512,
    name: str | None = None,
    repair: str | Iterable[str] = (),
    partial_tail: str = "drop",
    prompts: str = "full",
    decode_tokens_per_s: float = DECODE_TOKENS_PER_S,
    window_s: float | None = None,
    seed: int = 0,
) -> Trace:
    """Read a Mooncake JSONL file, plain or packed.

    Args:
        path: The file.
        block_tokens: Tokens per block; the file does not say (Mooncake's own traces: 512).
        name: Name of the trace; default: the file's.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`; with deltas only ``sort_time``.
        partial_tail: What becomes of the last id of a request, a partial block unless ``input_length`` is a multiple of
            ``block_tokens``. "drop", as engines do: full blocks only. "block", as simulators do that ignore lengths: a
            block like any other, the prompt rounded up to whole blocks (``kvevolve fidelity`` shows what that costs).
        prompts: "full": a row lists its whole prompt. "delta": what is new since the session's previous row.
        decode_tokens_per_s: For closed-loop rows, see :mod:`workloads.readers.session_clock`.
        window_s: Sessions whose first row has no timestamp start uniformly within this time.
        seed: Seed of those starts.

    Returns:
        The trace, sorted by time if there are closed-loop rows. Provenance counts the partial ids and says what was
        assumed about times (``closed_loop``).

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    check_block_tokens(block_tokens)
    options = {"block_tokens": block_tokens, "partial_tail": partial_tail, "prompts": prompts}
    _check_options(file, options)
    repairs = checked_repairs(repair, ("sort_time",) if prompts == "delta" else REPAIRS)
    clock = SessionClock(decode_tokens_per_s, window_s, seed)
    reader = _Reader(JsonLines(file), block_tokens, partial_tail == "block", "clip_input" in repairs, clock)
    ids = _read_deltas(reader) if prompts == "delta" else _read_prompts(reader)
    return assemble(
        reader.source,
        reader.rows,
        ids,
        name=name or stem_of(file),
        block_tokens=block_tokens,
        repairs=repairs,
        provenance=_provenance(reader, options | {"repair": sorted(repairs)}),
        by_time=clock.following + clock.drawn > 0,
    )


def _check_options(file: Path, options: dict[str, object]) -> None:
    """Refuse options that are none."""
    for option, choices in _CHOICES.items():
        if options[option] not in choices:
            raise TraceError(f"{file}: {option}={options[option]!r}; fix: give {' or '.join(choices)}")
    if options["prompts"] == "delta" and options["partial_tail"] == "block":
        raise TraceError(f"{file}: partial_tail='block' has no meaning with prompts='delta'; fix: leave one out")


def _provenance(reader: _Reader, options: dict[str, object]) -> dict[str, object]:
    """Return what is known about the source."""
    found: dict[str, object] = {
        "format": "mooncake",
        "source": source_of(reader.source.path),
        "time_unit": "ms",
        "options": options,
        f"partial_tail_ids_{'kept' if reader.keep_tail else 'dropped'}": reader.partial,
        **reader.clock.assumptions(),
        **reader.chats.counted(),
    }
    if reader.keep_tail:
        found |= recorded_lengths(reader.recorded_tokens)
    if reader.unused_delays:
        found["delays_beside_timestamps"] = reader.unused_delays
    return found


def _read_prompts(reader: _Reader) -> I64:
    """Read rows that list whole prompts; return their ids int64[n_refs]."""
    size = reader.block_tokens
    for record in reader.source.records():
        tokens, output, listed = _lengths(reader, record)
        if reader.keep_tail:
            reader.recorded_tokens.append(tokens)
        count = tokens // size
        if len(listed) != -(-tokens // size):
            if not (reader.clip and len(listed) <= count):
                _refuse_count(reader, tokens, len(listed), "or pass repair='clip_input' if it lists too few")
            count = len(listed)
        elif tokens % size:
            reader.partial += 1
            if reader.keep_tail:
                count += 1
                tokens = count * size
        reader.ids.extend(listed if count == len(listed) else listed[:count])
        _add(reader, record, tokens, output, count)
    reader.chats.settle(reader.rows, reader.source)
    return np.asarray(reader.ids, np.int64)


def _read_deltas(reader: _Reader) -> I64:
    """Read rows that list what is new in a session; return the ids of the whole prompts int64[n_refs]."""
    size, tree = reader.block_tokens, PieceTree(reader.block_tokens)
    prompts: dict[str | int, Prompt] = {}
    for record in reader.source.records():
        new, output, listed = _lengths(reader, record)
        if len(listed) != -(-new // size):
            _refuse_count(reader, new, len(listed), "or repair the line")
        session = reader.source.label(record, "session_id")
        prompt = Prompt() if session is None else prompts.setdefault(session, Prompt())
        for index, name in enumerate(listed):
            length = min(size, new - index * size)
            tree.extend(prompt, (name, length), length)
        tokens = tree.tokens(prompt)
        if tokens > INT32_MAX:
            reader.source.refuse("input_length", f"prompts of at most {INT32_MAX} tokens", tokens)
        tree.add(prompt)
        reader.partial += tokens % size > 0
        _add(reader, record, tokens, output, tree.blocks(prompt))
        tree.extend(prompt, ("output of line", reader.source.line), output)
    reader.chats.settle(reader.rows, reader.source)
    return tree.ids()


def _lengths(reader: _Reader, record: Record) -> tuple[int, int, list[int]]:
    """Return prompt length, output length and block ids of a row."""
    source = reader.source
    if record.keys() != _PLAIN:
        _check_kind(source, record)
    tokens = source.integer(record, "input_length" if "input_length" in record else "input_tokens", 0)
    output = source.integer(record, "output_length" if "output_length" in record else "output_tokens", 0)
    return tokens, output, source.block_ids(record, "hash_ids")


def _check_kind(source: JsonLines, record: Record) -> None:
    """Refuse rows that are not of this format."""
    if "hash_ids" not in record:
        fix = "rows of lengths alone have no block identity: no hit can be computed from them"
        source.refuse("hash_ids", "a list of block ids", "nothing", fix)
    for found in _AGENTIC:
        if found in record:
            fix = f"this is agentic_mooncake: read agentic_mooncake:{source.path}"
            source.refuse(found, "no workflow field", record[found], fix)


def _refuse_count(reader: _Reader, tokens: int, count: int, else_fix: str) -> None:
    size = reader.block_tokens
    reader.source.refuse(
        "hash_ids",
        f"{-(-tokens // size)} ids = input_length {tokens} / block_tokens {size}, rounded up",
        f"{count} ids",
        f"give the trace's own block_tokens, {else_fix}",
    )


def _add(reader: _Reader, record: Record, tokens: int, output: int, count: int) -> None:
    """Append a request to the columns."""
    source, rows = reader.source, reader.rows
    if record.keys() == _PLAIN:
        rows.add(source.line, source.milliseconds(record, "timestamp"), tokens, output, count)
        return
    session = source.label(record, "session_id")
    arrival = _arrival_ms(reader, record, session)
    rows.add(source.line, arrival, tokens, output, count)
    if session is not None:
        reader.clock.served(session, arrival, output)
        rows.name("session", session)
    if record.get("priority") is not None:
        rows.put("priority", source.integer(record, "priority", -INT32_MAX))
    reader.chats.read(source, record, rows)
    source.note_unused(record, _USED)


def _arrival_ms(reader: _Reader, record: Record, session: str | int | None) -> float:
    """Return when a row arrives, in ms."""
    source = reader.source
    time = "timestamp" if record.get("timestamp") is not None else "created_time"
    delay = "delay" if record.get("delay") is not None else "delay_ms"
    if record.get(time) is not None:
        reader.unused_delays += bool(record.get(delay))
        return source.milliseconds(record, time)
    if session is None:
        source.refuse("timestamp", "an arrival time, or a session_id to follow", "nothing")
    delay_ms = source.milliseconds(record, delay) if record.get(delay) is not None else 0.0
    if reader.clock.knows(session):
        return reader.clock.after(session, delay_ms)
    if delay_ms:
        source.refuse(delay, "no delay in a session's first row", delay_ms, "give that row a timestamp instead")
    if reader.clock.window_s is None:
        fix = "give that row a timestamp, or pass window_s (seconds within which such sessions start)"
        source.refuse("timestamp", "an arrival time in a session's first row", "nothing", fix)
    return reader.clock.start()
