"""Qwen-Bailian JSONL: a request per line, times in seconds, 16 tokens per block, chats linked by their parents.

Knows that format. Must not know where the files are. Source: alibaba-edu/qwen-bailian-usagetraces-anon, README
@ 03a51e3 (Wang et al., USENIX ATC'25): from source, not measured; the files themselves are not at hand.

Fields: ``chat_id``, ``parent_chat_id`` (-1: none), ``timestamp`` (s), ``input_length``, ``output_length``, ``type``
(text, search, image, file), ``turn`` (from 1), ``hash_ids``. An id is a salted hash of one block's tokens alone, so
equal ids at different places are not equal prefixes: ids are re-keyed by (path so far, id), and how many that made is
counted.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from workloads.formats import Head
from workloads.readers.assemble import Rows, assemble, checked_repairs, integers
from workloads.readers.chats import Chats
from workloads.readers.lines import JsonLines, Record, source_of, stem_of
from workloads.trace import Trace
from workloads.validation import check_block_tokens

SUMMARY = "Alibaba Bailian's Qwen traces: seconds, chats, hashes of single blocks"
BLOCK_TOKENS = 16

_USED = frozenset(
    ("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "type", "turn", "hash_ids")
)


def matches(head: Head) -> bool:
    """Return whether the first line is a chat whose hashes are of 16 tokens each."""
    first = head.first or {}
    tokens, hashes = first.get("input_length"), first.get("hash_ids")
    if not {"chat_id", "parent_chat_id"} <= first.keys() or type(tokens) is not int or type(hashes) is not list:
        return False
    return tokens // BLOCK_TOKENS <= len(hashes) <= -(-tokens // BLOCK_TOKENS)


def read(
    path: str | os.PathLike[str],
    block_tokens: int = BLOCK_TOKENS,
    name: str | None = None,
    repair: str | Iterable[str] = (),
) -> Trace:
    """Read a Qwen-Bailian file, plain or packed.

    Args:
        path: The file.
        block_tokens: Tokens per block; the published traces: 16.
        name: Name of the trace; default: the file's name without suffixes.
        repair: Repairs allowed, see :func:`workloads.readers.assemble.assemble`: ``sort_time``, ``clip_input``.

    Returns:
        The trace: sessions are trees of chats, ``turn`` is the file's less 1, ``request_type`` numbers the types (named
        in the provenance as ``request_types``). Provenance counts the ids gained by re-keying (``repairs.rechain``) and
        the partial last ids dropped.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    file = Path(path)
    check_block_tokens(block_tokens)
    repairs = checked_repairs(repair, ("sort_time", "clip_input"))
    source, rows, ids, chats = JsonLines(file), Rows(), integers(), Chats()
    partial = 0
    for record in source.records():
        partial += _read_request(source, record, block_tokens, "clip_input" in repairs, rows, ids)
        chats.read(source, record, rows)
        source.note_unused(record, _USED)
    chats.settle(rows, source)
    provenance: dict[str, object] = {
        "format": "bailian",
        "source": source_of(file),
        "time_unit": "s",
        "options": {"block_tokens": block_tokens, "repair": sorted(repairs)},
        "partial_tail_ids_dropped": partial,
        **chats.counted(),
    }
    return assemble(
        source,
        rows,
        np.asarray(ids, np.int64),
        name=name or stem_of(file),
        block_tokens=block_tokens,
        repairs=repairs | {"rechain"},
        provenance=provenance,
    )


def _read_request(
    source: JsonLines, record: Record, block_tokens: int, clip: bool, rows: Rows, ids: array[int]
) -> bool:
    """Check one line and append it to the columns; return whether a partial last id was dropped."""
    tokens = source.integer(record, "input_length", 0)
    listed = source.block_ids(record, "hash_ids")
    full, count = tokens // block_tokens, len(listed)
    if count > -(-tokens // block_tokens) or (count < full and not clip):
        source.refuse(
            "hash_ids",
            f"{full} ids = input_length {tokens} // block_tokens {block_tokens}, or one more for a partial block",
            f"{count} ids",
            "give the trace's own block_tokens, or pass repair='clip_input' if it lists too few",
        )
    ids.extend(listed[:full])
    arrival_ms = 1000.0 * source.seconds(record, "timestamp")
    rows.add(source.line, arrival_ms, tokens, source.integer(record, "output_length", 0), min(count, full))
    return count > full
