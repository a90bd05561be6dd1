"""OpenAI-style chat logs: JSON lines with ``messages``, and times and sessions if they were logged.

Knows the usual names of these fields. Must not know tokenizers or blocks. There is no standard for such logs; rows of
fine-tuning sets (https://platform.openai.com/docs/guides/fine-tuning) and of request logs are both read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import nan

from workloads.errors import unknown_name
from workloads.formats import Head
from workloads.readers.members import first_bytes
from workloads.sessions import SessionSet
from workloads.text.chain import space
from workloads.text.chatml import NotTextError, message_text
from workloads.text.collect import Request
from workloads.text.log import Renderer, TextOptions, read_log
from workloads.text.records import Record, Records
from workloads.text.times import UNITS, epoch_ms

SUMMARY = "OpenAI-style chat logs; text is tokenised, hashed and dropped"

_TIMES = ("timestamp", "created", "created_at", "time")
_SESSIONS = ("session_id", "conversation_id", "chat_id")
_ANSWERS = ("response", "completion", "output")


def matches(head: Head) -> bool:
    """Return whether the first record has messages with roles."""
    start = first_bytes(head)
    return b'"messages"' in start and b'"role"' in start


def read(
    path: str | os.PathLike[str],
    tokenizer: str = "qwen",
    block_tokens: int = 16,
    max_input_tokens: int | None = None,
    time_unit: str = "s",
    name: str | None = None,
    key: bytes | None = None,
) -> SessionSet:
    """Read chat logs.

    A row whose last message is the assistant's is a whole conversation: every turn of the assistant is one request. Any
    other row is one request with its history; its answer is counted from ``usage.completion_tokens`` (also of
    ``response``), ``output_tokens`` or the text of ``response``, ``completion`` or ``output``, and is 0 tokens if there
    is none. Rows of the same ``session_id`` (or ``conversation_id``, ``chat_id``) are one session; ``user`` becomes the
    tenant, a number. Rows of different ``model`` or ``cache_salt`` share no blocks.

    Args:
        path: File, folder or archive.
        tokenizer: ``qwen``, ``qwen3.6`` or the path of a tokenizer.json.
        block_tokens: Tokens per block.
        max_input_tokens: Requests with longer prompts are left out and counted.
        time_unit: Of times that are numbers: ``s``, ``ms`` or ``us``. Times are those of ``timestamp``, ``created``,
            ``created_at`` or ``time``; of a conversation with several turns it is that of the session's start.
        name: Name of the set; default: the file's.
        key: Of keyed block ids, see :class:`workloads.text.log.TextOptions`.

    Returns:
        The sessions.

    Raises:
        TraceError: naming file, position and field; never anything of the text.
    """
    if time_unit not in UNITS:
        raise unknown_name("time unit", time_unit, UNITS)

    def requests(records: Records, renderer: Renderer) -> Iterator[Request]:
        for number, record in enumerate(records):
            yield from _of_row(records, record, renderer, number, time_unit)

    options = TextOptions(tokenizer, block_tokens, max_input_tokens, key)
    details: dict[str, object] = {"time_unit": time_unit}
    return read_log(path, requests, options, format_name="openai_chat", name=name, details=details)


def _of_row(records: Records, record: Record, renderer: Renderer, number: int, unit: str) -> Iterator[Request]:
    messages = [_message(records, message) for message in records.objects(record, "messages")]
    tools = _tools(records, record, renderer)
    field = next((field for field in _TIMES if record.get(field) is not None), None)
    time_ms = nan if field is None else epoch_ms(records, record, field, unit)
    session, tenant = _label(records, record, _SESSIONS) or number, _label(records, record, ("user",))
    path = renderer.path(space(record.get("model"), record.get("cache_salt")))
    path.append(tools)
    if messages and messages[-1][0] == "assistant":
        turns = sum(role == "assistant" for role, _ in messages)
        for role, text in messages:
            if role == "assistant":
                own_ms, start_ms = (time_ms, nan) if turns == 1 else (nan, time_ms)
                prompt = path.prompt(renderer.chat.ask)
                yield Request(session, prompt, renderer.chat.count(text), own_ms, start_ms, tenant)
            path.append(renderer.chat.message(role, text))
        return
    for role, text in messages:
        path.append(renderer.chat.message(role, text))
    yield Request(
        session, path.prompt(renderer.chat.ask), _output_tokens(records, record, renderer), time_ms, tenant=tenant
    )


def _message(records: Records, message: Record) -> tuple[str, str]:
    role, problem = records.text(message, "role"), None
    try:
        return role, message_text(message)
    except NotTextError as error:
        problem = str(error)
    records.refuse("content", problem, message.get("content"), "leave out requests with images or audio")


def _tools(records: Records, record: Record, renderer: Renderer) -> list[int]:
    problem = None
    try:
        return renderer.chat.tools(record.get("tools"))
    except NotTextError as error:
        problem = str(error)
    records.refuse("tools", problem, record.get("tools"))


def _label(records: Records, record: Record, names: tuple[str, ...]) -> str | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, str | int):
            return str(value)
        if value is not None:
            records.refuse(name, "text or an integer", value)
    return None


def _output_tokens(records: Records, record: Record, renderer: Renderer) -> int:
    for place in (record, record.get("response")):
        usage = place.get("usage") if isinstance(place, dict) else None
        if isinstance(usage, dict) and "completion_tokens" in usage:
            return records.count(usage, "completion_tokens")
    if "output_tokens" in record:
        return records.count(record, "output_tokens")
    for name in _ANSWERS:
        if isinstance(record.get(name), str):
            return renderer.chat.count(record[name])
    records.counts["requests_without_answer"] += 1
    return 0
