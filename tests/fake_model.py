"""A small OpenAI-compatible server for tests: answers from a script of texts, statuses and raw bytes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCE = "`" * 3
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}


@dataclass(frozen=True)
class Say:
    """One answer."""

    text: str | Callable[[str], str] = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    usage: dict[str, int] | None = field(default_factory=lambda: dict(USAGE))
    raw: bytes | None = None
    stream: bool = False
    wait_s: float = 0.0
    finish: str = "stop"


@dataclass
class Model:
    """What the server was asked, and the script: the last answer is given for ever."""

    script: Sequence[Say]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: dict[str, Any], key: str) -> Say:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            return self.script[min(len(self.bodies), len(self.script)) - 1]


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        say = self.server.model.take(body, self.headers.get("Authorization") or "")
        time.sleep(say.wait_s)
        data, kind = _data(say, body)
        try:
            self.send_response(say.status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **say.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _data(say: Say, body: dict[str, Any]) -> tuple[bytes, str]:
    if say.raw is not None:
        return say.raw, "application/json"
    text = say.text(body["messages"][-1]["content"]) if callable(say.text) else say.text
    if say.status != 200:
        return json.dumps({"error": {"message": text}}).encode(), "application/json"
    if say.stream:
        pieces = [{"choices": [{"delta": {"content": text[i : i + 7]}}]} for i in range(0, len(text), 7)]
        pieces += [{"choices": [{"delta": {}, "finish_reason": say.finish}]}, {"choices": [], "usage": say.usage}]
        lines = [": comment", *(f"data: {json.dumps(piece)}" for piece in pieces), "data: [DONE]"]
        return "\n\n".join(lines).encode(), "text/event-stream"
    choice = {"index": 0, "finish_reason": say.finish, "message": {"role": "assistant", "content": text}}
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
    return json.dumps(answer | ({"usage": say.usage} if say.usage else {})).encode(), "application/json"


@contextmanager
def serving(*script: Say) -> Iterator[Model]:
    """Serve a script on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.model = Model(script, f"http://127.0.0.1:{server.server_port}/v1")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.model  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def diff(search: str, replace: str) -> str:
    return f"A remark.\n\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def full(program: str) -> str:
    return f"A remark.\n\n{FENCE}python\n{program}\n{FENCE}\n"
