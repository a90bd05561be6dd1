"""The child: from the fork to ``os._exit``.

Knows: how to shed what it inherited, enter the sandbox, call the handler, write one answer.
Must not know: the socket, other children, how it is watched. It writes to one pipe: first a ready frame with
the layers in force, then, after the handler has returned, the answer. It holds nothing else that is writable.
"""

from __future__ import annotations

import fcntl
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from sim.isolation import sandbox, wire
from sim.isolation.outcome import Limits

Handler = Callable[[dict[str, Any]], Any]

_PIPE = 3
_MESSAGE_CHARS, _FRAMES = 1000, 4
_OUT_OF_MEMORY = wire.pack({"status": "memory", "detail": "MemoryError: allocation above the limit"})


def run(handler: Handler, request: dict[str, Any], limits: Limits, box: sandbox.Sandbox, pipe: int, zygote: int) -> int:
    """Answer one request and return the exit status. To be called in a fresh fork, then ``os._exit``.

    Args:
        handler: What the entry function returned.
        request: The caller's request.
        limits: What to impose on this process.
        box: The layers prepared in the zygote.
        pipe: File descriptor to answer on.
        zygote: The parent's pid.
    """
    os.setpgid(0, 0)
    sandbox.die_with_parent(box, zygote)
    box.ruleset = _shed_descriptors(pipe, box.ruleset)
    level = sandbox.install(box, limits)
    _write(wire.pack({"layers": list(level.layers), "missing": level.missing}))
    try:
        answer = _answer(handler, request, limits)
    except MemoryError:
        answer = _OUT_OF_MEMORY
    _write(answer)
    return 0


def _shed_descriptors(pipe: int, ruleset: int | None) -> int | None:
    """Keep only the pipe (as 3) and the ruleset (as 4, returned); standard streams go to /dev/null."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 2 * _PIPE) for fd in (pipe, ruleset) if fd is not None]
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for i, fd in enumerate(high):
        os.dup2(fd, _PIPE + i, inheritable=False)
    os.closerange(_PIPE + len(high), os.sysconf("SC_OPEN_MAX"))
    return None if ruleset is None else _PIPE + 1


def _answer(handler: Handler, request: dict[str, Any], limits: Limits) -> bytes:
    """Call the handler and encode what comes of it."""
    sys.dont_write_bytecode = True
    try:
        result = handler(request)
    except MemoryError:
        return _OUT_OF_MEMORY
    except SystemExit as left:
        return wire.pack({"status": "exit", "detail": f"SystemExit: {_text(left)}"})
    except BaseException as fault:
        return wire.pack({"status": "error", "detail": _describe(fault)})
    try:
        return _encode(result, limits.output_bytes)
    except wire.WireError as fault:
        return wire.pack({"status": "protocol", "detail": str(fault)[:_MESSAGE_CHARS]})


def _encode(result: object, limit_bytes: int) -> bytes:
    """Encode a handler's ``dict`` or ``(dict, arrays)``."""
    payload, arrays = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(payload, dict) or not isinstance(arrays, dict):
        raise wire.WireError(f"the handler returned {type(result).__name__}, not dict or (dict, dict of arrays)")
    headers, blob = wire.encode_arrays(arrays, limit_bytes)
    frame = wire.pack({"status": "ok", "detail": "", "payload": payload, "arrays": headers}, blob)
    if len(frame) > limit_bytes + wire.SLACK_BYTES:
        raise wire.WireError(f"the answer of {len(frame)} bytes exceeds output_bytes = {limit_bytes}")
    return frame


def _describe(fault: BaseException) -> str:
    """Return type, message and the last frames of an exception, without absolute paths."""
    frames = traceback.extract_tb(fault.__traceback__)[-_FRAMES:]
    lines = [f"  in {f.name} ({os.path.basename(f.filename)}:{f.lineno}): {f.line or ''}"[:200] for f in frames]
    return "\n".join([f"{type(fault).__name__}: {_text(fault)}", *lines])


def _text(fault: BaseException) -> str:
    """Return an exception's message, even where its ``__str__`` fails."""
    try:
        return str(fault)[:_MESSAGE_CHARS]
    except Exception:
        return "<message cannot be shown>"


def _write(data: bytes) -> None:
    """Write everything to the pipe."""
    view = memoryview(data)
    while view:
        view = view[os.write(_PIPE, view) :]
