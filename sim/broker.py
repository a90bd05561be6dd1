"""The way of an engine's workers to a Ray cluster: one process that holds the session, and a socket to it.

An engine forks its workers, and a Ray session does not survive a fork: so none of them has one. All islands share the
cores of the cluster; each Ray worker keeps an evaluator, and so a zygote, of its own (`sim.batch`): candidates run
isolated, under the same limits, wherever they run. Ray repeats what a lost worker or node had begun.

Knows the socket, the process and the section `kvevolve.evaluation` of an engine's configuration. Must not know policies
or scores. Which cluster: see `sim.cluster`.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import sim
from sim import cluster
from sim.batch import PanelKey, evaluate
from sim.evaluation import Evaluation
from sim.marks import load_marks
from sim.panel_facts import PanelFacts
from sim.search import invocation
from workloads.panel import load_panel

EXECUTORS = ("serial", "ray")
EXECUTOR_VARIABLE = "KVEVOLVE_EVALUATOR"
"""Wins over `kvevolve.evaluation.executor` of the configuration."""
SOCKET_VARIABLE, KEY_VARIABLE = "KVEVOLVE_BROKER", "KVEVOLVE_BROKER_KEY"
"""Where workers find the broker; set in the process that started it, and inherited."""

_START_S = 300.0
_STOP_S = 15.0
_POLL_S = 0.25
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The section `kvevolve.evaluation`: where candidates are evaluated, and how many at a time (None: every core)."""

    executor: str = "serial"
    workers: int | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """Return what a configuration asks for; `$KVEVOLVE_EVALUATOR` wins.

        Raises:
            ValueError: If an option is unknown or its value makes no sense.
        """
        section = (config.get("kvevolve") or {}).get("evaluation") or {}
        if not isinstance(section, dict) or set(section) - {"executor", "workers"}:
            raise ValueError(
                f"kvevolve.evaluation is {section!r}; give executor and workers, as in {{executor: ray, workers: 8}}"
            )
        executor = os.environ.get(EXECUTOR_VARIABLE) or section.get("executor", "serial")
        workers = section.get("workers")
        if executor not in EXECUTORS:
            raise ValueError(f"evaluation executor is {executor!r}; choose one of {', '.join(EXECUTORS)}")
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ValueError(f"kvevolve.evaluation.workers is {workers!r}; give a number of cores, at least 1")
        return cls(executor, workers)


@dataclass(frozen=True)
class Remote:
    """Evaluates candidates through the broker; see `sim.evaluation.Evaluator`."""

    address: str
    key: bytes
    facts: PanelFacts

    def evaluate_source(self, source: str, advice: bool = True) -> Evaluation:
        """Score the text of a policy on the cluster.

        Raises:
            RuntimeError: If the cluster cannot, or the broker is gone.
        """
        answer = _ask(self.address, self.key, (source, advice))
        if not isinstance(answer, Evaluation):
            raise RuntimeError(f"not evaluated on the cluster: {answer}")
        return answer


_facts: dict[str, PanelFacts] = {}


def connected() -> Remote | None:
    """Return the way to the cluster if this process, or the one it was forked from, has one."""
    address, key = os.environ.get(SOCKET_VARIABLE), os.environ.get(KEY_VARIABLE, "").encode()
    if not address:
        return None
    if address not in _facts:
        _facts[address] = _ask(address, key, None)
    return Remote(address, key, _facts[address])


def ensure_broker(config_path: str | Path | None = None) -> None:
    """Start the broker if the engine's configuration, or the environment, asks for Ray; workers start none.

    Args:
        config_path: Configuration of the engine; by default the one on the `openevolve-run` command line.

    Raises:
        ValueError: If `kvevolve.evaluation` is wrong.
        RuntimeError: If the broker does not start.
    """
    if multiprocessing.parent_process() is not None or os.environ.get(SOCKET_VARIABLE):
        return
    run = invocation.current() if config_path is None else invocation.from_file(config_path)
    if run is None:
        return
    settings = Settings.read(run.config)
    if settings.executor == "ray":
        start(settings.workers)


