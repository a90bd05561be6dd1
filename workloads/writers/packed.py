"""Files packed as their names say.

Knows gzip and zstd; must not know what is written.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workloads.atomic import atomic_write
from workloads.errors import TraceError


@contextmanager
def packed_write(path: Path) -> Iterator[Any]:
    """Open a file that appears whole or not at all, packed if it ends in .gz or .zst; the same bytes every time.

    Raises:
        TraceError: zstd, and zstandard is not installed.
        OSError: the file cannot be written.
    """
    with atomic_write(path) as handle:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, handle, 0) as stream:
                yield stream
        elif path.suffix == ".zst":
            try:
                import zstandard
            except ImportError:
                fix = "pip install 'kvevolve[traces]', or leave .zst off"
                raise TraceError(f"{path}: zstd files need zstandard - fix: {fix}") from None
            with zstandard.ZstdCompressor().stream_writer(handle, closefd=False) as stream:
                yield stream
        else:
            yield handle
