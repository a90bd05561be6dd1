"""Secret keys in files, and names made with them.

Knows key files and HMAC-SHA256. Must not know what is named. With the key the same value always gets the same name;
without it a name can neither be traced back to a value nor be told from one made with another key. Each kind of value
has a key of its own, derived from the file's: a session named like a tenant gets another name.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from workloads.errors import TraceError

KEY_BYTES = 32
_TEXT_BYTES = 2 * KEY_BYTES + 1  # hex and a newline
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Names:
    """Names of one kind of value under one key."""

    def __init__(self, key: bytes, kind: str) -> None:
        """Derive the key of the kind.

        Args:
            key: The secret.
            kind: What is named, for example ``"session"``.

        Raises:
            TraceError: a key of another length, which might be none at all.
        """
        if len(key) != KEY_BYTES:
            raise TraceError(f"a key of {len(key)} bytes: expected {KEY_BYTES} - fix: take one from load_key")
        self._mac = hmac.new(hmac.digest(key, f"kvevolve {kind}".encode(), "sha256"), digestmod="sha256")

    def digest(self, value: bytes) -> bytes:
        """Return the 32 bytes that name a value."""
        mac = self._mac.copy()
        mac.update(value)
        return mac.digest()

    def number(self, value: bytes) -> int:
        """Return a name as an integer of 63 bits, which every trace format has room for."""
        return int.from_bytes(self.digest(value)[:8], "big") >> 1

    def text(self, value: bytes) -> str:
        """Return a name as 16 hexadecimal digits."""
        return self.digest(value)[:8].hex()


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Return the key in a file; a file that does not exist is created, mode 0600, with a fresh random key.

    Raises:
        TraceError: others than its owner may use the file, it holds no key, or it cannot be created.
    """
    file = Path(path)
    try:
        with suppress(FileExistsError):
            _create(file)
        with file.open("rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            text = handle.read(_TEXT_BYTES + 1)
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror or error} - fix: name a key file of your own") from None
    if not stat.S_ISREG(mode) or mode & _OTHERS:
        raise TraceError(
            f"{file}: mode {stat.S_IMODE(mode):04o}: expected a key file that only its owner may use"
            f" - fix: chmod 600 {file}, and replace the key if others may have read it"
        )
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise TraceError(
            f"{file}: expected a key of {2 * KEY_BYTES} hexadecimal digits, found none"
            " - fix: name a file that does not exist yet, and it is created"
        )
    return key


def _create(path: Path) -> None:
    """Write a fresh key, whole or not at all, unless the file exists."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.fchmod(handle, 0o600)
        os.write(handle, secrets.token_hex(KEY_BYTES).encode() + b"\n")
        os.fsync(handle)
        os.link(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink()
