"""Logs of one JSON object a line, to which several processes append.

Knows lines. Must not know what they say. A line is one write to a file opened for appending: whole, unless the machine
or the disk gives out. A killed process loses nothing it had appended; a power cut may cost what was not synced. On
network file systems without atomic appends, lines of several machines may mix.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, entry: Mapping[str, Any], synced: bool = False) -> None:
    """Append an entry; a torn line, which a dying writer left, is ended first.

    Args:
        path: The log; made if there is none.
        entry: What the line says.
        synced: Whether it is on disk when this returns, whatever becomes of the machine.

    Raises:
        OSError: If it could not be written whole.
        ValueError: If it is no JSON.
    """
    data = json.dumps(dict(entry), sort_keys=True).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        data = _missing_end(file) + data
        if os.write(file, data) != len(data):
            raise OSError(errno.ENOSPC, "no room for a whole line", str(path))
        if synced:
            os.fsync(file)
    finally:
        os.close(file)


def mend(path: Path) -> None:
    """End the last line of a log, if a dying writer left it torn; for logs that others append to."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(file, _missing_end(file))
    finally:
        os.close(file)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a log, in order; none if there is no file. Torn lines are left out."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [entry for _, entry in parsed(data)]


def parsed(data: bytes) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Yield ((offset, length), entry) of every whole line."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        entry = entry_of(data[start:end])
        if entry is not None:
            yield (start, end - start), entry
        start = end + 1


def entry_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None if it is torn or no JSON object."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _missing_end(file: int) -> bytes:
    size = os.fstat(file).st_size
    return b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
