"""The zygote process: load once, then one forked and supervised child per connection.

Knows: the listening socket, children, deadlines, who may still want it (its parent, the lifeline).
Must not know: what requests and answers mean; it passes the bytes of an answer on unread.

One thread, no locks: a process that forks must not have threads. Run as
``python -m sim.isolation.server LIFELINE_FD SOCKET_PATH``; the specification comes over the lifeline.
It ends, with all children and its directory, when the lifeline closes or its parent dies.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401  (so that no child has to import it)

from sim.isolation import child, sandbox, wire
from sim.isolation.outcome import Limits

REQUEST_BYTES = 64 << 20
_CHUNK = 1 << 18
_IDLE_S, _REAP_S = 1.0, 0.001


class Job:
    """One connection: a request in, one child, an answer out.

    Attributes:
        conn: The caller's connection.
        inbox: Bytes of the request so far.
        outbox: What is still to be sent.
        limits: The child's limits, once known.
        pid: The child, 0 before the fork and after the reaping.
        pipe: Where the child answers, -1 when closed.
        stream: What it has written after its ready frame (before: all of it).
        level: The verified layers, None before the ready frame.
        started: Fork time, monotonic seconds.
        killed: Why the zygote killed the child: "timeout", "overflow", "abandoned"; empty if it did not.
    """

    def __init__(self, conn: socket.socket) -> None:
        self.conn = conn
        self.inbox = bytearray()
        self.outbox = memoryview(b"")
        self.limits = Limits()
        self.pid = 0
        self.pipe = -1
        self.stream = bytearray()
        self.level: sandbox.Level | None = None
        self.started = 0.0
        self.killed = ""

    @property
    def deadline(self) -> float:
        """When the child is to be killed."""
        return self.started + self.limits.wall_s

    @property
    def ending(self) -> bool:
        """Whether the child can only exit now: it closed its pipe or was killed."""
        return self.pid != 0 and (self.pipe < 0 or bool(self.killed))


class Server:
    """The accept and supervise loop."""

    def __init__(
        self, handler: child.Handler, box: sandbox.Sandbox, listener: socket.socket, lifeline: int, owner: int
    ) -> None:
        self._handler = handler
        self._box = box
        self._listener = listener
        self._lifeline = lifeline
        self._owner = owner
        self._jobs: set[Job] = set()
        self._alive = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, (self._accept, None))
        self._selector.register(lifeline, selectors.EVENT_READ, (self._hang_up, None))

    def serve(self) -> None:
        """Serve until the lifeline closes or the parent is gone, then kill what is left."""
        while self._alive and os.getppid() == self._owner:
            for key, _ in self._selector.select(self._patience()):
                if self._selector.get_map().get(key.fd) is key:  # not dropped earlier in this round
                    callback, job = key.data
                    callback(job)
            self._supervise()
        for job in list(self._jobs):
            if job.pid:
                self._kill(job, "abandoned")
                os.waitpid(job.pid, 0)

    def _patience(self) -> float:
        """Return for how long the loop may sleep."""
        running = [job for job in self._jobs if job.pid]
        if any(job.ending for job in running):
            return _REAP_S
        return max(0.0, min([_IDLE_S, *(job.deadline - time.monotonic() for job in running)]))

    def _hang_up(self, _: None) -> None:
        self._alive = bool(os.read(self._lifeline, _CHUNK))

    def _accept(self, _: None) -> None:
        with suppress(BlockingIOError, ConnectionError):
            conn, _address = self._listener.accept()
            conn.setblocking(False)
            job = Job(conn)
            self._jobs.add(job)
            self._selector.register(conn, selectors.EVENT_READ, (self._receive, job))

    def _receive(self, job: Job) -> None:
        """Take in the request; later, notice that the caller is gone."""
        try:
            data = job.conn.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._abandon(job)
        elif not job.pid:
            job.inbox += data
            try:
                frame = wire.unpack(job.inbox, REQUEST_BYTES)
            except wire.WireError:
                self._abandon(job)
                return
            if frame is not None:
                self._fork(job, frame.head)

    def _fork(self, job: Job, head: dict[str, Any]) -> None:
        """Start the child of a complete request."""
        job.inbox.clear()
        job.limits = Limits(**head["limits"])
        job.started = time.monotonic()
        zygote = os.getpid()
        ends: tuple[int, ...] = ()
        try:
            ends = read_end, write_end = os.pipe()
            pid = os.fork()
        except OSError as fault:
            for end in ends:
                os.close(end)
            self._send_end(job, {"end": "refused", "detail": str(fault)})
            return
        if pid == 0:
            status = 70
            try:
                status = child.run(self._handler, head["request"], job.limits, self._box, write_end, zygote)
            finally:
                os._exit(status)
        os.close(write_end)
        with suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(pid, pid)
        os.set_blocking(read_end, False)
        job.pid, job.pipe = pid, read_end
        self._selector.register(read_end, selectors.EVENT_READ, (self._read, job))

    def _read(self, job: Job) -> None:
        """Take in what the child writes."""
        try:
            data = os.read(job.pipe, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._close_pipe(job)
            return
        job.stream += data
        if job.level is None:
            self._read_level(job)
        if len(job.stream) > job.limits.output_bytes + 2 * wire.SLACK_BYTES:
            self._kill(job, "overflow")

    def _read_level(self, job: Job) -> None:
        """Take the ready frame off the stream and check what it claims."""
        try:
            frame = wire.unpack(job.stream, wire.SLACK_BYTES)
            if frame is not None:
                del job.stream[: frame.size]
                claimed = sandbox.Level(tuple(frame.head["layers"]), frame.head["missing"])
                job.level = sandbox.verify(job.pid, claimed)
        except (wire.WireError, KeyError):
            self._kill(job, "overflow")

    def _supervise(self) -> None:
        """Kill what is over its deadline, reap what has ended."""
        now = time.monotonic()
        for job in [job for job in self._jobs if job.pid]:
            if now >= job.deadline:
                self._kill(job, "timeout")
            if job.ending:
                pid, status, used = os.wait4(job.pid, os.WNOHANG)
                if pid and not os.WIFSTOPPED(status):  # a child that has itself traced reports stops too
                    self._finish(job, status, used.ru_utime + used.ru_stime)

    def _finish(self, job: Job, status: int, cpu_s: float) -> None:
        """Report a reaped child's end to its caller."""
        with suppress(OSError):
            os.killpg(job.pid, signal.SIGKILL)
        job.pid = 0
        self._close_pipe(job)
        if job.killed == "abandoned":
            self._drop(job)
            return
        exited = os.WIFEXITED(status)
        level = job.level or sandbox.Level((), {})
        end: dict[str, Any] = {"end": job.killed or ("exit" if exited else "signal"), "cpu_s": cpu_s}
        end["code"] = os.WEXITSTATUS(status) if exited else os.WTERMSIG(status)
        end |= {"wall_s": time.monotonic() - job.started, "isolation": str(level), "missing": level.missing}
        answered = end["end"] == "exit" and end["code"] == 0
        self._send_end(job, end, bytes(job.stream) if answered else b"")

    def _send_end(self, job: Job, end: dict[str, Any], answer: bytes = b"") -> None:
        job.stream.clear()
        job.outbox = memoryview(wire.pack(end, answer))
        self._selector.modify(job.conn, selectors.EVENT_WRITE, (self._send, job))

    def _send(self, job: Job) -> None:
        try:
            job.outbox = job.outbox[job.conn.send(job.outbox) :]
        except BlockingIOError:
            return
        except OSError:
            job.outbox = memoryview(b"")
        if not job.outbox:
            self._drop(job)

    def _kill(self, job: Job, why: str) -> None:
        """Kill a child and its group; the first reason counts."""
        job.killed = job.killed or why
        for kill in (os.killpg, os.kill):
            with suppress(OSError):
                kill(job.pid, signal.SIGKILL)

    def _abandon(self, job: Job) -> None:
        """The caller is gone: end its child without an answer."""
        if job.pid:
            self._selector.unregister(job.conn)
            self._kill(job, "abandoned")
            job.killed = "abandoned"
        else:
            self._drop(job)

    def _close_pipe(self, job: Job) -> None:
        if job.pipe >= 0:
            self._selector.unregister(job.pipe)
            os.close(job.pipe)
            job.pipe = -1

    def _drop(self, job: Job) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(job.conn)
        job.conn.close()
        self._jobs.discard(job)


