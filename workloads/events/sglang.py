"""Recorded events of SGLang's KV cache: never a workload.

Knows that. Must not know how events lie in files: as vLLM's do, and :func:`workloads.events.read_streams` reads them.
SGLang 0.5.23 reports pages stored and removed (``sglang/srt/mem_cache/events.py``): a page is a block of ``page_size``
tokens, its hash the first 8 bytes of a chained SHA-256 as int64; successive pages and removals are merged into one
event; the media are GPU, CPU_PINNED, DISK and EXTERNAL. It has nothing like vLLM's full reports.
"""

from __future__ import annotations

import os

from workloads.errors import TraceError
from workloads.formats import Head
from workloads.trace import Trace

SUMMARY = "events of SGLang's KV cache; no workload: kvevolve fidelity --events"


def matches(head: Head) -> bool:
    """Return False: nothing tells them from vLLM's."""
    return False


def read(path: str | os.PathLike[str]) -> Trace:
    """Refuse: see the module's docstring.

    Raises:
        TraceError: always.
    """
    raise TraceError(
        f"{path}: SGLang's events show what its cache stores and evicts, not what was asked for, and are no workload"
        " - fix: compare them with a trace: kvevolve fidelity TRACE --engine sglang --events FILE"
    )
