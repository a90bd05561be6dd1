"""Which trace formats there are, and how one is told from another.

Knows the modules of the formats and what each must offer. Must not know the formats themselves. A format is one module
and one line in `MODULES`; the module offers

- ``SUMMARY``: one line for listings: what writes such files;
- ``matches(head) -> bool``: whether a file or folder that begins like this is of the format; never raises;
- ``read(path, **options) -> Trace | SessionSet``: options are keyword arguments with types and defaults. Sessions are
  laid on a clock by :func:`workloads.materialise.materialise`, whose options then are options of the format too;
- if traces can be written in it, ``SUFFIXES``, ``write(trace, path)`` and ``KEEPS``, the optional columns of a trace
  that the format has a place for.
"""

from __future__ import annotations

import gzip
import inspect
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from workloads.errors import TraceError, unknown_name

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "npz": "workloads.npz",
        "parquet": "workloads.parquet",
        "kvt1": "workloads.readers.kvt1",
        "kvsess1": "workloads.readers.kvsess1",
        "recorded": "workloads.readers.recorded",
        "weka": "workloads.readers.weka",
        "lmcache_text": "workloads.readers.lmcache_text",
        "sharegpt": "workloads.readers.sharegpt",
        "wildchat": "workloads.readers.wildchat",
        "openai_chat": "workloads.readers.openai_chat",
        "ragpulse": "workloads.readers.ragpulse",
        "bailian": "workloads.readers.bailian",
        "dynamo": "workloads.readers.dynamo",
        "agentic_mooncake": "workloads.readers.agentic_mooncake",
        "lmcache": "workloads.readers.lmcache",
        "prefix_cache_evolve": "workloads.readers.prefix_cache_evolve",
        "oracle_general": "workloads.readers.oracle_general",
        "mooncake": "workloads.readers.mooncake",
        "vllm_events": "workloads.events.vllm",
        "sglang_events": "workloads.events.sglang",
        "spec": "workloads.readers.spec",
        "azure": "workloads.lengths.azure",
        "burstgpt": "workloads.lengths.burstgpt",
        "servegen": "workloads.lengths.servegen",
    }
)
"""Module by format, in the order in which they are asked whether a file is theirs: what has a mark of its own first."""

HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Head:
    """How a file begins.

    Attributes:
        path: The file or folder.
        raw: Its first bytes as they lie there; empty for a folder.
        start: The same unpacked, if it is gzip or zstd.
        first: The first line, if that is a whole JSON object.
    """

    path: Path
    raw: bytes
    start: bytes
    first: dict[str, Any] | None


def head(path: Path) -> Head:
    """Return how a file begins.

    Raises:
        TraceError: it cannot be read.
    """
    if path.is_dir():
        return Head(path, b"", b"", None)
    try:
        with path.open("rb") as handle:
            raw = handle.read(HEAD_BYTES)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error} - fix: check the path") from None
    start = _unpacked(raw)
    line = start.lstrip(b"\n\r").partition(b"\n")[0]
    try:
        first = json.loads(line) if line[:1] == b"{" else None
    except (ValueError, RecursionError):
        first = None
    return Head(path, raw, start, first)


def sniff(path: Path) -> str:
    """Tell the format of a file or folder from its contents.

    Raises:
        TraceError: unreadable, or none of the known ones.
    """
    begins = head(path)
    for name in MODULES:
        if module(name).matches(begins):
            return name
    raise TraceError(
        f"{path}: not a known trace format - fix: known are {', '.join(MODULES)}; write the format before the path,"
        " for example mooncake:PATH"
    )


def module(name: str) -> ModuleType:
    """Return the module of a format.

    Raises:
        TraceError: unknown name, with a suggestion.
    """
    if name not in MODULES:
        raise unknown_name("trace format", name, MODULES)
    return import_module(MODULES[name])


def gives_sessions(name: str) -> bool:
    """Return whether a format gives sessions, to be laid on a clock, rather than a trace."""
    return "SessionSet" in str(inspect.signature(module(name).read).return_annotation)


def is_generated(spec: str) -> bool:
    """Return whether a trace specification names what is made ("synthetic:chat"), not a file or a known trace."""
    kind, colon, _ = spec.partition("?")[0].partition(":")
    return bool(colon) and "/" not in kind and kind not in MODULES


def writer(path: Path, name: str | None = None) -> ModuleType:
    """Return the module of the format that a trace is written in.

    Args:
        path: The file; its suffix tells the format.
        name: The format; default: told by the suffix.

    Raises:
        TraceError: no such format, or none that can be written.
    """
    writable = {kind: module(kind) for kind in MODULES if hasattr(module(kind), "write")}
    if name is not None:
        if name not in writable:
            raise unknown_name("trace format that can be written", name, writable)
        return writable[name]
    for found in writable.values():
        if any(path.name.endswith(suffix) for suffix in found.SUFFIXES):
            return found
    known = ", ".join(suffix for found in writable.values() for suffix in found.SUFFIXES)
    raise TraceError(f"{path}: its suffix names no format that can be written - fix: end it in one of {known}")


def _unpacked(raw: bytes) -> bytes:
    """Return the first bytes behind gzip or zstd; what is neither, or damaged, as it is."""
    try:
        if raw[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(raw, HEAD_BYTES)
        if raw[:4] == b"\x28\xb5\x2f\xfd":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)) as stream:
                return bytes(stream.read(HEAD_BYTES))
    except (zlib.error, EOFError, gzip.BadGzipFile, ImportError):
        return raw
    except Exception as error:  # zstandard.ZstdError is no subclass of anything narrower
        if type(error).__name__ != "ZstdError":
            raise
    return raw
