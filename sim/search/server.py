"""The endpoint's process: HTTP on loopback around the service, until nobody holds it any more.

Knows HTTP and processes; must not know prompts or policies.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from sim.search.operator import NoChild
from sim.search.prompt import CannotAnswer
from sim.search.service import MODELS, BadRequest, Service
from sim.search.settings import BadSettings, Settings

HOST = "127.0.0.1"
MAX_BODY_BYTES = 32 * 2**20
_POLL_S = 0.25


def version() -> str:
    """Return the version of the installed package, "source" for a checkout that is not installed."""
    try:
        return importlib.metadata.version("kvevolve")
    except importlib.metadata.PackageNotFoundError:
        return "source"


class Holders:
    """The processes that still need the server. None at all means it runs until it is stopped."""

    def __init__(self, starter: int | None) -> None:
        """Serve for the process `starter`, our parent, if given."""
        self.starter = starter
        self.pids: set[int] = {starter} if starter is not None else set()
        self._ever = bool(self.pids)

    def add(self, pid: int) -> None:
        """Let another process hold the server; without effect on one that was started by hand."""
        if self._ever:
            self.pids.add(pid)

    def drop(self, pid: int | None) -> None:
        """Forget a process."""
        self.pids.discard(pid if pid is not None else -1)

    def gone(self) -> bool:
        """Return whether every holder has ended."""
        self.pids = {pid for pid in list(self.pids) if self._alive(pid)}
        return self._ever and not self.pids

    def _alive(self, pid: int) -> bool:
        if pid == self.starter and os.name == "posix":
            return os.getppid() == pid  # true for as long as it lives, and not for a zombie
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except OSError:
            return False
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


class Completing(Protocol):
    """What is served."""

    def complete(self, body: Any) -> dict[str, Any]:
        """Return the reply to a chat completion request."""
        ...


class Server(ThreadingHTTPServer):
    """One service, its holders and a socket."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"
    kind = "operator"

    def __init__(self, port: int, service: Completing, holders: Holders, handler: type[Handler] | None = None) -> None:
        """Bind a port of the loopback interface; 0 takes a free one."""
        self.service, self.holders = service, holders
        super().__init__((HOST, port), handler or Handler)

    def watch(self) -> None:
        """Stop serving when every holder has ended."""
        while not self.holders.gone():
            time.sleep(_POLL_S)
        self.shutdown()


class Handler(BaseHTTPRequestHandler):
    """Routes requests; every answer is JSON."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer /health and /v1/models."""
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/health":
            self._send(200, {"kvevolve": version(), "pid": os.getpid(), "kind": self.server.kind})
        elif path == "/v1/models":
            data = [{"id": name, "object": "model", "owned_by": "kvevolve"} for name in MODELS]
            self._send(200, {"object": "list", "data": data})
        else:
            self._fail(404, f"no such path: {path}; try /v1/chat/completions")

    def do_POST(self) -> None:
        """Answer /v1/chat/completions; /hold and /release count the processes that need this server."""
        path = self.path.partition("?")[0].rstrip("/")
        try:
            body = self._body()
            if path == "/v1/chat/completions":
                self._send(200, self.complete(body))
            elif path in ("/hold", "/release"):
                self._hold(body, path == "/hold")
            else:
                self._fail(404, f"no such path: {path}; try /v1/chat/completions")
        except BadRequest as error:
            self._fail(400, str(error))
        except (CannotAnswer, NoChild) as error:
            self._fail(422, str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client left
        except Exception as error:
            self._fail(*self.failure(error))

    def failure(self, error: Exception) -> tuple[int, str]:
        """Return status and message of an unexpected error: a bug reaches the client, and in full the log."""
        traceback.print_exception(error)
        return 500, f"{type(error).__name__}: {error}"

    def complete(self, body: Any) -> dict[str, Any]:
        """Return the reply to a chat completion request."""
        return self.server.service.complete(body)

    def _hold(self, body: Any, hold: bool) -> None:
        pid = body.get("pid") if isinstance(body, dict) else None
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            raise BadRequest("`pid` must be the number of a process")
        (self.server.holders.add if hold else self.server.holders.drop)(pid)
        self._send(200, {"holders": sorted(self.server.holders.pids)})

    def _body(self) -> Any:
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise BadRequest(f"a body of at most {MAX_BODY_BYTES} bytes with a Content-Length is needed")
        try:
            return json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise BadRequest(f"the body is not JSON: {error}") from None

    def _fail(self, status: int, message: str) -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        self._send(status, {"error": {"message": message, "type": kind, "code": status}})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= 400:
            self.send_header("x-should-retry", "false")  # to OpenAI clients: it would fail again
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing per request: `operator.jsonl` is the record."""


def serve(port: int, settings: Settings, run_dir: Path | None, parent: int | None, resumed: bool = False) -> None:
    """Serve until stopped, or until every holder has ended if there is a parent.

    Args:
        port: Of the loopback interface.
        settings: Of the service.
        run_dir: Where calls are recorded.
        parent: Process to end with.
        resumed: Whether the service begins with what its record tells.

    Raises:
        OSError: If the port is taken.
        BadSettings: If tuning is asked for and `cmaes` is missing.
    """
    if settings.tunes and importlib.util.find_spec("cmaes") is None:
        raise BadSettings(
            "tuning needs the package cmaes: pip install 'kvevolve[search]', "
            "or set kvevolve.search.tune_fraction and settle_passes to 0 in the configuration"
        )
    service = Service(settings, run_dir, resumed)
    run(Server(port, service, Holders(parent)))
    service.ended = True


def run(server: Server) -> None:
    """Serve until stopped, or until every holder has ended if there is a parent."""
    if server.holders.starter is not None:
        threading.Thread(target=_read_to_end, args=(server.holders,), daemon=True).start()
        threading.Thread(target=server.watch, daemon=True).start()
    print(f"kvevolve endpoint: http://{HOST}:{server.server_address[1]}/v1", flush=True)
    with server:
        server.serve_forever(_POLL_S)


def _read_to_end(holders: Holders) -> None:
    """Drop the parent when its end of the pipe closes; forked workers may keep that open, so `Holders` looks too."""
    sys.stdin.buffer.read()
    holders.drop(holders.starter)
