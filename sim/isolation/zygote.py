"""The caller's side: start a zygote, ask it, replace it when it is gone.

Knows: how to start ``sim.isolation.server``, the socket, the caller's own deadline, forks and pickles of itself.
Must not know: what a child may do (``sandbox.py``), what an end is called (``outcome.py``).

One zygote serves the process that started it, its threads and its forks. It ends with that process: the lifeline,
a socket pair whose near end only this process and its forks hold, closes, or the zygote sees its parent change.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sim.isolation import wire
from sim.isolation.outcome import Limits, Outcome, ZygoteError, classify

_GRACE_S = 10.0  # how much longer than the child's wall clock a caller waits for the zygote's word
_STOP_S, _DISCARD_S = 5.0, 0.1
_STDERR_BYTES = 4000
_SOCKET_PATH_BYTES = 100  # the kernel takes 107
_CHUNK = 1 << 18
_KEPT = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "XDG_CACHE_HOME"})
_KEPT_PREFIXES = ("CONDA_", "KVEVOLVE_", "LC_", "NUMBA_", "PYTHON")  # so no API keys
_FIXED = {"PYTHONHASHSEED": "0"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
_log = logging.getLogger(__name__)
_instances: weakref.WeakSet[Zygote] = weakref.WeakSet()


class _GoneError(Exception):
    """The zygote does not answer any more."""


class Zygote:
    """A warm process that answers each request in a sandboxed child of its own.

    Safe to share between threads and with forked processes. A pickled copy asks the same zygote while it lives
    and starts its own afterwards.

    Args:
        entry: "package.module:function", called once in the zygote.
        args: Its keyword arguments (JSON). It returns ``handler(request: dict) -> dict`` or
            ``-> (dict, dict of numeric arrays)``, which runs in each child.
        cwd: The zygote's working directory, also importable; default the caller's, not importable.
        start_timeout_s: How long the start may take.
        readable: Paths that children may read beside interpreter, packages and ``sim``.
    """

    def __init__(
        self,
        entry: str,
        args: Mapping[str, Any],
        *,
        cwd: str | os.PathLike[str] | None = None,
        start_timeout_s: int = 60,
        readable: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        if ":" not in entry:
            raise ValueError(f"entry must be 'package.module:function', got {entry!r}")
        self._spec = {
            "entry": entry,
            "args": json.loads(json.dumps(args, allow_nan=False)),
            "cwd": None if cwd is None else os.path.abspath(cwd),
            "start_timeout_s": int(start_timeout_s),
            "readable": [os.path.abspath(place) for place in readable],
        }
        self._setup(None)

    def _setup(self, path: str | None) -> None:
        self._path = path
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._warned = False
        _instances.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self._spec, "path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._spec = state["spec"]
        self._setup(state["path"])

    def __enter__(self) -> Zygote:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The zygote's process id where this process started it."""
        return self._server.process.pid if self._server is not None and self._server.mine else None

    def start(self) -> None:
        """Start the zygote now rather than at the first call, so that later forks share it.

        Raises:
            ZygoteError: It cannot start.
        """
        self._ensure(stale=None)

    def call(self, request: Mapping[str, Any], limits: Limits | None = None) -> Outcome:
        """Answer one request in a child.

        Args:
            request: A JSON object for the handler.
            limits: The child's limits; default ``Limits()``.

        Returns:
            What happened. Nothing that the child does raises.

        Raises:
            ZygoteError: The zygote cannot start or cannot fork, or a child ended before it looked at the request.
            ValueError: The request is not a JSON object of finite numbers.
        """
        limits = limits or Limits()
        message = wire.pack({"request": dict(request), "limits": limits.__dict__})
        began = time.monotonic()
        stale: str | None = None
        for _ in range(2):
            path = stale = self._ensure(stale)
            try:
                frame = _exchange(path, message, limits)
            except _GoneError:
                continue
            except TimeoutError:
                self._replace(path)
                wall_s = time.monotonic() - began
                return Outcome("timeout", None, detail="the zygote hung and was replaced", wall_s=wall_s)
            return self._conclude(frame, limits)
        self._replace(stale)
        detail = "the zygote died twice while it handled this request"
        return Outcome("crash", None, detail=detail, wall_s=time.monotonic() - began)

    def close(self) -> None:
        """End the zygote if this process started it, else let go of it. A later call would start a new one."""
        with self._lock:
            server, self._server, self._path = self._server, None, None
        if server is not None:
            server.stop()

    def _conclude(self, frame: wire.Frame, limits: Limits) -> Outcome:
        """Turn the zygote's account into an outcome; say once if a layer is missing."""
        if frame.head["end"] == "refused":
            raise ZygoteError(f"the zygote cannot fork: {frame.head['detail']}")
        if not frame.head["isolation"] and frame.head["end"] in ("exit", "signal"):
            how = f"{frame.head['end']} {frame.head['code']}"
            raise ZygoteError(f"a child ended before its sandbox was complete ({how}); is memory_bytes too small?")
        if frame.head["missing"] and not self._warned:
            self._warned = True
            _log.warning("isolation degraded to %s: %s", frame.head["isolation"], frame.head["missing"])
        return classify(frame.head, frame.blob, limits)

    def _ensure(self, stale: str | None) -> str:
        """Return a socket path other than ``stale``, starting a zygote if there is none."""
        with self._lock:
            if self._path is None or self._path == stale or not os.path.exists(self._path):
                self._discard()
                self._server = _Server(self._spec)
                self._path = self._server.path
            return self._path

    def _replace(self, stale: str | None) -> None:
        """Give up a zygote that hangs; the next call starts another."""
        with self._lock:
            if self._path == stale:
                self._discard()

    def _discard(self) -> None:
        server, self._server, self._path = self._server, None, None
        if server is not None:
            server.stop(_DISCARD_S)


