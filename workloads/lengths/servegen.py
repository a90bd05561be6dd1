"""ServeGen: request rates per window, raw (one file a client) or summed over clients.

Knows both forms. Raw, without a header: window start in s, requests per s, CV of the times between requests, Gamma or
Weibull (may be empty), shape, scale; a folder of ``chunk-*-trace.csv`` is summed. Summed, with a header:
``workload,t_s,rate_rps``. Idle windows are left out. Source: alibaba/ServeGen @ f891d11 (README, data structure; Xiang
et al., NSDI'26, arXiv 2505.09999); Apache-2.0. The raw columns as inference-sim's reader takes them (sim/workload/
servegen.go), from source, not measured; the summed form measured on the real file.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workloads.errors import TraceError, unknown_name
from workloads.lengths.rows import CsvRows
from workloads.lengths.trace import RateTrace
from workloads.readers.lines import source_of
from workloads.trace import Trace

if TYPE_CHECKING:
    from workloads.formats import Head

SUMMARY = "ServeGen: request rates, no requests; for workload specifications"
WINDOW_S = 600.0
_HEADER = ["workload", "t_s", "rate_rps"]
_RAW = re.compile(rb"\d+(\.\d+)?,[-+.\deE]+,[-+.\deE]*,(Gamma|Weibull)?\s*(,|\r|\n|$)", re.ASCII)
_CHUNKS = "chunk-*-trace.csv"


def matches(head: Head) -> bool:
    """Return whether the file begins like one of both forms, or the folder has client files."""
    if head.path.is_dir():
        return any(head.path.glob(_CHUNKS))
    return head.start.startswith(",".join(_HEADER).encode()) or _RAW.match(head.start) is not None


def read(path: str | os.PathLike[str]) -> Trace:
    """Refuse the file as a trace; :func:`read_lengths` reads it."""
    from workloads.lengths import refused

    raise refused(path, "ServeGen's request rates")


def read_lengths(path: str | os.PathLike[str], workload: str | None = None) -> RateTrace:
    """Read rates.

    Args:
        path: A file of one client, a folder of them, or a file summed over clients.
        workload: Which of the workloads in a summed file; not needed if there is one.

    Returns:
        The rates. Of one client with its burstiness (mean over windows, weighted by rate); what a sum of clients has is
        not recorded.

    Raises:
        TraceError: naming file, line, field, what was expected and the fix.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    source = CsvRows(place)
    first = next(source.rows(), [])
    if [name.strip() for name in first] == _HEADER:
        return _summed(place, workload)
    if workload is not None:
        raise TraceError(f"{place}: a file of one client has no workloads - fix: leave out workload={workload}")
    rates, spreads = _client(place)
    mean = sum(rate * spreads[t] for t, rate in rates.items() if t in spreads)
    covered = sum(rate for t, rate in rates.items() if t in spreads)
    return _rates(place, place.name.partition(".")[0], rates, mean / covered if covered else None, source_of(place))


def _summed(path: Path, workload: str | None) -> RateTrace:
    source = CsvRows(path)
    tables: dict[str, dict[float, float]] = defaultdict(dict)
    for name, start, rate in source.columns(_HEADER):
        t_s = source.number("t_s", start)
        if t_s in tables[name]:
            raise source.fault("t_s", f"each window of {name} once", start)
        tables[name][t_s] = source.number("rate_rps", rate)
    if not tables:
        raise TraceError(f"{path}: no windows in it - fix: check that this is the right file")
    if workload is None:
        if len(tables) > 1:
            raise TraceError(f"{path}: several workloads - fix: add ?workload= with one of {', '.join(tables)}")
        workload = next(iter(tables))
    if workload not in tables:
        raise unknown_name(f"workload of {path}", workload, tables)
    return _rates(path, workload, tables[workload], None, source_of(path) | {"workload": workload})


def _folder(folder: Path) -> RateTrace:
    total: dict[float, float] = defaultdict(float)
    files = sorted(folder.glob(_CHUNKS))
    if not files:
        raise TraceError(f"{folder}: no {_CHUNKS} in it - fix: name the folder of one model")
    for path in files:
        for t_s, rate in _client(path)[0].items():
            total[t_s] += rate
    return _rates(folder, folder.name, total, None, {"folder": folder.name, "clients": len(files)})


def _client(path: Path) -> tuple[dict[float, float], dict[float, float]]:
    """Return rates and coefficients of variation of one client, by window start."""
    source = CsvRows(path)
    rates: dict[float, float] = {}
    spreads: dict[float, float] = {}
    for row in source.rows():
        if len(row) not in (4, 6):
            raise TraceError(
                f"{path}:{source.line}: expected 4 or 6 fields (start, rate, CV, distribution, shape, scale), got"
                f" {len(row)} - fix: repair or remove the line"
            )
        t_s = source.number("window start", row[0])
        if t_s in rates:
            raise source.fault("window start", "each window once", row[0])
        rates[t_s] = source.number("rate", row[1])
        if row[3].strip() not in ("", "Gamma", "Weibull"):
            raise source.fault("distribution", "Gamma, Weibull or nothing", row[3])
        if row[2].strip():
            spreads[t_s] = source.number("CV", row[2])
    return rates, spreads


def _rates(
    path: Path, name: str, rates: dict[float, float], burstiness: float | None, source: dict[str, object]
) -> RateTrace:
    """Return windows in order of time, those without traffic left out."""
    starts = np.array(sorted(t_s for t_s, rate in rates.items() if rate > 0))
    if not len(starts):
        raise TraceError(f"{path}: no window with traffic in it - fix: check that this is the right file")
    window_s = float(np.diff(starts).min()) if len(starts) > 1 else WINDOW_S
    values = np.array([rates[t_s] for t_s in starts.tolist()])
    return RateTrace(name, starts, values, window_s, burstiness, {"format": "servegen", "source": source})
