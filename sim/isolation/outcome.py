"""The outcome of one isolated call: what may happen to a child, and which word names it.

Knows: the limits, the eight statuses, how a child's end and its answer become one of them.
Must not know: processes, sockets, how limits are enforced, what a request means.
"""

from __future__ import annotations

import math
import signal
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import NDArray

from sim.isolation import wire

Arrays = dict[str, NDArray[Any]]

STATUSES = ("ok", "timeout", "cpu", "memory", "crash", "exit", "error", "protocol")
_SAID_BY_CHILD = frozenset({"ok", "error", "memory", "exit", "protocol"})
_DETAIL_CHARS = 2048


class ZygoteError(RuntimeError):
    """The zygote cannot start, fork or prepare a child: a fault of the installation, never of a candidate."""


@dataclass(frozen=True)
class Limits:
    """What one child may use.

    Attributes:
        wall_s: Wall-clock seconds from fork to exit; the zygote then kills the child's process group.
        cpu_s: CPU seconds; the kernel kills the child (whole seconds, rounded up).
        memory_bytes: Address space on top of what the zygote already maps.
        output_bytes: Size of the answer (JSON and arrays together).
    """

    wall_s: float = 20.0
    cpu_s: float = 20.0
    memory_bytes: int = 2 << 30
    output_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Limits.{name} must be a positive finite number, got {value!r}")

    @property
    def cpu_whole_s(self) -> int:
        """The CPU limit as the kernel takes it."""
        return math.ceil(self.cpu_s)


@dataclass(frozen=True)
class Outcome:
    """What happened to one request.

    Attributes:
        status: One of ``STATUSES``. "ok": the handler returned and the child exited with 0.
            "timeout": killed at ``wall_s``. "cpu", "memory": that limit was hit. "crash": a signal.
            "exit": the child left on its own (``sys.exit``, ``os._exit``). "error": the handler raised.
            "protocol": the answer is not a JSON object of finite numbers, is too long, or is garbled.
        payload: The handler's JSON object when ok, else None.
        arrays: The handler's arrays when ok, else empty. Their values are not checked for NaN.
        detail: For a reader: signal, exception and last frames; when ok, the missing layers if any.
        isolation: The layers in force in that child, such as "fork+rlimit+nocaps+landlock+seccomp";
            empty if the time was up before it had installed them.
        wall_s: Seconds from fork to the child's end, by the zygote's clock.
        cpu_s: CPU seconds of the child.
    """

    status: str
    payload: dict[str, Any] | None
    arrays: Arrays = field(default_factory=dict)
    detail: str = ""
    isolation: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0


def classify(end: dict[str, Any], answer: bytes, limits: Limits) -> Outcome:
    """Name what happened.

    Args:
        end: The zygote's account: "end" (exit, signal, timeout, overflow), "code", "cpu_s", "wall_s",
            "isolation", "missing" (layer -> reason).
        answer: The bytes the child wrote after its ready frame. Untrusted.
        limits: The limits the child ran under.

    Returns:
        The outcome; every malformed answer is "protocol".
    """
    payload: dict[str, Any] | None = None
    arrays: Arrays = {}
    if end["end"] == "exit" and end["code"] == 0 and answer:
        status, detail, payload, arrays = _read_answer(answer, limits)
        if status == "ok" and end["missing"]:
            detail = "not in force: " + "; ".join(f"{k}: {v}" for k, v in sorted(end["missing"].items()))
    else:
        status, detail = _without_answer(end, limits)
    return Outcome(status, payload, arrays, detail[:_DETAIL_CHARS], end["isolation"], end["wall_s"], end["cpu_s"])


def _read_answer(answer: bytes, limits: Limits) -> tuple[str, str, dict[str, Any] | None, Arrays]:
    """Decode a child's answer without trusting any of it."""
    try:
        frame = wire.unpack(answer, limits.output_bytes + wire.SLACK_BYTES)
        if frame is None or frame.size != len(answer):
            raise wire.WireError("the answer is not exactly one frame")
        status, detail = frame.head.get("status"), frame.head.get("detail")
        if status not in _SAID_BY_CHILD or not isinstance(detail, str):
            raise wire.WireError("the answer carries no valid status")
        if status != "ok":
            return str(status), detail, None, {}
        payload = frame.head.get("payload")
        if not isinstance(payload, dict):
            raise wire.WireError("the payload is not a JSON object")
        return "ok", detail, payload, wire.decode_arrays(frame.head.get("arrays"), frame.blob)
    except wire.WireError as fault:
        return "protocol", str(fault), None, {}


def _without_answer(end: dict[str, Any], limits: Limits) -> tuple[str, str]:
    """Name an end that left no answer."""
    kind, code = end["end"], end["code"]
    if kind == "timeout":
        return "timeout", f"killed after {limits.wall_s:g} s of wall-clock time"
    if kind == "overflow":
        return "protocol", f"the answer exceeds output_bytes = {limits.output_bytes}"
    if kind == "exit":
        return "exit", f"the process left with exit code {code} and without an answer"
    name = signal.Signals(code).name if code in signal.valid_signals() else f"signal {code}"
    spent = end["cpu_s"]
    if code == signal.SIGXCPU or (code == signal.SIGKILL and spent >= limits.cpu_whole_s - 0.1):
        return "cpu", f"killed after {limits.cpu_whole_s} s of CPU time"
    if code == signal.SIGKILL:
        return "memory", "SIGKILL from outside, most likely the kernel's out-of-memory killer"
    return "crash", f"killed by {name} after {spent:.2f} s of CPU time"
