"""JSON lines, plain, gzipped or zstd, of one file or several.

Parsed by orjson where it is installed (extra ``[traces]``): the same, faster.
Knows files, line numbers and the checks of single fields, and words every refusal the same way:
``file:line: field 'x': expected ..., got ... - fix: ...``. Must not know what the fields mean.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import IO, Any, NoReturn

from workloads import progress
from workloads.columns import INT32_MAX
from workloads.errors import TraceError
from workloads.readers.packed import opened

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

Record = dict[str, Any]

MAX_LINE_BYTES = 1 << 28
_TELL_LINES = 256
_MAX_ID = 2**63 - 1
_MAX_RUN_ID = 2**40  # leaves room to keep the ids of millions of sessions apart
_MAX_MS = 1e15  # 31,000 years in ms: larger values are broken, and smaller ones keep 0.1 ms in a float
_MAX_S = _MAX_MS / 1000

_PASSED_OVER: ContextVar[frozenset[int]] = ContextVar("lines passed over", default=frozenset())


@contextmanager
def passing_over(lines: Iterable[int]) -> Iterator[None]:
    """Read JSON-lines files in this block as if these lines (numbers from 1) were not there."""
    token = _PASSED_OVER.set(frozenset(lines))
    try:
        yield
    finally:
        _PASSED_OVER.reset(token)


@dataclass
class JsonLines:
    """The records of one JSON-lines file, or of several that continue each other, with what was skipped counted.

    Attributes:
        path: The file, or the folder of the files.
        files: The files in the order in which they are read; default: the path.
        line: Number of the line last read, from 1, counted through all files.
        blank_lines: How many empty lines were skipped.
        unused_fields: How often each field that the reader does not use occurred.
    """

    path: Path
    files: Sequence[Path] = ()
    line: int = 0
    blank_lines: int = 0
    unused_fields: Counter[str] = field(default_factory=Counter)
    _begun: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = self.files or (self.path,)

    def records(self) -> Iterator[Record]:
        """Yield one JSON object per line; ``self.line`` is its line number.

        Raises:
            TraceError: no such file, truncated or broken packed data, or a line that is not a JSON object.
        """
        for path in self.files:
            with opened(path, lambda: self.place(self.line)) as (handle, file, size):
                yield from self.records_in(handle, file, size)

    def records_in(self, handle: IO[bytes], file: IO[bytes], size_bytes: int) -> Iterator[Record]:
        """Yield one JSON object per line of an open stream, that of the next of ``files``.

        Args:
            handle: The stream, unpacked.
            file: What lies on disk; tells how far the work is.
            size_bytes: Its size.
        """
        passed_over = _PASSED_OVER.get()
        name = self.files[len(self._begun)].name
        self._begun.append(self.line)
        while raw := handle.readline(MAX_LINE_BYTES + 1):
            self.line += 1
            if len(raw) > MAX_LINE_BYTES:
                raise TraceError(
                    f"{self.place(self.line)}: expected one JSON object per line, got a line of more than"
                    f" {MAX_LINE_BYTES >> 20} MiB - fix: check that this is the right file"
                )
            if self.line % _TELL_LINES == 0:
                progress.tell(f"reading {name}, MB", file.tell() / 1e6, size_bytes / 1e6)
            if self.line in passed_over:
                continue
            if raw.isspace():
                self.blank_lines += 1
                continue
            yield self._parse(raw)
        progress.tell(f"reading {name}, MB", size_bytes / 1e6, size_bytes / 1e6)

    def place(self, line: int) -> str:
        """Return ``file:line`` of a line counted through all files."""
        index = max(bisect_right(self._begun, line - 1) - 1, 0)
        return f"{self.files[index]}:{line - self._begun[index]}" if self._begun else f"{self.files[0]}:{line}"

    def _parse(self, raw: bytes) -> Record:
        try:
            record = orjson.loads(raw) if orjson else json.loads(raw.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise TraceError(
                f"{self.place(self.line)}: expected one JSON object per line, got {_shown(raw)} ({error})"
                " - fix: repair or remove the line"
            ) from None
        if type(record) is not dict:
            raise TraceError(
                f"{self.place(self.line)}: expected a JSON object, got {_shown(raw)} - fix: repair or remove the line"
            )
        return record

    def refuse(self, name: str, expected: str, got: object, fix: str = "repair or remove the line") -> NoReturn:
        """Raise the error for one field of the current line."""
        raise TraceError(
            f"{self.place(self.line)}: field {name!r}: expected {expected}, got {_shown(got)} - fix: {fix}", field=name
        )

    def integer(self, record: Record, name: str, low: int, high: int = INT32_MAX) -> int:
        """Return an integer field within [low, high]; booleans and floats are refused."""
        value = record.get(name)
        if type(value) is int and low <= value <= high:
            return value
        self.refuse(name, f"an integer from {low} to {high}", value if name in record else "nothing")

    def milliseconds(self, record: Record, name: str) -> float:
        """Return a time field in ms: a finite number >= 0."""
        value = record.get(name)
        if (type(value) is int or type(value) is float) and 0 <= value <= _MAX_MS and isfinite(value):
            return value
        self.refuse(name, "a finite number of milliseconds >= 0", value if name in record else "nothing")

    def seconds(self, record: Record, name: str) -> float:
        """Return a time field in seconds: a finite number >= 0."""
        value = record.get(name)
        if (type(value) is int or type(value) is float) and 0 <= value <= _MAX_S and isfinite(value):
            return value
        self.refuse(name, "a finite number of seconds >= 0", value if name in record else "nothing")

    def label(self, record: Record, name: str) -> str | int | None:
        """Return a field that names something, a string or an integer; None if it is missing or null."""
        value = record.get(name)
        if value is None or type(value) is str or type(value) is int:
            return value
        self.refuse(name, "a string or an integer", value)

    def block_runs(self, record: Record, name: str) -> list[list[int]]:
        """Return a field that lists ``[first id, length]`` runs, ids >= 0 and lengths >= 1."""
        value = record.get(name)
        if type(value) is not list:
            self.refuse(name, "a list of [first id, length] runs", value if name in record else "nothing")
        for run in value:
            if type(run) is not list or len(run) != 2 or type(run[0]) is not int or type(run[1]) is not int:
                self.refuse(name, "runs of two integers [first id, length]", run)
            if not (0 <= run[0] <= _MAX_RUN_ID and 1 <= run[1] <= INT32_MAX):
                self.refuse(name, f"runs with 0 <= first id <= {_MAX_RUN_ID} and length >= 1", run)
        return value

    def block_ids(self, record: Record, name: str, most: int = _MAX_ID) -> list[int]:
        """Return a field that lists block ids, integers from 0 to ``most``."""
        value = record.get(name)
        if type(value) is not list:
            self.refuse(name, "a list of block ids", value if name in record else "nothing")
        if value and (set(map(type, value)) != {int} or min(value) < 0 or max(value) > most):
            bad = next(i for i in value if type(i) is not int or not 0 <= i <= most)
            self.refuse(name, f"integer block ids from 0 to {most}", bad)
        return value

    def note_unused(self, record: Record, used: frozenset[str]) -> None:
        """Count the fields of a record that the reader does not use."""
        if not record.keys() <= used:
            self.unused_fields.update(record.keys() - used)

    def skipped(self) -> dict[str, object]:
        """Return what was skipped, for provenance; empty if nothing was."""
        found: dict[str, object] = {}
        if self.blank_lines:
            found["blank_lines"] = self.blank_lines
        if self.unused_fields:
            found["unused_fields"] = dict(sorted(self.unused_fields.items()))
        return found


def source_of(path: Path, files: Sequence[Path] = ()) -> dict[str, object]:
    """Return name and SHA-256 of a source file (the file as it lies there, compressed or not), for provenance.

    Args:
        path: The file, or the folder of the files.
        files: The files of a folder; each is named with its hash.
    """
    try:
        if files and list(files) != [path]:
            return {"folder": path.name, "files": {file.name: file_sha256(file) for file in files}}
        return {"file": path.name, "sha256": file_sha256(path)}
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error} - fix: check the path") from None


def stem_of(path: Path) -> str:
    """Return a file's name without the suffixes of packing and of JSON lines."""
    return path.name.removesuffix(".gz").removesuffix(".zst").removesuffix(".jsonl")


def files_of(path: Path, pattern: str) -> list[Path]:
    """Return the file itself, or the files of a folder that match, by name.

    Raises:
        TraceError: a folder without such files.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.glob(pattern) if file.is_file())
    if not found:
        raise TraceError(f"{path}: no {pattern} in this folder - fix: check the path")
    return found


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number a trace may hold")


def _shown(value: object, limit: int = 60) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace").rstrip("\n")
    if value == "nothing":
        return "nothing (the field is missing)"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
