"""The chat template ChatML, as Qwen and others use it.

Knows how messages become one prompt. Must not know blocks, files or servers. A template and a tokenizer fix which
prompts share a prefix, and how far; the counts are exact for models that use this template and close for others.
"""

from __future__ import annotations

import json
from typing import Any

from workloads.text.tokenizer import Tokenizer

TEMPLATE = (
    "ChatML: '<|im_start|>ROLE\\nTEXT<|im_end|>\\n' a message, then '<|im_start|>assistant\\n'; no default system"
    " prompt; tools as a first message of role 'tools' in canonical JSON, tool calls likewise after the text"
)


class NotTextError(ValueError):
    """A message that holds something else than text; the message of the error quotes nothing of it."""


class ChatML:
    """Messages to tokens.

    The markers are special tokens, which nothing merges with: a message has the same tokens wherever it stands, and so
    each is encoded once however often a dialogue repeats it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Encode the markers; a vocabulary without them spells them out."""
        self._encode = tokenizer.encode
        self._start = list(tokenizer.encode("<|im_start|>"))
        self._end = [*tokenizer.encode("<|im_end|>"), *tokenizer.encode("\n")]
        self.ask = [*self._start, *tokenizer.encode("assistant\n")]
        """The tokens after the last message, which make the model answer."""

    def message(self, role: str, text: str) -> list[int]:
        """Return the tokens of one message."""
        return [*self._start, *self._encode(f"{role}\n{text}"), *self._end]

    def tools(self, tools: object) -> list[int]:
        """Return the tokens of the tool definitions of a request; none for none.

        Raises:
            NotTextError: they are nested too deeply.
        """
        return self.message("tools", _canonical(tools)) if tools else []

    def count(self, text: str) -> int:
        """Return how many tokens an answer of this text has."""
        return len(self._encode(text)) if text else 0


def message_text(message: dict[str, Any]) -> str:
    """Return the text of an OpenAI-style message: ``content`` (text, parts of type text, or null) and ``tool_calls``.

    Raises:
        NotTextError: a part is no text, for example an image, or tool calls are nested too deeply.
    """
    content = message.get("content")
    if content is None:
        text = ""
    elif isinstance(content, str):
        text = content
    elif isinstance(content, list):
        text = "".join(map(_part, content))
    else:
        raise NotTextError("text, or a list of parts")
    calls = message.get("tool_calls") or message.get("function_call")
    return f"{text}\n{_canonical(calls)}" if calls else text


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) and part.get("type") in ("text", "input_text") else None
    if not isinstance(text, str):
        raise NotTextError("parts of type text")
    return text


def _canonical(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise NotTextError("tools less deeply nested") from None
