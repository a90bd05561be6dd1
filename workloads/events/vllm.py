"""Recorded events of vLLM's KV cache, as a workload if they are full reports.

Knows what this format offers. Must not know how events lie in files.

Versions, all read: events as arrays, and as maps since pull request #42892; without ``medium`` before #19737;
hashes as integers or bytes. ``kv_cache_report_mode="full"`` exists since #45261, June 2026. Looked up in vLLM 0.33.0.
"""

from __future__ import annotations

import os
from pathlib import Path

from workloads.events import files
from workloads.events.accesses import as_trace
from workloads.formats import Head
from workloads.trace import Trace

SUMMARY = "events of vLLM's KV cache, full reports only; others: kvevolve fidelity --events"


def matches(head: Head) -> bool:
    """Return whether a file begins with KV-cache events; SGLang's look the same."""
    return files.matches(head.start)


def read(
    path: str | os.PathLike[str],
    name: str | None = None,
    rank: int | None = None,
    medium: str | None = None,
    group: int | None = None,
) -> Trace:
    """Read the requests that full reports show; see :mod:`workloads.events.accesses`.

    Args:
        path: The recording, see :mod:`workloads.events.files`.
        name: Name of the trace; default: the file's name without suffix.
        rank: Data-parallel rank; needed where there are several.
        medium: Where the blocks lie; by default the GPU.
        group: KV-cache group; needed where there are several.

    Returns:
        The trace.

    Raises:
        TraceError: naming file and message; events that are no full reports, with the reason.
    """
    file = Path(path)
    stream = files.choose(files.read_streams(file), str(file), rank, medium, group)
    return as_trace(stream, str(file), name or file.name.partition(".")[0])
