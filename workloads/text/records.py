"""The records of a text log: JSON objects, one per line or in one array, of one file, a folder or a tar archive.

Knows files and JSON, and words refusals without quoting anything of the contents: not a value, not a name of a file in
a folder (logs are named after users and sessions), only kinds and sizes. Must not know what the fields mean.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import IO, Any, NoReturn

from workloads import progress
from workloads.errors import TraceError
from workloads.readers.members import members, reading

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

Record = dict[str, Any]

MAX_RECORD_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 20
_TELL_RECORDS = 64
_ESCAPE = 12
"""Characters of the longest escape or word that can be cut in two."""
_NONE = object()
_FIRST = re.compile(r"[ \t\r\n]*(?P<end>\]?)")
_NEXT = re.compile(r"[ \t\r\n]*(?:(?P<end>\])|,[ \t\r\n]*)")
_GAP = re.compile(r"[ \t\r\n,]*")
_FIX = "repair or remove the record"


@dataclass
class Records:
    """The records of a log, in file order, one in memory at a time.

    Attributes:
        path: File, folder or archive.
        member: Name of the file being read, for sorting; never for messages.
        number: Position of that file, from 1.
        line: Line of the current record, or its position in the array, from 1.
        counts: What was left out, by kind.
    """

    path: Path
    member: str = ""
    number: int = 0
    line: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records.

        Raises:
            TraceError: unreadable, or not JSON objects.
        """
        with reading(self.path):
            for name, stream in members(self.path):
                self.member = name
                self.number += 1
                self.line = 0
                for value in self._values(stream):
                    if type(value) is not dict:
                        self.refuse_record(f"expected a JSON object, got {described(value)}")
                    yield value
                    if self.line % _TELL_RECORDS == 0:
                        progress.tell(f"reading {self.path.name}, records", self.line)

    def _values(self, stream: IO[bytes]) -> Iterator[object]:
        start = b""
        while not start.strip():
            start = stream.readline(_CHUNK_BYTES)
            if not start:
                return
            self.line += 1
        if start.lstrip()[:1] == b"[":
            self.line = 0
            yield from self._array(start, stream)
            return
        if not start.endswith(b"\n"):
            start += stream.readline(MAX_RECORD_BYTES)
        value = _parsed(start)
        if value is _NONE:  # one object over many lines
            start += stream.read(MAX_RECORD_BYTES)
            value = _parsed(start)
        while start:
            if len(start) > MAX_RECORD_BYTES:
                self.refuse_record(f"a record of more than {MAX_RECORD_BYTES >> 20} MiB")
            if value is _NONE:
                self.refuse_record("expected JSON objects, one a line, got something else")
            yield value
            while (start := stream.readline(MAX_RECORD_BYTES + 1)).isspace():
                self.line += 1
            self.line += 1
            value = _parsed(start)

    def _array(self, start: bytes, stream: IO[bytes]) -> Iterator[object]:
        """Yield the items of a top-level array, holding one and a piece of the file at a time."""
        scan = json.JSONDecoder().raw_decode
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        text, wanted = utf8.decode(start), _CHUNK_BYTES
        at, between = text.index("[") + 1, _FIRST
        while True:
            gap = between.match(text, at)
            if gap and gap["end"]:
                self._refuse_more(text[gap.end() :], stream)
                return
            value, end = _NONE, -1
            torn = _GAP.fullmatch(text, at) is not None
            if gap and not torn:
                try:
                    value, end = scan(text, gap.end())
                except RecursionError:
                    pass
                except json.JSONDecodeError as error:
                    torn = error.pos >= len(text) - _ESCAPE or error.msg.startswith("Unterminated")
            if torn or end == len(text):  # cut off, or perhaps a number that goes on
                more = stream.read(wanted) if len(text) - at <= MAX_RECORD_BYTES else b""
                if more:
                    text, at, wanted = text[at:] + utf8.decode(more), 0, 2 * wanted
                    continue
            self.line += 1
            if value is _NONE or end == len(text):
                self.refuse_record("expected items of a JSON array up to its end, got something else")
            yield value
            at, between, wanted = end, _NEXT, _CHUNK_BYTES

    def _refuse_more(self, text: str, stream: IO[bytes]) -> None:
        """Refuse what follows the end of the array, but for white space."""
        while not text or text.isspace():
            if not (more := stream.read(_CHUNK_BYTES)):
                return
            text = more.decode(errors="replace")
        self.line += 1
        self.refuse_record("expected nothing after the end of the JSON array, got more")

    # ---- checks ------------------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """Where the current record is: file, number of the file in a folder or archive, line or position."""
        inside = f": file {self.number}" if self.number > 1 or self.path.is_dir() else ""
        return f"{self.path}{inside}:{self.line}"

    def refuse_record(self, problem: str) -> NoReturn:
        """Raise the error for the current record."""
        raise TraceError(f"{self.where}: {problem} - fix: {_FIX}")

    def refuse(self, name: str, expected: str, got: object, fix: str = _FIX) -> NoReturn:
        """Raise the error for one field of the current record."""
        text = f"{self.where}: field {name!r}: expected {expected}, got {described(got)} - fix: {fix}"
        raise TraceError(text, field=name)

    def objects(self, record: Record, name: str) -> list[Record]:
        """Return a field that lists objects."""
        value = record.get(name)
        if type(value) is not list:
            self.refuse(name, "a list of objects", value)
        for item in value:
            if type(item) is not dict:
                self.refuse(name, "a list of objects", item)
        return value

    def text(self, record: Record, name: str) -> str:
        """Return a field that is text."""
        value = record.get(name)
        if type(value) is not str:
            self.refuse(name, "text", value)
        return value

    def number_of(self, record: Record, name: str, most: float) -> float:
        """Return a field that is a finite number from 0 to `most`."""
        value = record.get(name)
        if (type(value) is int or type(value) is float) and isfinite(value) and 0 <= value <= most:
            return value
        self.refuse(name, f"a number from 0 to {most:g}", value)

    def count(self, record: Record, name: str, least: int = 0) -> int:
        """Return a field that counts tokens."""
        value = record.get(name)
        if type(value) is int and least <= value < 2**31:
            return value
        self.refuse(name, f"a number of tokens, at least {least}", value)


def _parsed(raw: bytes) -> object:
    """Return a JSON value, `_NONE` if it is none; an error would hold the text."""
    try:
        return orjson.loads(raw) if orjson else json.loads(raw.decode())
    except (ValueError, RecursionError):
        return _NONE


def described(value: object) -> str:
    """Return kind and size of a value, nothing of its contents."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return "another number"


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return a path that exists.

    Raises:
        TraceError: it does not.
    """
    file = Path(path)
    if not file.exists():
        raise TraceError(f"{file}: no such file or folder - fix: check the path")
    return file
