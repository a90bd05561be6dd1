"""One request to an OpenAI-compatible server and its answer, as a line.

Knows the bodies of ``/v1/chat/completions`` and ``/v1/completions``, streamed (server-sent events) or not. Must not
know servers or files. Whatever is read here stays here but for lengths and keyed names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workloads.keys import Names
from workloads.recording.journal import SkippedError
from workloads.recording.line import Line
from workloads.text.chain import Chains, Path, Prompt, space
from workloads.text.chatml import TEMPLATE, ChatML, NotTextError, message_text
from workloads.text.tokenizer import Tokenizer

PATHS = ("/v1/chat/completions", "/v1/completions")

_MAX_TOKEN = 2**31 - 1


@dataclass(frozen=True)
class Exchange:
    """What passed.

    Attributes:
        arrival_ms: When the request came, Unix time.
        headers: Of the request, names in lower case.
        request: Body of the request.
        answer: Body of the answer, as far as it came.
        streamed: Whether the answer is a stream of events.
    """

    arrival_ms: float
    headers: Mapping[bytes, bytes]
    request: bytes
    answer: bytes
    streamed: bool

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self.request) + len(self.answer)


class Observer:
    """Makes lines from exchanges, with one key, tokenizer and block size.

    A prompt's blocks depend on ``model`` and ``cache_salt`` too, as requests of different models (LoRA) or salts share
    nothing. The session is the header ``x-session-id``, else ``session_id`` or ``metadata.session_id`` of the body; the
    tenant ``user`` or ``safety_identifier``, else the header ``authorization``. Both leave as keyed names only.
    """

    def __init__(self, key: bytes, tokenizer: Tokenizer, block_tokens: int) -> None:
        """Prepare; see :func:`workloads.keys.load_key`."""
        self._chat, self._encode = ChatML(tokenizer), tokenizer.encode
        self._block_tokens = block_tokens
        self._chains = Chains(key, f"{tokenizer.name}, {TEMPLATE}", block_tokens)
        self._sessions, self._tenants = Names(key, "session"), Names(key, "tenant")

    def line(self, exchange: Exchange) -> bytes:
        """Return the line of an exchange.

        Raises:
            SkippedError: it cannot be recorded.
        """
        body = _object(exchange.request, "request is no JSON object")
        prompt = self._prompt(body)
        usage, texts = _answer(exchange)
        output_tokens = _count(usage, "completion_tokens")
        if output_tokens is None:
            output_tokens = sum(map(self._chat.count, texts.values()))
        details = usage.get("prompt_tokens_details")
        counts = {
            "cached_tokens": _count(details if isinstance(details, dict) else {}, "cached_tokens"),
            "reported_input_length": _count(usage, "prompt_tokens"),
        }
        line = Line(
            timestamp=round(exchange.arrival_ms, 3),
            input_length=prompt.tokens,
            output_length=output_tokens,
            hash_ids=[*prompt.ids, *([] if prompt.tail is None else [prompt.tail])],
            block_size=self._block_tokens,
            session_id=_named(self._sessions, _session(exchange.headers, body)),
            tenant_id=_named(self._tenants, _tenant(exchange.headers, body)),
            counts={name: count for name, count in counts.items() if count is not None},
        )
        return line.encoded()

    def _prompt(self, body: dict[str, Any]) -> Prompt:
        path = self._chains.path(space(body.get("model"), body.get("cache_salt")))
        if isinstance(body.get("messages"), list):
            return self._of_messages(path, body)
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        if isinstance(prompt, str):
            path.append(self._encode(prompt))
        elif isinstance(prompt, list) and all(type(token) is int and 0 <= token <= _MAX_TOKEN for token in prompt):
            path.append(prompt)
        else:
            raise SkippedError("prompt is neither one text nor tokens")
        return path.prompt()

    def _of_messages(self, path: Path, body: dict[str, Any]) -> Prompt:
        path.append(self._chat.tools(body.get("tools")))
        for message in body["messages"]:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise SkippedError("messages without roles")
            try:
                text = message_text(message)
            except NotTextError:
                raise SkippedError("messages with more than text") from None
            path.append(self._chat.message(message["role"], text))
        return path.prompt(self._chat.ask)


def _answer(exchange: Exchange) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the usage an answer reports, and its texts by choice."""
    if exchange.streamed:
        events = _events(exchange.answer)
    else:
        events = iter([_object(exchange.answer, "answer is no JSON object")])
    usage: dict[str, Any] = {}
    texts: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event.get("usage"), dict):
            usage = event["usage"]
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                texts.setdefault(choice.get("index", 0), []).extend(_texts(choice))
    return usage, {index: "".join(parts) for index, parts in texts.items()}


def _texts(choice: dict[str, Any]) -> Iterator[str]:
    """Yield what a choice, or a piece of one, says."""
    said = choice.get("delta") or choice.get("message") or choice
    if not isinstance(said, dict):
        return
    for name in ("reasoning_content", "reasoning", "content", "text"):
        if isinstance(said.get(name), str):
            yield said[name]
    for call in said.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        for name in ("name", "arguments"):
            if isinstance(function, dict) and isinstance(function.get(name), str):
                yield function[name]


def _events(answer: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of server-sent events; an unfinished last one is left out."""
    for raw in answer.splitlines():
        if raw.startswith(b"data:"):
            try:
                event = json.loads(raw[5:])
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event


def _object(raw: bytes, problem: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SkippedError(problem)
    return value


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if type(value) is int and 0 <= value <= _MAX_TOKEN else None


def _session(headers: Mapping[bytes, bytes], body: dict[str, Any]) -> bytes | None:
    metadata = body.get("metadata")
    inner = metadata.get("session_id") if isinstance(metadata, dict) else None
    return headers.get(b"x-session-id") or _bytes(body.get("session_id")) or _bytes(inner)


def _tenant(headers: Mapping[bytes, bytes], body: dict[str, Any]) -> bytes | None:
    return _bytes(body.get("user")) or _bytes(body.get("safety_identifier")) or headers.get(b"authorization")


def _bytes(value: object) -> bytes | None:
    return str(value).encode(errors="replace") if isinstance(value, str | int) and value != "" else None


def _named(names: Names, value: bytes | None) -> str | None:
    return None if value is None else names.text(value)
