"""Lines of JSON on their way into a file: plain or gzipped, whole or not at all, orjson where it is installed.

Knows files and encoding; must not know what the lines mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workloads import progress
from workloads.writers.packed import packed_write

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

_TELL_LINES = 1024


def dumps() -> Callable[[Any], bytes]:
    """Return what turns an object into one line."""
    if orjson:
        return lambda value: orjson.dumps(value) + b"\n"
    return lambda value: json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def write_lines(path: Path, lines: Iterable[Any], total: int) -> None:
    """Write objects as lines; packed as the name says, the same bytes every time.

    Args:
        path: The file.
        lines: JSON-able objects.
        total: How many there are, for progress.

    Raises:
        OSError: the file cannot be written.
    """
    line_of = dumps()
    with packed_write(path) as target:
        for done, line in enumerate(lines):
            target.write(line_of(line))
            if done % _TELL_LINES == 0:
                progress.tell(f"writing {path.name}, requests", done, total)
    progress.tell(f"writing {path.name}, requests", total, total)


def milliseconds(arrival_s: Any) -> list[int | float]:
    """Return times in ms, to a nanosecond (`value / 1000` gives the seconds back); whole ones as integers."""
    values = (arrival_s * 1000.0).round(6)
    return [int(value) if value.is_integer() else value for value in values.tolist()]
