"""A recorder in front of an OpenAI-compatible server: pure ASGI, nothing to install but the tokenizer.

Knows ASGI. Must not know what bodies mean. It hands every message on, untouched and at once, and copies it aside; what
becomes of the copy cannot disturb the answer. vLLM takes it as it is (``vllm serve MODEL --middleware
workloads.recording.middleware.Recorder``): the server imports the name and, as it is a class, adds it with
``app.add_middleware``, outside its own authentication, so refused requests are seen; only answers with status 200 are
recorded. Source: vLLM, ``entrypoints/openai/api_server.py``, ``build_app``; from source, not measured.

Settings come from the environment, as such a server passes none:

- ``KVEVOLVE_RECORD_FOLDER``: where the log is written. Needed.
- ``KVEVOLVE_RECORD_KEY``: key file, created with mode 0600 if there is none. Needed. Keep it; it makes the ids.
- ``KVEVOLVE_RECORD_TOKENIZER``: path of the model's tokenizer.json, or ``qwen`` (default).
- ``KVEVOLVE_RECORD_BLOCK``: tokens per block, as the server's (default 16).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from workloads.errors import TraceError
from workloads.keys import load_key
from workloads.recording.exchange import PATHS, Exchange, Observer
from workloads.recording.journal import Journal
from workloads.text.tokenizer import load_tokenizer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 1 << 26


class Recorder:
    """The middleware."""

    def __init__(
        self,
        app: App,
        folder: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        tokenizer: str | None = None,
        block_tokens: int | None = None,
    ) -> None:
        """Start recording; what is not given is taken from the environment.

        Raises:
            TraceError: a setting is missing or wrong. The server then does not start: better than a log of nothing.
            OSError: the folder cannot be made.
        """
        self.app = app
        key = load_key(key_file or _setting("KEY"))
        block = _setting("BLOCK", "16") if block_tokens is None else str(block_tokens)
        if not block.isdecimal():
            raise TraceError(f"KVEVOLVE_RECORD_BLOCK={block!r}: expected a number of tokens - fix: for example 16")
        self._observer = Observer(key, load_tokenizer(tokenizer or _setting("TOKENIZER", "qwen")), int(block))
        self.journal = Journal(Path(folder or _setting("FOLDER")))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            try:
                await self.app(scope, receive, send)
            finally:
                await asyncio.get_running_loop().run_in_executor(None, self.journal.close)
            return
        if scope["type"] != "http" or scope.get("method") != "POST" or not str(scope.get("path")).endswith(PATHS):
            await self.app(scope, receive, send)
            return
        tap = _Tap(time.time() * 1000.0, scope, receive, send)
        try:
            await self.app(scope, tap.receive, tap.send)
        finally:
            self._record(tap)

    def _record(self, tap: _Tap) -> None:
        try:
            exchange = tap.exchange()
            if exchange is None:
                self.journal.skip(tap.problem)
            else:
                self.journal.submit(partial(self._observer.line, exchange), exchange.size)
        except Exception as error:  # never the server's trouble
            self.journal.skip(f"failed: {type(error).__name__}")


class _Tap:
    """Copies of what passes on one connection."""

    def __init__(self, arrival_ms: float, scope: Message, receive: Receive, send: Send) -> None:
        self.problem = ""
        self._arrival_ms, self._scope = arrival_ms, scope
        self._receive, self._send = receive, send
        self._request: list[bytes] = []
        self._answer: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._status = 0
        self._room = MAX_BODY_BYTES

    async def receive(self) -> Message:
        message = await self._receive()
        self._note(message)
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        self._note(message)

    def exchange(self) -> Exchange | None:
        """Return what passed; None, with :attr:`problem` set, if it is not to be recorded."""
        kind = self._headers.get(b"content-type", b"")
        if self.problem:
            return None
        if self._status != 200:
            self.problem = f"status {self._status or 'none'}"
        elif self._room < 0:
            self.problem = "longer than the recorder keeps"
        elif self._headers.get(b"content-encoding", b"identity") != b"identity":
            self.problem = "packed answer"
        if self.problem:
            return None
        return Exchange(
            self._arrival_ms,
            _lower(self._scope.get("headers", ())),
            b"".join(self._request),
            b"".join(self._answer),
            kind.startswith(b"text/event-stream"),
        )

    def _note(self, message: Message) -> None:
        try:
            if message["type"] == "http.request":
                self._keep(self._request, message)
            elif message["type"] == "http.response.start":
                self._status = message["status"]
                self._headers = _lower(message.get("headers", ()))
            elif message["type"] == "http.response.body":
                self._keep(self._answer, message)
        except Exception as error:  # never the server's trouble
            self.problem = f"failed: {type(error).__name__}"

    def _keep(self, parts: list[bytes], message: Message) -> None:
        body = message.get("body", b"")
        self._room -= len(body)
        if self._room >= 0:
            parts.append(bytes(body))


def _lower(headers: Any) -> dict[bytes, bytes]:
    return {bytes(name).lower(): bytes(value) for name, value in headers}


def _setting(name: str, default: str | None = None) -> str:
    found = os.environ.get(f"KVEVOLVE_RECORD_{name}", default)
    if not found:
        raise TraceError(f"the recorder needs KVEVOLVE_RECORD_{name} - fix: set it in the server's environment")
    return found
