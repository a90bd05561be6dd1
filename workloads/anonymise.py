"""A trace or a text log without anything that could be traced back: keyed ids, lengths, times.

Knows which columns name something, and how names are keyed. Must not know formats beyond what the registry offers. What
is written holds no text, no id of the source and nothing of its provenance that names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from workloads import chains, formats, progress, runs, sidecar
from workloads.columns import I64, renumbered
from workloads.errors import TraceError
from workloads.keys import Names
from workloads.loading import file_of
from workloads.materialise import materialise
from workloads.recording.line import Line
from workloads.text.collect import KeyedSessions
from workloads.trace import Trace
from workloads.writers.packed import packed_write

NAME = "anonymous"
LOG_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")

_KEPT = ("tokenizer", "template", "materialisation")
_TELL_LINES = 1024


@dataclass(frozen=True)
class _Names:
    """Keyed names of what a trace numbers: blocks by id, sessions and tenants by label, partial blocks by request."""

    blocks: I64
    session: Sequence[str]
    tenant: Sequence[str]
    tails: I64


def anonymise(spec: str, output: Path, key: bytes, start_at_zero: bool = False, dense: bool = False) -> Trace:
    """Write a trace or text log with keyed names instead of its own.

    Blocks of text logs are named by their contents (and tokenizer, template, block size), so with one key equal prompts
    of all logs, recorded ones too, get equal ids. Other traces only number their blocks; a number is named together
    with the fingerprint of its trace, so equal traces get equal ids and different ones share none. Sessions and tenants
    likewise.

    Args:
        spec: What to read, see :func:`workloads.load`.
        output: ``.jsonl``, ``.jsonl.gz`` or ``.jsonl.zst``: a log with keyed ids, read as format ``recorded``. Another
            suffix: a trace file, whose ids are numbers in order of first appearance.
        key: The secret, see :func:`workloads.keys.load_key`.
        start_at_zero: Shift times so that the first request arrives at 0.
        dense: Numbers in order of first appearance in a log too: not even the owner of the key can link it to others.

    Returns:
        The trace that was written; its own ids are dense in any case.

    Raises:
        TraceError: whatever the reader refuses, or an output of no known format.
        OSError: the output cannot be written.
    """
    log = output.name.endswith(LOG_SUFFIXES)
    write = None if log else formats.writer(output).write
    trace, names = _read(spec, key)
    clean = _cleaned(trace, start_at_zero)
    if write is not None:
        write(clean, output)
        return clean
    if dense:
        names = _numbers(clean)
        trace = clean
    with packed_write(output) as stream:
        for number, line in enumerate(_lines(clean, trace, names)):
            stream.write(line.encoded())
            if number % _TELL_LINES == 0:
                progress.tell(f"writing {output.name}, requests", number, clean.n_requests)
    sidecar.beside(output).unlink(missing_ok=True)  # of a file that was here before, and names its source
    return clean


def _read(spec: str, key: bytes) -> tuple[Trace, _Names]:
    """Read a trace and name what it numbers."""
    module, path, reading, laying = file_of(spec)
    keyed = {"key": key} if "key" in inspect.signature(module.read).parameters else {}
    found = module.read(path, **reading, **keyed)
    trace: Trace = found if laying is None else materialise(found, **laying)
    names = _of_numbers(trace, key)
    if isinstance(found, KeyedSessions):
        blocks = found.block_keys[_source_ids(found, trace)]
        names = replace(names, blocks=blocks, session=found.session_keys, tenant=found.tenant_keys)
    return trace, names


def _of_numbers(trace: Trace, key: bytes) -> _Names:
    """Return keyed names of numbers that mean something in this trace only."""
    origin = bytes.fromhex(trace.fingerprint)

    def values(count: int) -> Iterator[bytes]:
        return (origin + number.to_bytes(8, "big") for number in range(count))

    def labels(column: str) -> list[str]:
        found = getattr(trace, column)
        count = 0 if found is None else int(found.max(initial=-1)) + 1
        return list(map(Names(key, f"numbered {column}").text, values(count)))

    def numbers(kind: str, count: int) -> I64:
        return np.fromiter(map(Names(key, kind).number, values(count)), np.int64, count)

    blocks, tails = numbers("numbered block", trace.n_blocks), numbers("partial block", trace.n_requests)
    return _Names(blocks, labels("session"), labels("tenant"), tails)


def _source_ids(sessions: KeyedSessions, trace: Trace) -> I64:
    """Return int64[n_blocks] the id in the sessions of each block of the trace laid out from them."""
    if trace.session is None or trace.turn is None:
        raise TraceError(f"{trace.name}: expected a trace with sessions")
    requests = sessions.session_rows[trace.session] + trace.turn
    every = np.arange(len(sessions.run_starts), dtype=np.int64)
    rows, index = chains.take_rows(sessions.run_rows, every, requests)
    _, ids = runs.expand(rows, sessions.run_starts[index], sessions.run_lengths[index])
    found = np.empty(trace.n_blocks, np.int64)
    found[trace.block_ids] = ids
    return found


def _numbers(clean: Trace) -> _Names:
    """Return numbers as names, for logs with dense ids."""

    def labels(column: str) -> list[str]:
        found = getattr(clean, column)
        return [] if found is None else list(map(str, range(int(found.max(initial=-1)) + 1)))

    tails = np.arange(clean.n_blocks, clean.n_blocks + clean.n_requests)
    return _Names(np.arange(clean.n_blocks), labels("session"), labels("tenant"), tails)


def _cleaned(trace: Trace, start_at_zero: bool) -> Trace:
    """Return the trace with numbered sessions and tenants, and without what its provenance says of the source."""
    columns: dict[str, Any] = {
        column: renumbered(found) for column in ("session", "tenant") if (found := getattr(trace, column)) is not None
    }
    if start_at_zero:
        columns["arrival_s"] = trace.arrival_s - trace.arrival_s[0]
    provenance: dict[str, object] = {"format": "anonymised", "times_shifted": start_at_zero}
    provenance |= {name: trace.provenance[name] for name in _KEPT if name in trace.provenance}
    return replace(trace, name=NAME, provenance=provenance, **columns)


def _lines(clean: Trace, trace: Trace, names: _Names) -> Iterator[Line]:
    """Yield a line per request; times and lengths of the clean trace, names by the labels of the other."""
    size = clean.block_tokens
    arrival_ms = np.round(clean.arrival_s * 1000.0, 4).tolist()
    given = {column: found.tolist() for column, found in trace.columns().items()}
    unknown = [-1] * clean.n_requests
    sessions, tenants = given.get("session", unknown), given.get("tenant", unknown)
    for row, (tokens, output_tokens) in enumerate(zip(given["input_tokens"], given["output_tokens"], strict=True)):
        ids = names.blocks[trace.block_ids[trace.offsets[row] : trace.offsets[row + 1]]].tolist()
        if tokens % size:
            ids.append(int(names.tails[row]))
        yield Line(
            timestamp=arrival_ms[row],
            input_length=tokens,
            output_length=output_tokens,
            hash_ids=ids,
            block_size=size,
            session_id=names.session[sessions[row]] if sessions[row] >= 0 else None,
            tenant_id=names.tenant[tenants[row]] if tenants[row] >= 0 else None,
            counts={column: given[column][row] for column in ("request_type", "priority") if column in given},
        )