def main(lifeline: int, path: str) -> None:
    """Load the handler, say so over the lifeline, serve, clean up."""
    line = socket.socket(fileno=lifeline)
    try:
        spec = _receive_spec(line)
        signal.alarm(spec["start_timeout_s"])  # kills a start that hangs, even in compiled code
        module, _, name = spec["entry"].partition(":")
        handler = getattr(importlib.import_module(module), name)(**spec["args"])
        if not callable(handler):
            raise TypeError(f"{spec['entry']} returned {type(handler).__name__}, not a handler")
        box = sandbox.prepare([Path(place) for place in spec["readable"]])
        signal.alarm(0)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1024)
        listener.setblocking(False)
        gc.collect()
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        line.sendall(wire.pack({"ready": os.getpid()}))
        Server(handler, box, listener, lifeline, spec["owner"]).serve()
    finally:
        shutil.rmtree(Path(path).parent, ignore_errors=True)


def _receive_spec(line: socket.socket) -> dict[str, Any]:
    """Read the specification frame from the lifeline."""
    data = bytearray()
    while (frame := wire.unpack(data, REQUEST_BYTES)) is None:
        chunk = line.recv(_CHUNK)
        if not chunk:
            raise SystemExit("the starting process is gone")
        data += chunk
    return frame.head


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
