"""What workers do in tests of executors: in a module, because workers import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from small_traces import hand_trace

from sim.policy.program import Policy
from sim.simulation import simulate
from workloads import Trace, TraceError, load

TRACES = {
    "chat": load("synthetic:chat?seed=1&requests=150"),
    "hand": hand_trace([[0, 1], [0, 1, 2], [3], [0, 1, 2, 4], [3]], [25, 30, 10, 45, 19], arrival_s=[0, 0, 1, 1, 9]),
}
REPLAYS = [
    (trace, (policy, capacity_blocks, mode))
    for trace, capacity_blocks in (("chat", 400), ("hand", 5))
    for policy in ("vllm", "user")
    for mode in ("serial", "overlap")
]
"""Every combination, byte for byte the same wherever it runs."""

USER = """
def priority(block, cache):
    return block.last_access - 0.6 * min(block.gap, 60.0)


def admit(block, request, cache):
    return request.new_blocks < cache.capacity_blocks
"""


class Picky(Exception):
    """Cannot be rebuilt from its pickle: two arguments in, one kept."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def replay(trace: Trace, argument: tuple[str, int, str]) -> Any:
    policy, capacity_blocks, mode = argument
    chosen = Policy.from_source(USER, "user") if policy == "user" else policy
    return simulate(trace, chosen, capacity_blocks, mode=mode)


def die(trace: Trace, argument: tuple[str, int]) -> int:
    """Return the number; first kill this process unless the marker file is there, having made it."""
    marker, number = argument
    if marker == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if marker and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number + trace.n_requests


def fail(trace: Trace, argument: tuple[str, float]) -> str:
    kind, after_s = argument
    time.sleep(after_s)
    if kind == "policy":
        Policy.from_source("import os\n", "careless")
    if kind == "trace":
        raise TraceError("no good", request=3, field="arrival_s")
    if kind == "picky":
        raise Picky("trouble", "paradise")
    return kind


def look(trace: Trace, argument: Any) -> tuple[int, int, bool, bool]:
    """Return who holds the trace and how: process, object, whether its arrays are its own or can be written."""
    flags = trace.block_ids.flags
    return os.getpid(), id(trace), flags.owndata, flags.writeable


def variable(trace: Trace, argument: str) -> str | None:
    return os.environ.get(argument)


def linger(trace: Trace, argument: tuple[str, float]) -> int:
    """Leave a file that names this process, then stay for a while."""
    folder, seconds = argument
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(seconds)
    return trace.n_requests


def wait_on_node(trace: Trace, argument: tuple[str, str]) -> int:
    """Leave a file that names this Ray node and process, then wait for a file that lets all jobs go on."""
    import ray

    folder, gate = argument
    (Path(folder) / f"{ray.get_runtime_context().get_node_id()}-{os.getpid()}").touch()
    end = time.monotonic() + 100.0
    while not Path(gate).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return trace.n_requests
