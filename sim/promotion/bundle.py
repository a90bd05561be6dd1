"""Incumbents as directories: `NAME/policy.py` and `NAME/manifest.json`, written once, whole or not at all.

Knows files and digests. Must not know panels, nor what a policy scores. Nothing here changes a bundle that exists.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.promotion.manifest import BundleError, Manifest, check_name, parsed

SHIPPED = Path(__file__).parent.parent / "incumbents"
"""The bundles that come with the package, and where new ones go unless another directory is named."""

POLICY, MANIFEST = "policy.py", "manifest.json"
_MOST_BYTES = 8 << 20


@dataclass(frozen=True)
class Bundle:
    """One incumbent, its files found sound."""

    path: Path
    manifest: Manifest
    policy: Policy


def names(directory: Path = SHIPPED) -> list[str]:
    """Return the names of what lies in a directory of incumbents; none if there is no such directory.

    Files beside the bundles, the ledgers, and what an interrupted writer left (its name begins with a dot) are no
    bundles.
    """
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def load(name: str, directory: Path = SHIPPED) -> Bundle:
    """Read a bundle and check all that can be checked without traces.

    Raises:
        BundleError: If there is none, or a file is missing, unknown or changed.
    """
    check_name(name)
    path = directory / name
    if not path.is_dir():
        known = ", ".join(names(directory)) or "none"
        raise BundleError(f"{path}: no such incumbent; there are: {known}; fix: name one of them, or --directory")
    unknown = sorted(entry.name for entry in path.iterdir() if entry.name not in (POLICY, MANIFEST))
    unknown = [entry for entry in unknown if entry != "__pycache__"]
    if unknown:
        raise BundleError(f"{path}: does not belong in a bundle: {', '.join(unknown)}; fix: remove it")
    manifest = parsed(_read(path / MANIFEST), str(path / MANIFEST))
    source = _read(path / POLICY)
    if manifest.name != name:
        raise BundleError(f"{path}: is of {manifest.name!r}; fix: give the directory its name back")
    found = hashlib.sha256(source).hexdigest()
    if found != manifest.sha256:
        raise BundleError(
            f"{path / POLICY}: was changed: SHA-256 {found[:12]}, its manifest says {manifest.sha256[:12]}; fix:"
            " restore it; a changed policy is another one, promote that"
        )
    try:
        policy = Policy.from_source(source.decode("utf-8"), name)
    except (PolicyRejected, UnicodeDecodeError) as error:
        raise BundleError(f"{path / POLICY}: {error}; fix: restore the bundle") from None
    if policy.nodes != manifest.nodes:
        raise BundleError(
            f"{path / POLICY}: has {policy.nodes} nodes, its manifest says {manifest.nodes}; fix: restore the bundle,"
            " or the kvevolve that wrote it"
        )
    return Bundle(path, manifest, policy)


def every(directory: Path = SHIPPED) -> Iterator[tuple[str, Bundle | BundleError]]:
    """Yield every bundle of a directory by name, or what is wrong with it."""
    for name in names(directory):
        try:
            yield name, load(name, directory)
        except BundleError as error:
            yield name, error


def check_free(name: str, directory: Path) -> None:
    """Refuse a name that is taken, or a directory that cannot be written, before the work it is to hold.

    Raises:
        BundleError: If the name is none, or taken.
        OSError: If the directory cannot be written.
    """
    check_name(name)
    if os.path.lexists(directory / name):
        raise BundleError(f"{directory / name} exists, and an incumbent is never written over; fix: another --name")
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f".{secrets.token_hex(4)}.tmp"
    probe.mkdir()
    probe.rmdir()


def write(source: str, manifest: Manifest, directory: Path) -> Path:
    """Write a bundle beside others and return its directory; a reader sees all of it or nothing.

    Raises:
        BundleError: If the name is taken.
        OSError: If it cannot be written.
    """
    check_free(manifest.name, directory)
    path = directory / manifest.name
    partial = directory / f".{manifest.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    partial.mkdir()
    try:
        _write(partial / POLICY, source.encode())
        _write(partial / MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
        try:
            os.rename(partial, path)  # fails where another process was faster
        except OSError as error:
            if path.exists():
                raise BundleError(f"{path} was written meanwhile; fix: another --name") from None
            raise error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    load(manifest.name, directory)
    return path


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _read(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: no such file; fix: restore the bundle")
        if path.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{path}: larger than {_MOST_BYTES >> 20} MiB; fix: restore the bundle")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; fix: restore the bundle") from None
