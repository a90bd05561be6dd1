"""Landlock: a ruleset under which files can be read beneath a few directories and nothing can be written.

Knows: the three system calls (same numbers on every architecture) and what each ABI version can deny.
Must not know: which directories are right, processes, the other layers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_NET_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals to processes outside


def abi(libc: ctypes.CDLL) -> int:
    """Return the kernel's Landlock ABI version.

    Raises:
        OSError: The kernel has none (ENOSYS) or it is switched off (EOPNOTSUPP).
    """
    return _call(libc, _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))


def ruleset(libc: ctypes.CDLL, readable: Iterable[Path]) -> int:
    """Build the ruleset and return its (close-on-exec) file descriptor.

    Args:
        libc: The C library, loaded with ``use_errno``.
        readable: Directories and files below which reading stays allowed; missing ones are skipped.

    Raises:
        OSError: Landlock is not available.
    """
    version = abi(libc)
    bits = 13 + (version >= 2) + (version >= 3)  # + refer, + truncate
    handled = (1 << bits) - 1 | ((1 << 15) if version >= 5 else 0)  # ioctl on devices
    words = [handled] + ([_NET_TCP] if version >= 4 else []) + ([_SCOPES] if version >= 6 else [])
    attributes = struct.pack(f"={len(words)}Q", *words)
    fd = _call(libc, _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(libc, fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def restrict(libc: ctypes.CDLL, fd: int) -> None:
    """Put the calling thread under the ruleset for good. Needs no_new_privs.

    Raises:
        OSError: The kernel refused.
    """
    _call(libc, _RESTRICT_SELF, ctypes.c_int(fd), ctypes.c_uint32(0))


def _allow(libc: ctypes.CDLL, fd: int, path: Path) -> None:
    """Allow reading at or beneath one path."""
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", rights, parent)
        _call(libc, _ADD_RULE, ctypes.c_int(fd), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(parent)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    """Make a system call and raise its error."""
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, errno.errorcode.get(code, str(code)))
    return result
