"""WildChat: ``{"conversation": [{"role", "content", "timestamp"?, "hashed_ip"?}, ...], "timestamp", "hashed_ip"?}``.

Knows that format. Must not know tokenizers or blocks. Source: data card of allenai/WildChat-1M (Zhao et al., ICLR'24,
arXiv 2405.01470; ODC-BY), exported as JSON lines; in that edition each answer has the time at which it was given. From
source, not measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import nan

from workloads.formats import Head
from workloads.readers.members import first_bytes
from workloads.sessions import SessionSet
from workloads.text.collect import Request
from workloads.text.log import Renderer, TextOptions, read_log
from workloads.text.records import Record, Records
from workloads.text.times import epoch_ms

SUMMARY = "WildChat conversations; text is tokenised, hashed and dropped"


def matches(head: Head) -> bool:
    """Return whether the first record holds one conversation with roles."""
    start = first_bytes(head)
    return b'"conversation"' in start and b'"role"' in start


def read(
    path: str | os.PathLike[str],
    tokenizer: str = "qwen",
    block_tokens: int = 16,
    max_input_tokens: int | None = None,
    name: str | None = None,
    key: bytes | None = None,
) -> SessionSet:
    """Read WildChat conversations; every turn of the assistant is one request.

    A request's time is that of its answer. Where only the conversation has a time, it is taken as the session's start.
    ``hashed_ip`` becomes the tenant, a number.

    Args:
        path: File, folder or archive.
        tokenizer: ``qwen``, ``qwen3.6`` or the path of a tokenizer.json.
        block_tokens: Tokens per block.
        max_input_tokens: Requests with longer prompts are left out and counted.
        name: Name of the set; default: the file's.
        key: Of keyed block ids, see :class:`workloads.text.log.TextOptions`.

    Returns:
        The sessions.

    Raises:
        TraceError: naming file, position and field; never anything of the text.
    """
    options = TextOptions(tokenizer, block_tokens, max_input_tokens, key)
    details: dict[str, object] = {"time_of_request": "its answer's, where known"}
    return read_log(path, _requests, options, format_name="wildchat", name=name, details=details)


def _requests(records: Records, renderer: Renderer) -> Iterator[Request]:
    for conversation, record in enumerate(records):
        messages = records.objects(record, "conversation")
        texts = [(records.text(message, "role"), records.text(message, "content")) for message in messages]
        start_ms = _time_ms(records, record)
        tenant = _tenant(records, [record, *messages])
        for number, prompt, output_tokens in renderer.turns(texts):
            time_ms = _time_ms(records, messages[number])
            yield Request(conversation, prompt, output_tokens, time_ms, start_ms, tenant)


def _time_ms(records: Records, record: Record) -> float:
    return nan if record.get("timestamp") is None else epoch_ms(records, record, "timestamp", "ms")


def _tenant(records: Records, places: list[Record]) -> str | None:
    for place in places:
        if place.get("hashed_ip") is not None:
            return records.text(place, "hashed_ip")
    return None
