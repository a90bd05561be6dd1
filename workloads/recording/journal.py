"""Appends lines to files of limited size, in one thread of its own, behind a queue of limited size.

Knows threads and files. Must not know what a line says: a job is a function that returns the line. Every line is one
write to a file opened for appending, so a killed process loses what is still queued and leaves at most one unfinished
line; a new process, like every process of a server, starts a file of its own. Files have mode 0600.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Job = Callable[[], bytes]

LOGGER = logging.getLogger("kvevolve.recorder")

_TELL_S = 60.0
_CLOSE_S = 10.0


class SkippedError(Exception):
    """A job has no line; the message says why, in fixed words."""


class Journal:
    """The files of one process.

    Attributes:
        counts: Lines recorded, and requests that were not by reason.
    """

    def __init__(
        self, folder: Path, file_bytes: int = 1 << 28, max_jobs: int = 1024, max_queued_bytes: int = 1 << 28
    ) -> None:
        """Start the writer.

        Args:
            folder: Where files are made: ``record-TIME-PID-NUMBER.jsonl``.
            file_bytes: A file that is this large is followed by a new one.
            max_jobs: Longest queue; what finds it full is left out and counted.
            max_queued_bytes: Most that may wait, likewise.

        Raises:
            OSError: the folder cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.counts: Counter[str] = Counter()
        self._folder, self._file_bytes = folder, file_bytes
        self._stem = f"record-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        self._number = 0
        self._handle = -1
        self._written = 0
        self._told_s = time.monotonic() - _TELL_S
        self._lock = threading.Lock()
        self._queued_bytes, self._max_queued_bytes = 0, max_queued_bytes
        self._jobs: queue.Queue[tuple[Job | None, int]] = queue.Queue(max_jobs)
        self._thread = threading.Thread(target=self._run, name="kvevolve-recorder", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, job: Job, size: int) -> None:
        """Have a line written soon; never blocks.

        Args:
            job: Makes the line.
            size: Bytes the job holds.
        """
        with self._lock:
            full = self._queued_bytes + size > self._max_queued_bytes
            try:
                if not full:
                    self._jobs.put_nowait((job, size))
                    self._queued_bytes += size
            except queue.Full:
                full = True
        if full:
            self.skip("queue full")

    def skip(self, why: str) -> None:
        """Count a request that is not recorded, and say so in the log once a minute at most.

        Args:
            why: Fixed words; never anything of a request.
        """
        with self._lock:
            self.counts[why] += 1
            now = time.monotonic()
            if now - self._told_s < _TELL_S:
                return
            self._told_s = now
        LOGGER.warning("not recorded so far: %s", {k: n for k, n in self.counts.items() if k != "recorded"})

    def close(self) -> None:
        """Write what is queued, for at most some seconds, and stop."""
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._jobs.put((None, 0), timeout=_CLOSE_S)
            self._thread.join(_CLOSE_S)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while True:
            job, size = self._jobs.get()
            if job is None:
                break
            with self._lock:
                self._queued_bytes -= size
            try:
                self._append(job())
                self.counts["recorded"] += 1
            except SkippedError as error:
                self.skip(str(error))
            except Exception as error:  # its message may quote the request
                self.skip(f"failed: {type(error).__name__}")
        self._end_file()

    def _append(self, line: bytes) -> None:
        if self._handle < 0:
            self._number += 1
            path = self._folder / f"{self._stem}-{self._number:06d}.jsonl"
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, mode=0o600)
            self._written = 0
        written = os.write(self._handle, line)
        self._written += written
        if written < len(line) or self._written >= self._file_bytes:  # a full disk: never append to half a line
            self._end_file()
        if written < len(line):
            raise SkippedError("disk full")

    def _end_file(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
