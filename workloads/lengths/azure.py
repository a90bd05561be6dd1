"""Azure's inference traces of 2023, 2024 and 2025: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Knows that format. Source: Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.md, 2024.md (@ 04e28b8) and
AzureLMMInferenceDataset2025.md (@ 517b239); CC-BY-4.0. 2023 writes seven decimals and no zone; 2024 microseconds and
``+00:00``; 2025 adds ``NumImages``. 2023 measured on the real files, 2024 and 2025 from source, not measured.
"""

from __future__ import annotations

import os
import re
from array import array
from datetime import date
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
_TIME = re.compile(
    r"\s*((?:19|20)\d\d-\d\d-\d\d)[ T]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?\s*", re.ASCII
)


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
    times, inputs, outputs = array("q"), array("i"), array("i")
    days: dict[str, int] = {}
    images = 0
    needed = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    for time, context, generated, pictures in source.columns(needed, ("NumImages",)):
        found = _TIME.fullmatch(time)
        if found is None:
            raise source.fault("TIMESTAMP", "a time such as 2023-11-16 18:15:46.6805900, UTC", time)
        day, hours, minutes, seconds, decimals = found.groups("")
        if day not in days:
            days[day] = _day(source, day)
        of_day = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
        times.append((days[day] * 86_400 + of_day) * 10**9 + int(decimals.ljust(9, "0")))
        inputs.append(source.tokens("ContextTokens", context))
        outputs.append(source.tokens("GeneratedTokens", generated))
        images += bool(pictures) and source.tokens("NumImages", pictures) > 0
    nanoseconds = np.array(times)
    arrival_s = (nanoseconds - (nanoseconds.min() if times else 0)) / 1e9
    facts: dict[str, object] = {"format": "azure", "source": source_of(source.path), "requests_with_images": images}
    return in_order(source, arrival_s, inputs, outputs, None, facts)


def _day(source: CsvRows, text: str) -> int:
    """Return the number of a day."""
    try:
        return date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        raise source.fault("TIMESTAMP", "a day that exists", text) from None
