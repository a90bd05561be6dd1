"""The executor "ray": tasks on a Ray cluster.

Knows Ray. Jobs share each input through the object store: one copy a node, arrays not copied. Ray repeats the tasks
of a worker or node that died. Which cluster: the session the caller has opened (`ray.init`), which stays open; else
`$RAY_ADDRESS`; else one on this machine, stopped at the end. To the cluster at `$RAY_ADDRESS` this code is sent, as
the tasks' working directory; its nodes need the same Python and this package's dependencies. A program started by
`ray job submit` sends nothing: the job's runtime environment says what its nodes get.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

from sim.executor import RETRIES, Failed, Job, WorkerLost, cores, portable

_IN_FLIGHT = 1000
"""Most tasks handed to Ray at a time."""

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("sim", "workloads")
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by `ray job submit`."""

_held: dict[str, dict[str, Any]] = {}
"""In a worker: inputs by name, of the last run only. A trace is prepared once as long as it is the same object."""


def outcomes(
    call: Callable[[Any, Any], Any], shared: Mapping[str, Any], jobs: Sequence[Job], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Run jobs as Ray tasks of one core each; see `sim.executor.EXECUTORS`."""
    ray = _ray()
    with session(workers, call.__module__):
        if ray.cluster_resources().get("CPU", 0) < 1:
            raise RuntimeError("the Ray cluster has no CPU to run tasks on; fix: start nodes with --num-cpus")
        task = ray.remote(_task).options(num_cpus=1, max_retries=RETRIES)
        stored = {name: ray.put(value) for name, value in shared.items()}
        token = os.urandom(8).hex()
        waiting = iter(range(len(jobs)))
        running: dict[Any, int] = {}
        try:
            while True:
                for index in islice(waiting, min(workers or _IN_FLIGHT, _IN_FLIGHT) - len(running)):
                    name, argument = jobs[index]
                    running[task.remote(call, token, name, stored[name], argument)] = index
                if not running:
                    return
                for future in ray.wait(list(running))[0]:
                    index = running.pop(future)
                    yield index, _outcome(ray, future)
        finally:
            for future in running:
                with suppress(ray.exceptions.RayError):
                    ray.cancel(future, force=True)


class Pool:
    """Single calls on the session that is open, from any thread, each as `outcomes` would run it."""

    def __init__(self, call: Callable[[Any, Any], Any], shared: Mapping[str, Any], workers: int | None = None) -> None:
        """Prepare for calls.

        Args:
            call: See `sim.executor.run`.
            shared: What calls share, by name.
            workers: Most calls at a time; default as many as there are cores.
        """
        ray = _ray()
        self._ray, self._call, self._token = ray, call, os.urandom(8).hex()
        self._task = ray.remote(_task).options(num_cpus=1, max_retries=RETRIES)
        self._stored = {name: ray.put(value) for name, value in shared.items()}
        self._free = threading.BoundedSemaphore(min(workers or _IN_FLIGHT, _IN_FLIGHT))

    def __call__(self, name: str, argument: Any) -> Any:
        """Return `call(shared[name], argument)`; raises what it raises, or `WorkerLost`."""
        with self._free:
            future = self._task.remote(self._call, self._token, name, self._stored[name], argument)
            outcome = _outcome(self._ray, future)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("executor 'ray' needs the package ray: pip install 'kvevolve[ray]'") from error
    return ray


@contextmanager
def session(workers: int | None = None, module: str = __name__) -> Iterator[None]:
    """Use the session that is open, else open one and close it.

    Args:
        workers: Cores of a cluster on this machine.
        module: What a cluster elsewhere is sent beside this package.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    try:
        with redirect_stdout(cast(Any, _Stdout(sys.stdout))):
            _open(ray, workers, module)
            yield
    finally:
        ray.shutdown()


def _open(ray: Any, workers: int | None, module: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        found_as_here = {"env_vars": {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}}
        ray.init("local", num_cpus=workers or cores(), include_dashboard=False, runtime_env=found_as_here, **quiet)
    elif _SUBMITTED in os.environ:
        ray.init(**quiet)
    else:
        with _code(module) as directory:
            ray.init(runtime_env={"working_dir": directory}, **quiet)


class _Stdout:
    """Standard output, but for Ray's own threads, which report a lost worker there: theirs goes to standard error."""

    def __init__(self, stdout: Any) -> None:
        self._stdout = stdout

    def __getattr__(self, name: str) -> Any:
        ray_speaks = threading.current_thread().name.startswith("ray_")
        return getattr(sys.stderr if ray_speaks else self._stdout, name)


@contextmanager
def _code(module: str) -> Iterator[str]:
    """Copy this code and that of a module, nothing else of a checkout, to a directory that Ray sends to the nodes."""
    packages = {name: _ROOT / name for name in _PACKAGES}
    top = module.partition(".")[0]
    if top not in packages and top != "__main__":  # Ray sends what is defined in __main__ by itself
        source = Path(str(sys.modules[top].__file__))
        packages[top] = source.parent if source.name == "__init__.py" else source
    with tempfile.TemporaryDirectory(prefix="kvevolve-") as directory:
        for source in packages.values():
            target = Path(directory) / source.name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        yield directory


def _outcome(ray: Any, future: Any) -> Any:
    """Return what a task came to. Results travel as bytes: arrays in Ray's store would be gone after its shutdown."""
    errors = ray.exceptions
    try:
        return pickle.loads(ray.get(future))
    except errors.RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, Exception):
            return Failed(error)
        cause.__cause__ = RuntimeError(str(error))  # the traceback of the worker
        return Failed(cause)
    except errors.RayError as error:
        text = f"its worker died {RETRIES + 1} times; killed, out of memory, or nodes lost. {_first_line(error)}"
        return Failed(WorkerLost(text))


def _first_line(error: Exception) -> str:
    return f"Ray says {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _task(call: Callable[[Any, Any], Any], token: str, name: str, value: Any, argument: Any) -> bytes:
    """Run in a Ray worker: `value` is the input called `name` of the run called `token`."""
    if token not in _held:
        _held.clear()
    held = _held.setdefault(token, {})
    return pickle.dumps(portable(call, held.setdefault(name, value), argument))
