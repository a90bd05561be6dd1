"""Workload specifications as a format of traces: what is in the file is made when it is read.

Knows how such a file is told from others. Must not know what a specification holds.
"""

from __future__ import annotations

import os
import re

from workloads.formats import Head
from workloads.trace import Trace

SUMMARY = "a workload specification in YAML, made into a trace when read"
_MARK = re.compile(rb"^[ \t]*[\"']?format[\"']?\s*+:\s*+[\"']?kvevolve-workload\b", re.MULTILINE)


def matches(head: Head) -> bool:
    """Return whether the file says it is a specification."""
    return _MARK.search(head.start) is not None


def read(
    path: str | os.PathLike[str], seed: int | None = None, requests: int | None = None, block_tokens: int | None = None
) -> Trace:
    """Make the trace of a specification.

    Args:
        path: The file.
        seed: Seed instead of the specification's.
        requests: Requests instead of the specification's.
        block_tokens: Tokens per block instead of the specification's.

    Raises:
        TraceError: as :func:`workloads.spec.load_spec` and :func:`workloads.spec.generate`.
    """
    from workloads.spec import generate, load_spec  # pydantic takes its time to import

    return generate(load_spec(path), seed, requests, block_tokens)
