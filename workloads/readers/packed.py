"""Files that may be packed: plain, gzip or zstd.

Knows how packing is told, and what is truncated or damaged. Must not know what is in the files.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from workloads.errors import TraceError

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f
_RUN = 1  # the kind of a zstd block that is one byte, repeated
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading packed data that is truncated or damaged raises."""


@contextmanager
def opened(path: Path, place: Callable[[], str]) -> Iterator[tuple[IO[bytes], IO[bytes], int]]:
    """Give a file as it unpacks, as it lies there (which tells how far the work is), and its size.

    Args:
        path: The file: plain, gzip or zstd.
        place: Returns what was read last, for messages.

    Raises:
        TraceError: no such file, or what reading in this block raised: data that is truncated or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file, unpacked(file) as handle:
            yield handle, file, size
    except DAMAGE as error:
        fix = "the file is truncated or damaged, fetch or copy it again"
        raise TraceError(f"{place()}: data ends or breaks after this ({error}) - fix: {fix}") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error} - fix: check the path") from None


@contextmanager
def unpacked(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Give a stream of what is in an open file, unpacked if it is gzip or zstd.

    Raises:
        TraceError: zstd, and zstandard is not installed.
        EOFError: packed data that breaks off, or (zstd) is damaged; from reading the stream.
    """
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == _GZIP_MAGIC:
        with gzip.open(file, "rb") as stream:
            yield stream  # type: ignore[misc]
    elif magic == _ZSTD_MAGIC:
        try:
            import zstandard
        except ImportError:
            raise TraceError("zstd files need zstandard; fix: pip install 'kvevolve[traces]', or unpack it") from None
        _check_frames(file, zstandard)
        with zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(file, read_across_frames=True) as raw:
            try:
                yield io.BufferedReader(raw)
            except zstandard.ZstdError as error:
                raise EOFError(error) from None
    else:
        yield file


def _check_frames(file: IO[bytes], zstandard: Any) -> None:
    """Refuse zstd data that breaks off, which reading it as a stream would take for its end.

    Walks over the blocks without unpacking them (RFC 8878: frame header, blocks of a 3-byte header each, checksum).

    Raises:
        EOFError: it breaks off, or is no zstd.
    """
    end = file.seek(0, os.SEEK_END)
    at = file.seek(0)
    while at < end:
        start = file.read(18)
        if start[:4] == _ZSTD_MAGIC:
            try:
                at += zstandard.frame_header_size(start)
                checksum = 4 * zstandard.get_frame_parameters(start).has_checksum
            except zstandard.ZstdError as error:
                raise EOFError(error) from None
            last = 0
            while not last:
                file.seek(at)
                block = int.from_bytes(file.read(3), "little")
                last, kind, size = block & 1, block >> 1 & 3, block >> 3
                at += 3 + (1 if kind == _RUN else size)
                if at > end:
                    break
            at += checksum
        elif start[1:4] == _SKIPPABLE_MAGIC and start[0] >> 4 == 5:
            at += 8 + int.from_bytes(start[4:8], "little")
        else:
            raise EOFError("no zstd frame where one should begin")
        if at > end:
            raise EOFError("the last zstd frame is not whole")
        file.seek(at)
    file.seek(0)