class Broker:
    """A running broker; ends with the process that started it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: str) -> None:
        """Take over a process and the folder of its socket."""
        self._process, self._folder, self._owner = process, folder, os.getpid()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End it; without effect in a forked worker, which inherited this."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        self._process.send_signal(signal.SIGINT)  # Ray makes a noise of SIGTERM
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        if os.environ.get(SOCKET_VARIABLE, "").startswith(self._folder):
            del os.environ[SOCKET_VARIABLE], os.environ[KEY_VARIABLE]


def start(workers: int | None = None) -> Broker:
    """Start a broker that ends with this process, on the training panel that `$KVEVOLVE_PANEL` names.

    Raises:
        RuntimeError: If it does not start; its message stands above.
    """
    folder = tempfile.mkdtemp(prefix="kvevolve-")
    address, key = f"{folder}/broker", secrets.token_hex(16)
    root = str(Path(sim.__file__).resolve().parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "sim.broker", "--address", address, "--parent", str(os.getpid())]
    command += ["--workers", str(workers)] if workers else []
    environment = {**os.environ, "PYTHONPATH": paths, KEY_VARIABLE: key}
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **streams, env=environment, start_new_session=True)
    broker, deadline = Broker(process, folder), time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(RuntimeError):
            _facts[address] = _ask(address, key.encode(), None)
            os.environ[SOCKET_VARIABLE], os.environ[KEY_VARIABLE] = address, key
            return broker
        time.sleep(0.1)
    code = process.poll()
    broker.stop()
    how = f"not open after {_START_S:g} s" if code is None else f"not opened (exit {code}); its message stands above"
    raise RuntimeError(f"the way to the Ray cluster is {how}")


def _ask(address: str, key: bytes, request: Any) -> Any:
    try:
        with Client(address, "AF_UNIX", authkey=key) as connection:
            connection.send(request)
            return connection.recv()
    except (OSError, EOFError, multiprocessing.AuthenticationError) as error:
        raise RuntimeError(
            f"the broker to the Ray cluster is gone ({type(error).__name__}); fix: start the run again with --resume"
        ) from None


class _Desk:
    """Answers one request a connection, each in a thread of its own."""

    def __init__(self, facts: PanelFacts, pool: Any) -> None:
        self.facts, self.pool = facts, pool

    def serve(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except (OSError, EOFError, multiprocessing.AuthenticationError) as error:
                _LOGGER.warning("a connection failed: %s", error)
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection[Any, Any]) -> None:
        with connection, suppress(OSError, EOFError):
            request = connection.recv()
            connection.send(self.facts if request is None else self._evaluated(request))

    def _evaluated(self, candidate: tuple[str, bool]) -> Evaluation | str:
        try:
            found = self.pool("panel", candidate)
            assert isinstance(found, Evaluation)
            return found
        except Exception as error:
            _LOGGER.exception("a candidate was not evaluated")
            return f"{type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> int:
    """Serve until the parent ends; the command line of `python -m sim.broker`."""
    parser = argparse.ArgumentParser(prog="python -m sim.broker", description=__doc__)
    parser.add_argument("--address", required=True, help="path of the socket")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--parent", type=int, required=True, help="process to end with")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    threading.Thread(target=_leave_with, args=(options.parent,), daemon=True).start()
    try:
        _serve(options.address, os.environ[KEY_VARIABLE].encode(), options.workers)
    except KeyboardInterrupt:
        return 0
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        print(f"kvevolve, the way to the Ray cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(address: str, key: bytes, workers: int | None) -> None:
    panel = load_panel("train", os.environ.get("KVEVOLVE_PANEL", "auto"))
    load_marks(panel)  # once here, not in every worker
    facts, which = PanelFacts.of(panel), panel.which
    del panel
    with cluster.session(workers):
        pool = cluster.Pool(evaluate, {"panel": PanelKey("train", which, facts.fingerprint)}, workers)
        with Listener(address, "AF_UNIX", backlog=64, authkey=key) as listener:
            _Desk(facts, pool).serve(listener)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
