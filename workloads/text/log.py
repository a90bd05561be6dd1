"""A text log as recorded sessions.

Drives tokenizer, template, chains and collection. Must not know any format: a format is a function that turns records
into requests. Prompts are dropped as soon as they are hashed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from workloads.errors import TraceError
from workloads.keys import KEY_BYTES
from workloads.readers.members import source
from workloads.sessions import SessionSet
from workloads.text.chain import Chains, Path, Prompt
from workloads.text.chatml import TEMPLATE, ChatML
from workloads.text.collect import Collection, KeyedSessions, Request
from workloads.text.records import Records, resolved
from workloads.text.tokenizer import load_tokenizer

PLAIN = "none: the text as logged"


@dataclass(frozen=True)
class TextOptions:
    """How text becomes blocks.

    Attributes:
        tokenizer: See :func:`workloads.text.tokenizer.load_tokenizer`.
        block_tokens: Tokens per block.
        max_input_tokens: Longer prompts are left out, as a server of that context refuses them; None keeps all.
        key: Of the block ids; None for a fresh random one, which makes them comparable within one reading only.
    """

    tokenizer: str
    block_tokens: int
    max_input_tokens: int | None = None
    key: bytes | None = None


class Renderer:
    """Text to prompts, for the readers."""

    def __init__(self, options: TextOptions, template: str) -> None:
        """Load the tokenizer; see :class:`TextOptions`."""
        tokenizer = load_tokenizer(options.tokenizer)
        key = secrets.token_bytes(KEY_BYTES) if options.key is None else options.key
        self.template, self.tokenizer = template, tokenizer.name
        self.chat = ChatML(tokenizer)
        self._encode = tokenizer.encode
        self._chains = Chains(key, f"{tokenizer.name}, {template}", options.block_tokens)

    def path(self, of: str = "") -> Path:
        """Return an empty prompt, of a space (see :func:`workloads.text.chain.space`)."""
        return self._chains.path(of)

    def plain(self, text: str) -> Prompt:
        """Return a prompt that is not rendered."""
        path = self._chains.path()
        path.append(self._encode(text))
        return path.prompt()

    def turns(self, messages: Iterable[tuple[str, str]]) -> Iterator[tuple[int, Prompt, int]]:
        """Yield, for every turn of the assistant, its number among the messages, its prompt and its output tokens.

        Args:
            messages: Role and text of each message.
        """
        path = self.path()
        for number, (role, text) in enumerate(messages):
            if role == "assistant":
                yield number, path.prompt(self.chat.ask), self.chat.count(text)
            path.append(self.chat.message(role, text))


Source = Callable[[Records, Renderer], Iterator[Request]]


def read_log(
    path: str | os.PathLike[str],
    requests: Source,
    options: TextOptions,
    *,
    format_name: str,
    name: str | None = None,
    template: str = TEMPLATE,
    details: dict[str, object] | None = None,
    whole_ms: bool = False,
) -> SessionSet:
    """Read a text log.

    Args:
        path: File, folder or archive.
        requests: The format.
        options: How text becomes blocks.
        format_name: For the provenance.
        name: Name of the set; default: the file's without suffixes.
        template: How prompts are rendered.
        details: More for the provenance.
        whole_ms: Cut times to whole milliseconds.

    Returns:
        The sessions, named by their position; a :class:`KeyedSessions` if a key was given.

    Raises:
        TraceError: naming file, position and field; never anything of the text.
    """
    file = resolved(path)
    records, renderer = Records(file), Renderer(options, template)
    collection = Collection()
    for request in requests(records, renderer):
        if options.max_input_tokens is not None and request.prompt.tokens > options.max_input_tokens:
            records.counts["requests_longer_than_max_input_tokens"] += 1
        else:
            collection.add(request, records.member)
    if not collection:
        raise TraceError(f"{file}: no requests in it - fix: check that this is the right file and format")
    origin = source(file)
    columns = collection.columns(whole_ms)
    counts = collection.counts + records.counts
    provenance: dict[str, object] = {
        "format": format_name,
        "source": origin,
        "tokenizer": renderer.tokenizer,
        "template": template,
        "options": {"block_tokens": options.block_tokens, "max_input_tokens": options.max_input_tokens},
        **(details or {}),
        **dict(sorted(counts.items())),
    }
    columns |= {
        "name": name or file.name.partition(".")[0],
        "block_tokens": options.block_tokens,
        "global_ids": True,
        "provenance": provenance,
    }
    if options.key is None:
        return SessionSet(**columns)
    return KeyedSessions(**columns, **collection.keyed(options.key, str(origin["sha256"])))
