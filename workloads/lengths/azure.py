"""Azure's inference traces of 2023, 2024 and 2025: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Knows that format. Source: Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.md, 2024.md (@ 04e28b8) and
AzureLMMInferenceDataset2025.md (@ 517b239); CC-BY-4.0. 2023 writes seven decimals and no zone; 2024 microseconds and
``+00:00``; 2025 adds ``NumImages``. 2023 measured on the real files, 2024 and 2025 from source, not measured.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workloads.lengths.rows import CsvRows, in_order
from workloads.lengths.trace import LengthTrace
from workloads.readers.lines import source_of
from workloads.trace import Trace

if TYPE_CHECKING:
    from workloads.formats import Head

SUMMARY = "Azure 2023-2025: arrivals and lengths, no blocks; for workload specifications"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?", re.ASCII)


def matches(head: Head) -> bool:
    """Return whether the header is Azure's."""
    return head.start.lstrip(b"\xef\xbb\xbf").startswith(b"TIMESTAMP,") and b"ContextTokens" in head.start[:200]


def read(path: str | os.PathLike[str]) -> Trace:
    """Refuse the file as a trace; :func:`read_lengths` reads it."""
    from workloads.lengths import refused

    raise refused(path, "an Azure inference trace")


def read_lengths(path: str | os.PathLike[str]) -> LengthTrace:
    """Read a file, plain, gzipped or zstd.

    Returns:
        The requests in order of time. Provenance counts requests with images (2025).

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    source = CsvRows(Path(path))
    times, inputs, outputs = list[str](), list[int](), list[int]()
    images = 0
    for time, context, generated, pictures in source.columns(
        ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), ("NumImages",)
    ):
        found = _TIME.fullmatch(time.strip())
        if found is None:
            source.refuse("TIMESTAMP", "a time such as 2023-11-16 18:15:46.6805900, UTC", time)
        stamp = f"{found[1]}T{found[2]}"
        try:
            np.datetime64(stamp, "ns")
        except ValueError:
            source.refuse("TIMESTAMP", "a date and time that exist", time)
        times.append(stamp)
        inputs.append(source.tokens("ContextTokens", context))
        outputs.append(source.tokens("GeneratedTokens", generated))
        images += bool(pictures) and source.tokens("NumImages", pictures) > 0
    nanoseconds = np.array(times, "datetime64[ns]").astype(np.int64)
    seconds = (nanoseconds - (nanoseconds.min() if times else 0)) / 1e9
    facts: dict[str, object] = {"format": "azure", "source": source_of(source.path), "requests_with_images": images}
    return in_order(source, seconds, inputs, outputs, None, facts)
