"""RAGPulse as published: a trace whose prompts are lists of components, and five files with the components' lengths.

Knows that format: ``0_trace.jsonl`` with ``timestamp`` (s, text), ``input_length``, ``output_length``, ``session_id``
and ``hash_ids`` (five lists of component ids); ``1_sys_prompt.jsonl`` to ``5_web_search.jsonl`` with the
``token_length`` of every component. Must not know where the files are. A prompt is its components one after another,
in the order of the authors' own replayer, cut into blocks. Source: flashserve/RAGPulse @ 3672232, data/ and example/.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workloads.errors import TraceError
from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs
from workloads.readers.lines import JsonLines, Record, source_of
from workloads.readers.packed import DAMAGE
from workloads.readers.pieces import PieceTree, Prompt
from workloads.trace import Trace
from workloads.validation import check_block_tokens

SUMMARY = "RAGPulse as published: folder, raw.tar.gz or its 0_trace.jsonl"
TRACE_FILE = "0_trace.jsonl"
LENGTH_FILES = {
    "1_sys_prompt.jsonl": "sys_prompt_id",
    "2_passages.jsonl": "passage_id",
    "3_history.jsonl": "history_id",
    "4_user_input.jsonl": "user_input_id",
    "5_web_search.jsonl": "web_search_id",
}
PROMPT = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")
"""The components of a prompt, in order."""

_USED = frozenset(("timestamp", "input_length", "output_length", "hash_ids", "session_id"))


def matches(head: Head) -> bool:
    """Return whether it is a folder or tar archive with the trace file, or that file."""
    if head.path.is_dir():
        return os.path.isfile(head.path / TRACE_FILE)
    if head.start[257:262] == b"ustar":
        return any(file.encode() in head.start[:4096] for file in (TRACE_FILE, *LENGTH_FILES))
    return type((head.first or {}).get("hash_ids")) is dict


def read(
    path: str | os.PathLike[str],
    block_tokens: int = 16,
    name: str | None = None,
    repair: str | Iterable[str] = "clip_input,sort_time",
) -> Trace:
    """Read RAGPulse's own files.

    Args:
        path: The folder that holds them, the tar archive of it, or its ``0_trace.jsonl``.
        block_tokens: Tokens per block; the components can be cut into blocks of any size.
        name: Name of the trace.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`. The published trace needs both that
            are on by default: prompts count 6 to 12 chat-template tokens that no component covers, and requests lie in
            the file as two parts, the later one first.

    Returns:
        The trace, with sessions; for the published trace the same as its kvt1 conversion.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    given = Path(path)
    check_block_tokens(block_tokens)
    repairs = checked_repairs(repair)
    root = given.parent if given.name == TRACE_FILE and given.is_file() else given
    with _opened(root) as sources:
        lengths = {number: tokens for file in LENGTH_FILES for number, tokens in _lengths(*sources[file])}
        source, records = sources[TRACE_FILE]
        rows, tree = Rows(), PieceTree(block_tokens)
        for record in records:
            _read_request(source, record, lengths, tree, rows)
    files = [] if root.is_file() else [root / file for file in (TRACE_FILE, *LENGTH_FILES)]
    provenance: dict[str, object] = {
        "format": "ragpulse",
        "source": source_of(root, files),
        "time_unit": "s",
        "options": {"block_tokens": block_tokens, "repair": sorted(repairs)},
    }
    return assemble(
        source,
        rows,
        tree.ids(),
        name=name or "ragpulse",
        block_tokens=block_tokens,
        repairs=repairs,
        provenance=provenance,
    )


Source = tuple[JsonLines, Iterator[Record]]


@contextmanager
def _opened(root: Path) -> Iterator[Mapping[str, Source]]:
    """Give every file of the format with its records, from a folder or a tar archive.

    Raises:
        TraceError: no such folder or archive, damaged, or a file is missing in it.
    """
    files = (TRACE_FILE, *LENGTH_FILES)
    if not root.is_file():
        lines = {file: JsonLines(root / file) for file in files}
        yield {file: (found, found.records()) for file, found in lines.items()}
        return
    try:
        with root.open("rb") as packed, tarfile.open(fileobj=packed) as archive:
            size = root.stat().st_size
            members = {Path(member.name).name: member for member in reversed(archive.getmembers()) if member.isfile()}
            sources: dict[str, Source] = {}
            for file in files:
                stream = archive.extractfile(members[file]) if file in members else None
                if stream is None:
                    raise TraceError(f"{root}: no {file} in this archive - fix: check that this is the right file")
                found = JsonLines(root / file)
                sources[file] = found, found.records_in(stream, packed, size)
            yield sources
    except (*DAMAGE, tarfile.TarError) as error:
        reason = str(error).partition("\n")[0]  # tarfile's have a line per packing tried
        raise TraceError(f"{root}: not a readable tar archive ({reason}) - fix: fetch or copy it again") from None
    except OSError as error:
        raise TraceError(f"{root}: {error.strerror or error} - fix: check the path") from None


def _lengths(source: JsonLines, records: Iterator[Record]) -> Iterator[tuple[int, int]]:
    """Yield id and token length of every component of a file."""
    key = LENGTH_FILES[source.path.name]
    for record in records:
        yield source.integer(record, key, 0), source.integer(record, "token_length", 0)


def _read_request(source: JsonLines, record: Record, lengths: Mapping[int, int], tree: PieceTree, rows: Rows) -> None:
    """Check one line and append its request to the columns and the tree."""
    arrival_ms = 1000.0 * _seconds(source, record)
    tokens = source.integer(record, "input_length", 0)
    output = source.integer(record, "output_length", 0)
    prompt = Prompt()
    for number in _components(source, record):
        if number not in lengths:
            source.refuse("hash_ids", "components whose token_length is known", number, "fetch all six files")
        tree.extend(prompt, number, lengths[number])
    if tree.blocks(prompt) > tokens // tree.block_tokens:
        expected = f"components of at most input_length {tokens} tokens"
        source.refuse("hash_ids", expected, f"{tree.tokens(prompt)} tokens", "repair or remove the line")
    tree.add(prompt)
    rows.add(source.line, arrival_ms, tokens, output, tree.blocks(prompt))
    rows.name("session", source.label(record, "session_id"))
    source.note_unused(record, _USED)


def _seconds(source: JsonLines, record: Record) -> float:
    """Return the arrival in seconds, which is written as text."""
    value: Any = record.get("timestamp")
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            source.refuse("timestamp", "a number of seconds", value)
    return source.seconds({"timestamp": value} if "timestamp" in record else {}, "timestamp")


def _components(source: JsonLines, record: Record) -> list[int]:
    """Return the component ids of a prompt, in order."""
    parts = record.get("hash_ids")
    if type(parts) is not dict or not parts.keys() <= set(PROMPT):
        source.refuse("hash_ids", f"an object of lists {', '.join(PROMPT)}", parts)
    return [number for part in PROMPT if part in parts for number in source.block_ids(parts, part)]
