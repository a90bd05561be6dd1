"""BurstGPT: ``Timestamp,[Session ID,Elapsed time,]Model,Request tokens,Response tokens,Total tokens,Log Type``.

Knows that format. Source: HPMLL/BurstGPT, releases v1.1 (six columns) and v2.0 (with sessions and elapsed time);
CC-BY-4.0; Wang et al., KDD'25. Timestamps are seconds from an origin of their own, API calls have a blank session, and
failed requests have 0 response tokens. From source, not measured.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workloads.lengths.rows import CsvRows, in_order
from workloads.lengths.trace import LengthTrace
from workloads.readers.lines import source_of
from workloads.trace import Trace

if TYPE_CHECKING:
    from workloads.formats import Head

SUMMARY = "BurstGPT: arrivals, lengths and sessions, no blocks; for workload specifications"


def matches(head: Head) -> bool:
    """Return whether the header is BurstGPT's."""
    line = head.start.lstrip(b"\xef\xbb\xbf").partition(b"\n")[0]
    return line.startswith(b"Timestamp,") and b"Request tokens" in line


def read(path: str | os.PathLike[str]) -> Trace:
    """Refuse the file as a trace; :func:`read_lengths` reads it."""
    from workloads.lengths import refused

    raise refused(path, "a BurstGPT trace")


def read_lengths(path: str | os.PathLike[str]) -> LengthTrace:
    """Read a file, plain, gzipped or zstd.

    Returns:
        The requests that did not fail, in order of time; provenance counts the failures dropped. Sessions if the file
        has them, -1 for API calls.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    source = CsvRows(Path(path))
    times, inputs, outputs, session = array("d"), array("i"), array("i"), array("i")
    known: dict[str, int] = {}
    failed = 0
    needed = ("Timestamp", "Request tokens", "Response tokens")
    for time, request, response, label in source.columns(needed, ("Session ID",)):
        output = source.tokens("Response tokens", response)
        when, tokens = source.number("Timestamp", time), source.tokens("Request tokens", request)
        if output == 0:
            failed += 1
            continue
        times.append(when)
        inputs.append(tokens)
        outputs.append(output)
        session.append(known.setdefault(label, len(known)) if label else -1)
    facts: dict[str, object] = {"format": "burstgpt", "source": source_of(source.path), "failures_dropped": failed}
    return in_order(source, np.array(times), inputs, outputs, session if known else None, facts)
