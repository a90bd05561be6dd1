"""The endpoint, from outside: found running, or started as a child process when the engine's configuration names it.

`ensure_endpoint()` is what `evaluator.py` calls on import. `python -m sim.search.endpoint` serves by hand. Knows
configurations and processes; must not know policies.
"""

from __future__ import annotations

import argparse
import atexit
import http.client
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

import sim
from sim.search import invocation
from sim.search.default_model import adopt_default_model
from sim.search.invocation import Invocation
from sim.search.settings import BadSettings, Settings

PORT = 18571
"""Default port; any other serves as well if the model is called kvevolve-…"""

RUN_DIR_VARIABLE = "KVEVOLVE_RUN_DIR"
"""Where calls are recorded; by default the output folder of the run."""
SETTINGS_VARIABLE = "KVEVOLVE_SEARCH"
"""Settings that win over those of the configuration, for example {tune_fraction: 0}."""
_HOSTS = ("127.0.0.1", "localhost")
_START_S = 120.0
_STOP_S = 3.0
_LOGGER = logging.getLogger(__name__)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class EndpointError(RuntimeError):
    """The endpoint cannot be had; the message says what to do."""


@dataclass
class Endpoint:
    """A running endpoint.

    Attributes:
        port: Its port on 127.0.0.1.
        process: Its process if this one started it.
    """

    port: int
    process: subprocess.Popen[str] | None = None
    _owner: int = field(default_factory=os.getpid)

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        """Give the endpoint back; it ends unless other processes hold it. Only the process that got it can."""
        if os.getpid() != self._owner:
            return
        _ACTIVE.pop(self.port, None)
        _request(self.port, "/release", {"pid": self._owner})
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                _LOGGER.info("the endpoint on port %d serves another run and stays", self.port)


_ACTIVE: dict[int, Endpoint] = {}


def ensure_endpoint(config_path: str | Path | None = None) -> Endpoint | None:
    """Return the endpoint the engine's configuration names, started if need be; None if it names none.

    A configuration names it by a model whose base URL is on loopback and that is called kvevolve-… or uses port
    18571. Worker processes and repeated imports start nothing.

    Args:
        config_path: Configuration of the engine; by default the one on the `openevolve-run` command line.

    Raises:
        EndpointError: If the port is taken by something else, or the endpoint does not start.
        BadSettings: If the section `kvevolve.search` is wrong.
    """
    if multiprocessing.parent_process() is not None:
        return None
    run = invocation.current() if config_path is None else invocation.from_file(config_path)
    if run is None:
        return None
    models = run.models()
    if not models:
        adopt_default_model()
        return None
    given = os.environ.get(RUN_DIR_VARIABLE)
    run_dir = Path(given) if given else run.output
    _check_templates(run)
    if (run.config.get("kvevolve") or {}).get("llm") is not None:
        from sim.search.llm.server import start_proxy

        return start_proxy(run, run_dir)
    ports = {port for name, base in models if (port := _port(name, base)) is not None}
    if not ports:
        return None
    if len(ports) > 1:
        raise EndpointError(f"the configuration names this endpoint on ports {sorted(ports)}; use one port")
    section = ((run.config.get("kvevolve") or {}).get("search")) or {}
    settings = Settings.from_mapping(section | _from_environment(), seed=int(run.config.get("random_seed") or 42))
    return start(ports.pop(), settings, run_dir, run.resumed)


def _check_templates(run: Invocation) -> None:
    """Refuse a folder of prompt templates that is not there: the engine would use its own without a word."""
    folder = (run.config.get("prompt") or {}).get("template_dir")
    if folder and run.folder is not None and not (run.folder / folder).is_dir():
        raise EndpointError(f"prompt.template_dir: {run.folder / folder} is no folder; it is relative to the config")


def _from_environment() -> dict[str, Any]:
    """Return settings given as a YAML mapping in $KVEVOLVE_SEARCH, for runs without a configuration."""
    values = yaml.safe_load(os.environ.get(SETTINGS_VARIABLE) or "{}")
    if not isinstance(values, dict):
        raise BadSettings(f"${SETTINGS_VARIABLE} must be a mapping such as {{tune_fraction: 0.0}}")
    return values


