"""The whole lines of a log that others may be writing, from where it was left the last time.

Knows bytes and lines; must not know what they say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_BYTES = 4096
_TRIES = 100


@dataclass(frozen=True)
class Mark:
    """How far a log was read.

    Attributes:
        bytes: Read so far, up to the end of a line.
        lines: In them.
        head: Digest of its first bytes, which never change as long as it is only appended to.
    """

    bytes: int = 0
    lines: int = 0
    head: str = ""

    def holds(self, path: Path) -> bool:
        """Return whether the log still starts with what was read; a log that is gone does."""
        try:
            return path.stat().st_size >= self.bytes and _head(path, self.bytes) == self.head
        except FileNotFoundError:
            return True


@dataclass(frozen=True)
class Line:
    """A line: its number from 1, the byte it starts at, its content."""

    number: int
    place: int
    content: bytes


class Tail:
    """Yields what was appended, line by line; `mark` is then how far it came."""

    def __init__(self, path: Path, mark: Mark) -> None:
        """Go on from a mark."""
        self.path, self.mark = path, mark

    def __iter__(self) -> Iterator[Line]:
        """Yield each line that is not empty. One without an end is still being written: it is left."""
        read, number = self.mark.bytes, self.mark.lines
        with self.path.open("rb") as file:
            file.seek(read)
            for content in file:
                if not content.endswith(b"\n"):
                    break
                number += 1
                if content.strip():
                    yield Line(number, read, content)
                read += len(content)
        self.mark = Mark(read, number, _head(self.path, read))


def _head(path: Path, read: int) -> str:
    if not read:
        return ""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(min(read, HEAD_BYTES))).hexdigest()


def records(line: bytes) -> tuple[list[tuple[int, dict[str, Any]]], str]:
    """Return the records of a line, each with the byte it starts at, and what is wrong with the line ("": nothing).

    A writer that was killed leaves half a record, and the next one writes behind it: the whole record at the end of
    such a line is found.
    """
    try:
        found = json.loads(line)
    except RecursionError:
        return [], "nested too deeply"
    except ValueError as error:
        last = _last_record(line)
        return last, f"not JSON: {error}" + ("; the record at its end was read" if last else "")
    return ([(0, found)], "") if isinstance(found, dict) else ([], f"a {type(found).__name__}, not a record")


def _last_record(line: bytes) -> list[tuple[int, dict[str, Any]]]:
    place = line.find(b'{"', 1)
    for _ in range(_TRIES):
        if place < 0:
            break
        try:
            found = json.loads(line[place:])
        except (ValueError, RecursionError):
            place = line.find(b'{"', place + 1)
            continue
        return [(place, found)] if isinstance(found, dict) else []
    return []
