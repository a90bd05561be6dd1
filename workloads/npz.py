"""Traces as ``.npz`` files.

An archive of uncompressed arrays, one per column of :class:`workloads.trace.Trace` that is there, with its name, type
and unit (``offsets`` int64, ``arrival_s`` float64 in seconds, every other int32), and ``meta``: the manifest as UTF-8
JSON (:class:`workloads.manifest.Manifest`), with format and version. Knows that layout. Must not know where a trace
came from or what it is for. Nothing derived is stored: in particular no next uses, so a process that loads a trace does
not hold its future in another form.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads import manifest, validation
from workloads.atomic import atomic_write
from workloads.columns import F64, I32, I64
from workloads.errors import TraceError

if TYPE_CHECKING:
    from workloads.formats import Head
    from workloads.trace import Trace

FORMAT = "kvevolve-trace"
VERSION = 2
SUMMARY = "kvevolve's own: fast, exact, with its manifest"
SUFFIXES = (".npz",)
KEEPS = ("session", "turn", "tenant", "request_type", "priority")
_META = "meta"
_DTYPES = {"offsets": np.int64, "arrival_s": np.float64}  # every other column is int32
_REQUIRED = ("offsets", "block_ids", "arrival_s", "input_tokens", "output_tokens")
_MOST_PACKED = 200
"""Times a file may be smaller than its arrays: this program packs none of them."""
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    MemoryError,
)


def matches(head: Head) -> bool:
    """Return whether a file is an archive of numpy arrays."""
    return head.raw[:4] == b"PK\x03\x04" or head.path.suffix == ".npz"


def write(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace, whole or not at all (temporary neighbour, then rename).

    Args:
        trace: What to write.
        path: File name, used as given; missing folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    text = np.frombuffer(manifest.encode(manifest.manifest_of(trace), FORMAT, VERSION), np.uint8)
    members: dict[str, Any] = {_META: text, **trace.columns()}
    with atomic_write(Path(path)) as handle:
        np.savez(handle, **members)


def read(path: str | os.PathLike[str]) -> Trace:
    """Read a trace written by :func:`write` and check it: format, version, every rule of a trace, fingerprint.

    Args:
        path: File name.

    Returns:
        The trace, arrays read-only.

    Raises:
        TraceError: the file is missing, truncated, corrupted, or not such a file; says what to do.
    """
    try:
        members = _read_members(Path(path))
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; fix: check the path, or save the trace again") from None
    except _UNREADABLE as error:
        raise _refused(path, f"not a readable {FORMAT} file ({type(error).__name__}: {error})") from None
    try:
        return _assemble(members)
    except TraceError as error:
        raise _refused(path, error.message) from None


def _read_members(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with path.open("rb") as handle:
        archive = np.load(handle, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an archive")
        assert archive.zip is not None
        unpacked: int = sum(member.file_size for member in archive.zip.infolist())
        if unpacked > _MOST_PACKED * path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        return {name: archive[name] for name in archive.files}


def _assemble(members: dict[str, np.ndarray[Any, Any]]) -> Trace:
    from workloads.trace import OPTIONAL_COLUMNS, Trace

    raw = members.pop(_META, None)
    if raw is None or raw.dtype != np.uint8:
        raise TraceError(f"no {FORMAT} manifest in it")
    said = manifest.decode(raw.tobytes(), FORMAT, VERSION)
    missing = [name for name in _REQUIRED if name not in members]
    strange = sorted(set(members) - set(_REQUIRED) - set(OPTIONAL_COLUMNS))
    if missing or strange:
        raise TraceError(f"missing columns {missing}, unknown columns {strange}")
    columns: dict[str, I32 | I64 | F64] = {}
    for name, column in members.items():
        want = np.dtype(_DTYPES.get(name, np.int32))
        if column.ndim != 1 or column.dtype != want:
            raise TraceError(f"column {name!r}: expected 1-d {want}, got {column.ndim}-d {column.dtype}", field=name)
        columns[name] = column
    trace = Trace(
        name=said.name,
        block_tokens=said.block_tokens,
        provenance=said.full_provenance(),
        **columns,  # type: ignore[arg-type]
    )
    validation.check_stored(trace)
    if trace.fingerprint != said.fingerprint:
        raise TraceError("contents do not match the stored fingerprint")
    return trace


def _refused(path: str | os.PathLike[str], reason: str) -> TraceError:
    return TraceError(f"{path}: {reason}; fix: make the file again from its source (Trace.save)")