def _port(name: str, base: str) -> int | None:
    """Return the port if a model is served by this endpoint."""
    parts = urlsplit(base)
    if parts.scheme != "http" or parts.hostname not in _HOSTS or parts.path.rstrip("/") != "/v1":
        return None
    port = parts.port or 80
    return port if port == PORT or name.startswith("kvevolve-") else None


def start(port: int, settings: Settings | None = None, run_dir: Path | None = None, resumed: bool = False) -> Endpoint:
    """Return the operator's endpoint on a port: the one already there, or a new child that ends with this process.

    Args:
        port: Of the loopback interface.
        settings: Of a new one.
        run_dir: Where a new one records calls.
        resumed: Whether a new one begins with what `run_dir` tells of the run.

    Raises:
        EndpointError: If something else holds the port, or the endpoint does not start.
    """
    arguments = (settings or Settings()).arguments() + ["--resumed"] * (run_dir is not None and resumed)
    return start_service("operator", port, "sim.search.endpoint", arguments, run_dir)


def start_service(kind: str, port: int, module: str, arguments: list[str], run_dir: Path | None) -> Endpoint:
    """Return what serves on a port, like `start`: the module is run with options for port, run folder and parent.

    Raises:
        EndpointError: If something else holds the port, or the module does not start to serve.
    """
    if port in _ACTIVE:
        return _ACTIVE[port]
    health = _health(port)
    if health is not None and health.get("kind") != kind:
        raise EndpointError(f"port {port} is held by a kvevolve {health.get('kind')}, no {kind}. {_advice(port)}")
    if health is not None:
        _request(port, "/hold", {"pid": os.getpid()})
        _LOGGER.warning("reusing the kvevolve endpoint on port %d; its settings and records are its starter's", port)
        endpoint = Endpoint(port)
    else:
        endpoint = Endpoint(port, _spawn(port, module, arguments, run_dir))
    _ACTIVE[port] = endpoint
    atexit.register(endpoint.stop)
    return endpoint


def _spawn(port: int, module: str, arguments: list[str], run_dir: Path | None) -> subprocess.Popen[str]:
    root = str(Path(sim.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    place = ["--run-dir", str(run_dir.absolute())] if run_dir else []
    process = subprocess.Popen(
        [
            sys.executable,
            *("-m", module, "--port", str(port), "--parent", str(os.getpid())),
            *place,
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C is for the engine, which still finishes its iterations
        text=True,
    )
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        health = _health(port, starting=True)
        if health is not None and health.get("pid") == process.pid:
            return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise EndpointError(
        f"the kvevolve endpoint did not start on port {port}; its message stands above. {_advice(port)}"
    )


def _advice(port: int) -> str:
    return f"To use another port, replace {port} in `llm.api_base` of the configuration, for example by {port + 1}"


def _health(port: int, starting: bool = False) -> dict[str, Any] | None:
    """Return what a kvevolve endpoint on a port says of itself; None if nothing listens there.

    Raises:
        EndpointError: If something else listens.
    """
    try:
        answer = _request(port, "/health")
    except ConnectionRefusedError:
        return None
    except OSError as error:
        if starting:
            return None
        raise EndpointError(f"port {port} is held by another program ({error}). {_advice(port)}") from None
    if not isinstance(answer, dict) or "kvevolve" not in answer:
        raise EndpointError(f"port {port} is held by another program. {_advice(port)}")
    return answer


def _request(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON answer of a request to a local port; None for a POST that fails."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with _DIRECT.open(request, timeout=3.0) as answer:
            return json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        if body is not None:
            return None
        reason = getattr(error, "reason", error)
        raise (reason if isinstance(reason, OSError) else OSError(str(error) or type(error).__name__)) from None


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; the command line of `python -m sim.search.endpoint`."""
    from sim.search.server import serve

    parser = argparse.ArgumentParser(prog="python -m sim.search.endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}")
    parser.add_argument("--run-dir", type=Path, default=os.environ.get(RUN_DIR_VARIABLE), help="where to record calls")
    parser.add_argument("--resumed", action="store_true", help="begin with what the records in --run-dir tell")
    parser.add_argument("--parent", type=int, help="process to end with; by default serve until stopped")
    Settings.add_options(parser)
    options = parser.parse_args(arguments)
    try:
        serve(options.port, Settings.from_options(options), options.run_dir, options.parent, options.resumed)
    except KeyboardInterrupt:
        return 0
    except (OSError, BadSettings) as error:
        print(f"kvevolve endpoint on port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
