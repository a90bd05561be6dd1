"""A manifest beside a file whose format has no place for one: ``FILE.manifest.json``.

Knows how it is bound to its file, by SHA-256. Must not know file formats.
"""

from __future__ import annotations

from pathlib import Path

from workloads.atomic import atomic_write
from workloads.errors import TraceError
from workloads.manifest import Manifest, decode, encode, manifest_of
from workloads.readers.lines import file_sha256
from workloads.trace import Trace

FORMAT, VERSION, SUFFIX = "kvevolve-manifest", 1, ".manifest.json"


def beside(path: Path) -> Path:
    """Return where the manifest of a file lies."""
    return path.with_name(path.name + SUFFIX)


def write(trace: Trace, path: Path) -> None:
    """Write the manifest of a trace beside the file that holds it, which is there already.

    Raises:
        OSError: it cannot be written.
    """
    said = manifest_of(trace)
    bound = {**said.provenance, "file_sha256": file_sha256(path)}
    content = Manifest(**{**said.to_dict(), "provenance": bound})
    with atomic_write(beside(path)) as handle:
        handle.write(encode(content, FORMAT, VERSION) + b"\n")


def read(path: Path) -> Manifest | None:
    """Return the manifest beside a file, None if there is none.

    Raises:
        TraceError: it is damaged, or of another file.
    """
    place = beside(path)
    try:
        raw = place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TraceError(f"{place}: {error.strerror or error} - fix: check the file") from None
    try:
        said = decode(raw, FORMAT, VERSION)
    except TraceError as error:
        raise TraceError(f"{place}: {error.message} - fix: remove it, or write the trace again") from None
    provenance = dict(said.provenance)
    if provenance.pop("file_sha256", None) != file_sha256(path):
        raise TraceError(
            f"{place}: {path.name} is not the file it was written with - fix: remove the manifest if the change is"
            " meant, or write the trace again"
        )
    return Manifest(**{**said.to_dict(), "provenance": provenance})


def attached(trace: Trace, said: Manifest | None, named: bool = False) -> Trace:
    """Return a trace just read with what the manifest beside its file says of its past, and its name unless `named`."""
    if said is None:
        return trace
    past = {**said.full_provenance(), "read_from": trace.provenance}
    return trace.renamed(trace.name if named else said.name, past)
