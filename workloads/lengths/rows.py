"""The rows of CSV files, each with its line.

Knows CSV, packed files and how a fault in a field is worded. Must not know any format's columns.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np

from workloads import progress
from workloads.columns import F64, INT32_MAX
from workloads.errors import TraceError
from workloads.lengths.trace import LengthTrace
from workloads.readers.packed import opened

_TELL_ROWS = 1 << 16


class CsvRows:
    """The rows of one file.

    Attributes:
        path: The file.
        line: Line of the row last read, from 1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0

    def rows(self) -> Iterator[list[str]]:
        """Yield every row that is not empty.

        Raises:
            TraceError: no such file, damaged, or not CSV.
        """
        try:
            with opened(self.path, lambda: f"{self.path}:{self.line}") as (raw, file, size):
                reader = csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), strict=True)
                for count, row in enumerate(reader):
                    self.line = reader.line_num
                    if count % _TELL_ROWS == 0:
                        progress.tell(f"reading {self.path.name}, MB", file.tell() / 1e6, size / 1e6)
                    if row:
                        yield row
        except (csv.Error, UnicodeError) as error:
            raise TraceError(
                f"{self.path}:{self.line + 1}: not CSV text ({error}) - fix: repair the line, or check the file"
            ) from None

    def columns(self, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
        """Yield the named columns of every row after the header; an optional one that is absent is empty.

        Raises:
            TraceError: as :meth:`rows`, a column missing or named twice, or a row of another length than the header.
        """
        rows = self.rows()
        header = [name.strip() for name in next(rows, [])]
        for name in (*needed, *optional):
            if header.count(name) > 1 or (name in needed and name not in header):
                raise TraceError(
                    f"{self.path}:1: field {name!r}: expected one column of this name, got {header}"
                    " - fix: check that this is the right file, with its header"
                )
        at = [header.index(name) if name in header else len(header) for name in (*needed, *optional)]
        picked = itemgetter(*at) if len(at) > 1 else lambda row: (row[at[0]],)
        for row in rows:
            if len(row) != len(header):
                raise TraceError(
                    f"{self.path}:{self.line}: expected {len(header)} fields, got {len(row)}"
                    " - fix: repair or remove the line; the last of a truncated file is short"
                )
            row.append("")  # the column that is absent
            yield picked(row)

    def fault(self, field: str, expected: str, got: str) -> TraceError:
        """Return the error for one field of the current row."""
        shown = got if len(got) <= 60 else f"{got[:60]}..."
        return TraceError(
            f"{self.path}:{self.line}: field {field!r}: expected {expected}, got {shown!r}"
            " - fix: repair or remove the line",
            field=field,
        )

    def tokens(self, field: str, text: str) -> int:
        """Return a field that counts tokens."""
        if text.isdecimal() and len(text) <= 10 and (count := int(text)) <= INT32_MAX:
            return count
        raise self.fault(field, f"an integer from 0 to {INT32_MAX}", text)

    def number(self, field: str, text: str) -> float:
        """Return a field that is a finite number >= 0."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and 0 <= value <= 1e15 and "_" not in text:
            return value
        raise self.fault(field, "a finite number >= 0", text)


def in_order(
    rows: CsvRows,
    arrival_s: F64,
    inputs: Sequence[int],
    outputs: Sequence[int],
    session: Sequence[int] | None,
    provenance: dict[str, object],
) -> LengthTrace:
    """Return the trace of a file's requests, sorted by time, stably; how many ran backwards goes into provenance.

    Raises:
        TraceError: no requests.
    """
    if not len(arrival_s):
        raise TraceError(f"{rows.path}: no requests in it - fix: check that this is the right file")
    late = int((arrival_s < np.maximum.accumulate(arrival_s)).sum())
    order = np.argsort(arrival_s, kind="stable")
    return LengthTrace(
        name=rows.path.name.partition(".")[0],
        arrival_s=arrival_s[order] - arrival_s.min(),
        input_tokens=np.array(inputs, np.int32)[order],
        output_tokens=np.array(outputs, np.int32)[order],
        session=None if session is None else np.array(session, np.int32)[order],
        provenance=provenance | {"requests_out_of_order": late},
    )
