"""Traces as ``.npz`` files.

Knows the stored layout and its version. Must not know where a trace came from or what it is for. Nothing derived is
stored: in particular no next uses, so a process that loads a trace does not hold its future in another form.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads import validation
from workloads.atomic import atomic_write
from workloads.columns import F64, I32, I64
from workloads.errors import TraceError

if TYPE_CHECKING:
    from workloads.formats import Head
    from workloads.trace import Trace

FORMAT = "kvevolve-trace"
VERSION = 1
SUMMARY = "kvevolve's own: fast, exact, with its manifest"
SUFFIXES = (".npz",)
_META = "meta"
_DTYPES = {"offsets": np.int64, "arrival_s": np.float64}  # every other column is int32
_REQUIRED = ("offsets", "block_ids", "arrival_s", "input_tokens", "output_tokens")
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
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "name": trace.name,
        "block_tokens": trace.block_tokens,
        "fingerprint": trace.fingerprint,
        "provenance": trace.provenance,
    }
    text = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), np.uint8)
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
        return {name: archive[name] for name in archive.files}


def _assemble(members: dict[str, np.ndarray[Any, Any]]) -> Trace:
    from workloads.trace import OPTIONAL_COLUMNS, Trace

    meta = _meta(members.pop(_META, None))
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
        name=str(meta["name"]),
        block_tokens=meta["block_tokens"],
        provenance=dict(meta["provenance"]),
        **columns,  # type: ignore[arg-type]
    )
    validation.check_stored(trace)
    if trace.fingerprint != meta["fingerprint"]:
        raise TraceError("contents do not match the stored fingerprint")
    return trace


def _meta(raw: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """Decode and check the header member."""
    if raw is None or raw.dtype != np.uint8:
        raise TraceError(f"no {FORMAT} header in it")
    try:
        meta = json.loads(raw.tobytes().decode())
    except ValueError:
        raise TraceError("its header is not JSON") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise TraceError(f"its header does not say format {FORMAT!r}")
    if meta.get("version") != VERSION:
        raise TraceError(f"format version {meta.get('version')!r}, this program reads {VERSION}")
    kinds = {"name": str, "block_tokens": int, "fingerprint": str, "provenance": dict}
    for key, kind in kinds.items():
        if not isinstance(meta.get(key), kind):
            raise TraceError(f"header field {key!r}: expected {kind.__name__}, got {meta.get(key)!r}")
    return meta


def _refused(path: str | os.PathLike[str], reason: str) -> TraceError:
    return TraceError(f"{path}: {reason}; fix: make the file again from its source (Trace.save)")
