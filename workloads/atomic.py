"""Files that appear whole or not at all.

Knows temporary names and renames. Must not know what is written.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the work it is to hold; makes missing parent folders.

    Raises:
        OSError: the file could not be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    with suppress(_Enough), atomic_write(path):
        raise _Enough


class _Enough(Exception):
    """Nothing is to be kept."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of ``path`` and rename it over ``path`` when the block ends without an error.

    Args:
        path: Final name; missing parent folders are created.

    Yields:
        The open temporary file. If the block raises, it is removed and ``path`` is left as it was.

    Raises:
        OSError: the file cannot be written; names ``path``, not the temporary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
        os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary) or error.errno in _NO_ROOM:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
