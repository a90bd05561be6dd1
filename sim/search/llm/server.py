"""The proxy's process: HTTP on loopback around its service, started by the engine's process or by hand.

Knows HTTP and configurations; must not know prompts or policies.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sim.search.endpoint import Endpoint, EndpointError, start_service
from sim.search.invocation import Invocation
from sim.search.llm.ending import Ending
from sim.search.llm.proxy import Proxy, Refused
from sim.search.llm.record import BadRecording
from sim.search.llm.settings import SECTION, LlmSettings
from sim.search.llm.upstream import UpstreamError
from sim.search.server import HOST, Handler, Holders, Server, run
from sim.search.settings import BadSettings

PORT = 18572
"""Default port; the configuration's `llm.api_base` names it."""

_LOCAL = ("127.0.0.1", "localhost")
_ENGINE_TIMEOUT_S = 60.0
"""OpenEvolve's own `llm.timeout`."""


class ProxyServer(Server):
    """One proxy, its holders and a socket."""

    kind = "proxy"
    service: Proxy

    def __init__(self, port: int, service: Proxy, holders: Holders) -> None:
        """Bind a port of the loopback interface; 0 takes a free one."""
        super().__init__(port, service, holders, ProxyHandler)


class ProxyHandler(Handler):
    """Routes requests; the client's key goes on to the endpoint."""

    server: ProxyServer

    def complete(self, body: Any) -> dict[str, Any]:
        """Return the reply to a chat completion request."""
        return self.server.service.complete(body, self.headers.get("Authorization") or "")

    def failure(self, error: Exception) -> tuple[int, str]:
        """Return status and message of an error."""
        if isinstance(error, UpstreamError):
            return error.status, str(error)
        known = {Refused: 402, BadSettings: 400}.get(type(error))
        return (known, str(error)) if known else super().failure(error)


def start_proxy(run_: Invocation, run_dir: Path | None) -> Endpoint:
    """Return the proxy that the section `kvevolve.llm` of a configuration asks for, started if need be.

    Raises:
        EndpointError: If the models are not at one port of this machine, the engine would not wait long enough for
            an answer, or the proxy does not start.
        BadSettings: If the section is wrong.
    """
    settings = LlmSettings.from_mapping(run_.config["kvevolve"]["llm"], seed=int(run_.config.get("random_seed") or 42))
    if settings.replay and run_.folder is not None:
        settings = replace(settings, replay=str((run_.folder / settings.replay).resolve()))
    port = _port(run_.models())
    for name, _ in run_.models():
        settings.price(name)
    wait_s = float((run_.config.get("llm") or {}).get("timeout") or _ENGINE_TIMEOUT_S)
    if settings.upstream and wait_s < settings.answer_s:
        raise EndpointError(
            f"llm.timeout is {wait_s:g} s, and an answer may take {settings.answer_s:g} s: it would be paid for and"
            f" lost. Fix: llm.timeout: {settings.answer_s:g}, or less {SECTION}.patience_s and {SECTION}.polish_seconds"
        )
    arguments = ["--settings", settings.to_json(), "--end-parent"]
    return start_service("proxy", port, "sim.search.llm.server", arguments, run_dir or Path())


def _port(models: list[tuple[str, str]]) -> int:
    """Return the one port of this machine at which all models are."""
    places = {urlsplit(base)._replace(path=urlsplit(base).path.rstrip("/")) for _, base in models}
    place = next(iter(places))
    if len(places) != 1 or place.hostname not in _LOCAL or place.port is None or place.path != "/v1":
        raise EndpointError(
            f"with {SECTION} every model is asked through the proxy. Fix: llm.api_base: http://{HOST}:{PORT}/v1, and"
            f" no api_base in llm.models; the endpoint itself goes to {SECTION}.upstream"
        )
    return place.port


def serve(port: int, settings: LlmSettings, folder: Path, parent: int | None = None, end_parent: bool = False) -> None:
    """Serve until stopped, or until every holder has ended if there is a parent.

    Args:
        port: On loopback.
        settings: What to do with a request.
        folder: Where calls are recorded.
        parent: Process to serve, our parent.
        end_parent: Whether to end it when nothing can be answered any more.

    Raises:
        OSError: If the port is taken.
        BadRecording: If a recording cannot be read.
        BadSettings: If the endpoint is the proxy itself.
    """
    upstream = urlsplit(settings.upstream)
    if upstream.hostname in _LOCAL and upstream.port == port:
        raise BadSettings(f"{SECTION}.upstream is port {port} of this machine, the proxy itself; name the endpoint")
    proxy = Proxy(settings, folder, Ending(folder, parent if end_parent else None))
    server = ProxyServer(port, proxy, Holders(parent))
    used = proxy.accounts.used
    print(f"{proxy.record.path}: {used.tokens:,} tokens, {used.cost_usd:.4f} USD used so far", flush=True)
    run(server)


def main(arguments: list[str] | None = None) -> int:
    """Serve a parent process; the command line of `python -m sim.search.llm.server`."""
    parser = argparse.ArgumentParser(prog="python -m sim.search.llm.server", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--run-dir", type=Path, default=Path())
    parser.add_argument("--parent", type=int)
    parser.add_argument("--end-parent", action="store_true")
    parser.add_argument("--settings", required=True, help="JSON")
    options = parser.parse_args(arguments)
    try:
        settings = LlmSettings.from_mapping(json.loads(options.settings))
        serve(options.port, settings, options.run_dir, options.parent, options.end_parent)
    except KeyboardInterrupt:
        return 0
    except (OSError, BadSettings, BadRecording) as error:
        print(f"kvevolve proxy on port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
