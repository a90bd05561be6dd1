"""ShareGPT: conversations as ``{"id": ..., "conversations": [{"from": ..., "value": ...}, ...]}``, an array or lines.

Knows that format and that long conversations were split. Must not know tokenizers or blocks. Source: lm-sys/FastChat,
``fastchat/data/split_long_conversation.py`` (a piece has the id ``ID_FIRST``, FIRST the number of its first message).
The usual file is ShareGPT_V3_unfiltered_cleaned_split.json; its licence is unstated. From source, not measured on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from workloads.formats import Head
from workloads.readers.members import first_bytes
from workloads.sessions import SessionSet
from workloads.text.collect import Request
from workloads.text.log import Renderer, TextOptions, read_log
from workloads.text.records import Record, Records

SUMMARY = "ShareGPT conversations; text is tokenised, hashed and dropped"

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function_call": "assistant",
    "observation": "tool",
}


def matches(head: Head) -> bool:
    """Return whether the first record lists conversations with speakers."""
    start = first_bytes(head)
    return b'"conversations"' in start and b'"from"' in start


def read(
    path: str | os.PathLike[str],
    tokenizer: str = "qwen",
    block_tokens: int = 16,
    max_input_tokens: int | None = None,
    name: str | None = None,
    key: bytes | None = None,
) -> SessionSet:
    """Read ShareGPT conversations; every turn of the assistant is one request. There are no times.

    Pieces of one conversation that follow each other are joined again.

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
    return read_log(path, _requests, options, format_name="sharegpt", name=name)


def _requests(records: Records, renderer: Renderer) -> Iterator[Request]:
    conversation, last, count = 0, "", 0
    messages: list[tuple[str, str]] = []
    for record in records:
        owner, first = _piece(record)
        if not (first and owner == last and first >= count):
            yield from _turns(renderer, conversation, messages)
            conversation, last, messages = conversation + 1, owner, []
        else:
            records.counts["pieces_joined"] += 1
        messages += _messages(records, record)
        count = first + 1
    yield from _turns(renderer, conversation, messages)


def _turns(renderer: Renderer, conversation: int, messages: list[tuple[str, str]]) -> Iterator[Request]:
    for _, prompt, output_tokens in renderer.turns(messages):
        yield Request(conversation, prompt, output_tokens)


def _piece(record: Record) -> tuple[str, int]:
    """Return the id of the whole conversation and the number of the first message of this piece."""
    text = str(record.get("id", ""))
    owner, mark, first = text.rpartition("_")
    return (owner, int(first)) if mark and first.isdecimal() and len(first) < 10 else (text, 0)


def _messages(records: Records, record: Record) -> Iterator[tuple[str, str]]:
    for message in records.objects(record, "conversations"):
        role = _ROLES.get(records.text(message, "from"))
        if role is None:
            records.refuse("from", f"one of {', '.join(_ROLES)}", message["from"])
        yield role, records.text(message, "value")
