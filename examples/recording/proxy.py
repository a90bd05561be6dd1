"""A recording proxy in front of any OpenAI-compatible server, for servers that take no middleware.

    pip install uvicorn 'kvevolve[traces]'
    export KVEVOLVE_RECORD_FOLDER=log KVEVOLVE_RECORD_KEY=record.key KVEVOLVE_RECORD_TOKENIZER=model/tokenizer.json
    UPSTREAM=127.0.0.1:8000 uvicorn --app-dir examples/recording proxy:app --port 8001

Answers are handed on as they come, streams too. Point clients at port 8001. The upstream is asked in plain HTTP: keep
both on one machine.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
from typing import Any

from workloads.recording.middleware import Recorder

HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"host", b"content-length"}


def forward(upstream: str):
    """Return an ASGI application that asks another server."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        put, loop = parts.put_nowait, asyncio.get_running_loop()
        ask = threading.Thread(
            target=_ask, args=(upstream, scope, body, lambda part: loop.call_soon_threadsafe(put, part)), daemon=True
        )
        ask.start()
        while True:
            part = await parts.get()
            await send(part)
            if part["type"] == "http.response.body" and not part["more_body"]:
                return

    return proxy


def _ask(upstream: str, scope: Any, body: bytes, tell: Any) -> None:
    """Ask, and tell the answer part by part; 502 if there is none."""
    started = False
    try:
        connection = http.client.HTTPConnection(upstream, timeout=600)
        query = f"?{scope['query_string'].decode()}" if scope.get("query_string") else ""
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k.lower() not in HOP}
        connection.request(scope["method"], scope["path"] + query, body, headers)
        answer = connection.getresponse()
        kept = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in answer.getheaders()]
        kept = [(k, v) for k, v in kept if k not in HOP]
        tell({"type": "http.response.start", "status": answer.status, "headers": kept})
        started = True
        while piece := answer.read1(1 << 16):
            tell({"type": "http.response.body", "body": piece, "more_body": True})
    except (OSError, http.client.HTTPException):
        if not started:
            tell({"type": "http.response.start", "status": 502, "headers": []})
    tell({"type": "http.response.body", "body": b"", "more_body": False})


if "UPSTREAM" in os.environ:
    app = Recorder(forward(os.environ["UPSTREAM"]))