class _Server:
    """One zygote process and what belongs to it.

    Attributes:
        path: Its socket, in a private directory.
        process: The process.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        directory = tempfile.mkdtemp(prefix="kvevolve-")
        if len(os.fsencode(directory)) > _SOCKET_PATH_BYTES - 2:
            os.rmdir(directory)
            directory = tempfile.mkdtemp(prefix="kvevolve-", dir="/tmp")
        self.path = os.path.join(directory, "z")
        self._owner = os.getpid()
        self._line, far = socket.socketpair()
        command = [sys.executable, "-P", "-m", "sim.isolation.server", str(far.fileno()), self.path]
        try:
            with far, tempfile.TemporaryFile() as log:
                self.process = subprocess.Popen(
                    command,
                    cwd=spec["cwd"],
                    env=_environment(spec["cwd"]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[far.fileno()],
                    start_new_session=True,
                )
                self._finalizer = weakref.finalize(
                    self, _stop, self.process, self._line, directory, self._owner, _STOP_S
                )
                far.close()
                self._wait(spec, log)
        except OSError as fault:
            self._line.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise ZygoteError(f"cannot start {command[0]}: {fault}") from fault

    @property
    def mine(self) -> bool:
        """Whether this process, rather than one it was forked from, started it."""
        return self._owner == os.getpid()

    def stop(self, patience_s: float = _STOP_S) -> None:
        """End it (in its owner) and let go of everything."""
        if self._finalizer.detach():
            _stop(self.process, self._line, os.path.dirname(self.path), self._owner, patience_s)

    def _wait(self, spec: dict[str, Any], log: IO[bytes]) -> None:
        """Send the specification and wait for the word that it serves."""
        ready = False
        with suppress(OSError):
            self._line.sendall(wire.pack(spec | {"owner": self._owner}))
            self._line.settimeout(spec["start_timeout_s"] + 1.0)
            ready = bool(self._line.recv(4096))
        if not ready:
            self.process.kill()
            code = self.process.wait()
            self.stop()
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _STDERR_BYTES))
            tail = log.read().decode(errors="replace").strip()
            raise ZygoteError(f"the zygote for {spec['entry']} did not start (exit {code}):\n{tail}")


def _stop(process: subprocess.Popen[bytes], line: socket.socket, directory: str, owner: int, patience_s: float) -> None:
    """End a zygote: hang up, wait, kill. A fork of the owner only closes its copy of the lifeline."""
    if os.getpid() != owner:
        line.close()
        return
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)  # reaches the zygote even while forks hold copies
    line.close()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(directory, ignore_errors=True)


def _exchange(path: str, message: bytes, limits: Limits) -> wire.Frame:
    """Send a request and receive the zygote's frame.

    Raises:
        _GoneError: Nobody listens, or the connection broke.
        TimeoutError: No answer within the child's wall clock and a grace.
    """
    deadline = time.monotonic() + limits.wall_s + _GRACE_S
    data = bytearray()
    size: int | None = None
    with socket.socket(socket.AF_UNIX) as conn:
        try:
            conn.settimeout(limits.wall_s + _GRACE_S)
            conn.connect(path)
            conn.sendall(message)
            while size is None or len(data) < size:
                conn.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = conn.recv(_CHUNK)
                if not chunk:
                    raise _GoneError
                data += chunk
                size = size if size is not None else wire.frame_size(data)
        except TimeoutError:
            raise
        except OSError as fault:
            raise _GoneError from fault
    frame = wire.unpack(data, len(data))
    if frame is None:
        raise _GoneError
    return frame


def _environment(cwd: str | None) -> dict[str, str]:
    """Return the zygote's environment: what Python needs, one thread, fixed hashing, no credentials."""
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    root = str(Path(__file__).resolve().parents[2])
    places = [root, *([cwd] if cwd else []), kept.get("PYTHONPATH", "")]
    return kept | _FIXED | {"PYTHONPATH": os.pathsep.join(place for place in places if place)}


def _after_fork() -> None:
    """Give forked copies fresh locks: another thread may have held one."""
    for zygote in _instances:
        zygote._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
