"""The executor "process": a pool of worker processes on this machine.

Knows concurrent.futures, how workers get the shared inputs, and that they may die. Workers come from a fork server: a
process of one thread that has imported the simulator and the module of the call (kernels and numba take seconds) and
forks in milliseconds; it lives as long as this process. Plain fork would copy locks that other threads hold; spawn
would import in every worker.

Nothing is left behind, however this process ends: the inputs are in a file that has no name, and workers end when
their lifeline closes, a pipe of which only this process holds the other end.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from sim.executor import RETRIES, Failed, Job, WorkerLost, cores, portable

_ALIGNMENT = 64
_SIMULATOR = "sim.simulation"
_NOT_STARTED = (
    "no worker process got as far as its first job, see above; fix: workers import the script that was started, so put "
    "what it does under: if __name__ == '__main__':"
)
_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Bytes of a temporary folder's path: the fork server's socket lies below it, and a socket's path has at most 107."""
_context = multiprocessing.get_context("forkserver")
_inputs: _Inputs | None = None
"""In a worker: what jobs share."""


def outcomes(
    call: Callable[[Any, Any], Any], shared: Mapping[str, Any], jobs: Sequence[Job], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Run jobs in worker processes; see `sim.executor.EXECUTORS`.

    A pool is broken once a worker dies, and does not say which job killed it. So those that were running are repeated
    alone, which names the culprit, and then the others go on.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        raise ValueError(
            f"{folder}: too long a path for the workers' socket; fix: name a folder of at most {_LONGEST_FOLDER} bytes "
            "in $TMPDIR"
        )
    _context.set_forkserver_preload([_SIMULATOR, call.__module__])  # has no effect once the fork server runs
    try:
        stored = _Inputs.store(shared)
    except OSError as error:
        error.add_note(f"writing what workers share to {folder}; fix: name a folder with room in $TMPDIR")
        raise
    with closing(stored) as inputs:
        left = dict.fromkeys(range(len(jobs)))
        width = min(workers or cores(), len(jobs))
        while left:
            lost = yield from _pool(call, inputs, jobs, left, width)
            for index in lost:
                for _ in range(RETRIES):
                    if not (yield from _pool(call, inputs, jobs, {index: None}, 1)):
                        break
                else:
                    text = f"its worker process died {RETRIES + 1} times; killed, out of memory, or a crash"
                    yield index, Failed(WorkerLost(text))
                left.pop(index)


def _pool(
    call: Callable[[Any, Any], Any], inputs: _Inputs, jobs: Sequence[Job], left: dict[int, None], width: int
) -> Generator[tuple[int, Any], None, list[int]]:
    """Run the jobs `left` in one pool and remove them; return those that were running when a worker died."""
    waiting = iter(list(left))
    running: dict[Future[Any], int] = {}
    near, far = _context.Pipe(duplex=False)
    heard, ready = _context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(width, _context, _begin, (inputs, near, ready, dict(os.environ)))
    idle = False
    try:
        while True:
            for index in islice(waiting, width - len(running)):
                running[pool.submit(_work, call, jobs[index])] = index
            if not running:
                idle = True
                return []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                index = running.pop(future)
                del left[index]
                yield index, Failed(error) if isinstance(error, Exception) else future.result()
    except BrokenProcessPool:
        if not heard.poll():
            raise RuntimeError(_NOT_STARTED) from None
        return sorted(running.values())
    finally:
        if not idle:
            far.close()  # what still runs, or was being started, is not wanted: its workers leave at once
        pool.shutdown(cancel_futures=True)
        for end in (far, near, heard, ready):
            end.close()


class _Inputs:
    """Pickles in one file without a name: the same pages in every worker, freed with the last who holds it."""

    def __init__(self, file: int, index: dict[str, tuple[bytes, list[tuple[int, int]]]]) -> None:
        """Take over an open file.

        Args:
            file: Its descriptor.
            index: Per name a pickle without its arrays, and where in the file these begin and end.
        """
        self._file, self._index = file, index
        self._loaded: dict[str, Any] = {}

    @classmethod
    def store(cls, shared: Mapping[str, Any]) -> _Inputs:
        """Write what jobs share."""
        index = {}
        with tempfile.TemporaryFile() as file:
            for name, value in shared.items():
                arrays: list[pickle.PickleBuffer] = []
                head = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
                spans = []
                for array in arrays:
                    start = file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
                    spans.append((start, start + file.write(array.raw())))
                index[name] = (head, spans)
            file.truncate(max(file.tell(), 1))  # an empty file cannot be mapped
            file.flush()
            return cls(os.dup(file.fileno()), index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._file), self._index)

    def get(self, name: str) -> Any:
        """Return one, loaded when first asked for; its arrays are views of the file."""
        if not self._loaded:
            self._pages = memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ))
        if name not in self._loaded:
            head, spans = self._index[name]
            self._loaded[name] = pickle.loads(head, buffers=[self._pages[start:stop] for start, stop in spans])
        return self._loaded[name]

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def _received(file: Any, index: dict[str, tuple[bytes, list[tuple[int, int]]]]) -> _Inputs:
    return _Inputs(file.detach(), index)


def _begin(inputs: _Inputs, lifeline: Connection, ready: Connection, environment: Mapping[str, str]) -> None:
    """Prepare a worker: Ctrl-C is for the parent, the environment is the parent's of today, not the fork server's."""
    global _inputs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_leave_with, args=(lifeline,), daemon=True).start()
    _inputs = inputs
    ready.send_bytes(b"1")


def _leave_with(lifeline: Connection) -> None:
    lifeline.poll(None)  # nothing is ever sent: returns when the other end closes
    os._exit(1)


def _work(call: Callable[[Any, Any], Any], job: Job) -> Any:
    assert _inputs is not None
    return portable(call, _inputs.get(job[0]), job[1])
