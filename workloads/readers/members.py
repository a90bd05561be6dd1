"""The files of a trace that comes as one file, a folder of files, or a tar archive.

Knows folders, tar and packing. Must not know what is in the files.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workloads import progress
from workloads.errors import TraceError
from workloads.formats import HEAD_BYTES, Head
from workloads.readers.lines import file_sha256, source_of
from workloads.readers.packed import DAMAGE, unpacked

SUFFIXES = (".json", ".jsonl", ".ndjson")
_PACKED = (".gz", ".zst")


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and unpacked contents of every file; the contents are gone when the next file is asked for.

    Files of a folder, sorted by name, and of a tar archive (also packed), as they lie there, that end in
    :data:`SUFFIXES`, packed or not; a file that is neither stands for itself.

    Raises:
        TraceError: nothing there that could be read. Damage shows while reading: wrap that in :func:`reading`.
    """
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _wanted(file.name) and file.is_file()]
        for number, file in enumerate(files):
            progress.tell(f"reading {path.name}, files", number, len(files))
            with file.open("rb") as handle, unpacked(handle) as stream:
                yield file.relative_to(path).as_posix(), stream
        return
    size = path.stat().st_size
    with path.open("rb") as handle, unpacked(handle) as stream:
        if not is_archive(path):
            yield path.name, stream
            return
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for item in archive:
                progress.tell(f"reading {path.name}, MB", handle.tell() / 1e6, size / 1e6)
                found = archive.extractfile(item) if item.isfile() and _wanted(item.name) else None
                if found is not None and item.name.endswith(_PACKED):
                    with unpacked(io.BytesIO(found.read())) as content:
                        yield item.name, content
                elif found is not None:
                    yield item.name, found


def is_archive(path: Path) -> bool:
    """Return whether a file is named like a tar archive."""
    return path.name.endswith((".tgz", ".tar", *(f".tar{packing}" for packing in _PACKED)))


def first_bytes(head: Head) -> bytes:
    """Return how the first file of a folder or archive begins, or the file itself; nothing if that cannot be told."""
    try:
        if head.path.is_dir() or is_archive(head.path):
            for _, stream in members(head.path):
                return stream.read(HEAD_BYTES)
            return b""
    except Exception:  # whoever reads it tells what is wrong
        return b""
    return head.start


def source(path: Path) -> dict[str, object]:
    """Return name and SHA-256 of the source, for provenance; of a folder, over the hashes of its files by name.

    Raises:
        TraceError: it cannot be read.
    """
    if not path.is_dir():
        return source_of(path)
    files = [file for file in sorted(path.rglob("*")) if _wanted(file.name) and file.is_file()]
    with reading(path):
        hashes = "".join(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n" for file in files)
    return {"folder": path.name, "files": len(files), "sha256": hashlib.sha256(hashes.encode()).hexdigest()}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while reading a file into a `TraceError` that names it and nothing of its contents."""
    problem = None
    try:
        yield
    except (*DAMAGE, tarfile.TarError):
        problem = "packed data breaks off or is damaged - fix: fetch or copy the file again"
    except OSError as error:
        problem = f"{error.strerror or 'cannot be read'} - fix: check the path"
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # it has no narrower base
            raise
        problem = "packed data is damaged - fix: fetch or copy the file again"
    if problem is not None:
        raise TraceError(f"{path}: {problem}")


def _wanted(name: str) -> bool:
    for packing in _PACKED:
        name = name.removesuffix(packing)
    return name.endswith(SUFFIXES) and not name.rpartition("/")[2].startswith(".")
