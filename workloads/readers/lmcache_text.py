"""LMCache agent text: a model call per line with ``timestamp`` (us), ``input``, ``output``, ``session_id``.

Knows that format. Must not know tokenizers or blocks. Source: LMCache/lmcache-agent-trace @ 16a14ad (Apache-2.0), real
calls of agents on benchmarks; ``input`` is the prompt as one text, so no chat template is applied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from workloads.formats import Head
from workloads.readers.members import first_bytes
from workloads.sessions import SessionSet
from workloads.text.collect import Request
from workloads.text.log import PLAIN, Renderer, TextOptions, read_log
from workloads.text.records import Records

SUMMARY = "LMCache agent calls as text; it is tokenised, hashed and dropped"

_MAX_US = 1e18
_INPUT = re.compile(rb'"input":\s*"')
_CALL = re.compile(rb'\{"timestamp":\s*\d+,\s*"input":\s*"')
"""The order of fields in which LMCache writes them: a prompt may be longer than what is looked at."""


def matches(head: Head) -> bool:
    """Return whether the first line is a call with its text."""
    start = first_bytes(head).lstrip()
    return _CALL.match(start) is not None or (_INPUT.search(start) is not None and b'"session_id"' in start)


def read(
    path: str | os.PathLike[str],
    tokenizer: str = "qwen",
    block_tokens: int = 16,
    max_input_tokens: int | None = None,
    name: str | None = None,
    key: bytes | None = None,
) -> SessionSet:
    """Read agent calls; every line is one request. Lines of a session may stand in any order.

    Args:
        path: File, folder (of the session's files) or archive.
        tokenizer: ``qwen``, ``qwen3.6`` or the path of a tokenizer.json.
        block_tokens: Tokens per block.
        max_input_tokens: Requests with longer prompts are left out and counted.
        name: Name of the set; default: the file's.
        key: Of keyed block ids, see :class:`workloads.text.log.TextOptions`.

    Returns:
        The sessions, with recorded starts; times within a session are cut to whole milliseconds.

    Raises:
        TraceError: naming file, position and field; never anything of the text.
    """
    options = TextOptions(tokenizer, block_tokens, max_input_tokens, key)
    return read_log(
        path,
        _requests,
        options,
        format_name="lmcache_text",
        name=name,
        template=PLAIN,
        details={"time_unit": "us"},
        whole_ms=True,
    )


def _requests(records: Records, renderer: Renderer) -> Iterator[Request]:
    for record in records:
        time_us = records.number_of(record, "timestamp", _MAX_US)
        session = records.text(record, "session_id")
        output_tokens = renderer.chat.count(records.text(record, "output"))
        yield Request(session, renderer.plain(records.text(record, "input")), output_tokens, time_us / 1000.0)
