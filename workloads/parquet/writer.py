"""Writes Parquet traces, whole or not at all, one batch in memory.

Knows the layout and pyarrow's writer. Must not know where requests come from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from workloads import progress, validation
from workloads.atomic import atomic_write
from workloads.batch import BATCH_REFS, Batch, batch_of
from workloads.errors import TraceError
from workloads.manifest import Manifest, manifest_of
from workloads.parquet.layout import KEY, REQUIRED, checked, encoded, optional_columns, pyarrow
from workloads.trace import Trace

ROW_GROUP_REFS = 4 * BATCH_REFS
"""References per row group written: 32 MiB of ids, what a reader of another program may have to hold."""


def write(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace, whole or not at all.

    Raises:
        OSError: the file cannot be written.
        TraceError: pyarrow is not installed.
    """
    write_batches(batch_of(trace).pieces(BATCH_REFS), path, manifest_of(trace))


def write_batches(batches: Iterable[Batch], path: str | os.PathLike[str], manifest: Manifest) -> int:
    """Write batches, one at a time in memory, as a whole file or not at all.

    Args:
        batches: Requests in order of arrival, all with the same optional columns.
        path: File name, used as given; missing folders are created.
        manifest: What to say about them; `distinct_blocks` is believed.

    Returns:
        Number of requests written.

    Raises:
        OSError: the file cannot be written.
        TraceError: a batch breaks a rule of a trace (chains are checked when the file is read), or has other columns
            than the first, or there is no request at all.
    """
    arrow, parquet = pyarrow()
    validation.check_block_tokens(manifest.block_tokens)
    file, writer, group, done, latest = Path(path), None, _RowGroup(arrow), 0, 0.0
    with atomic_write(file) as handle, ExitStack() as stack:
        for batch in batches:
            good = checked(batch, manifest.block_tokens, latest, partial(_place, file, done))
            names = tuple(good.per_request())
            schema = _schema(arrow, names).with_metadata({KEY: encoded(manifest)})
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(handle, schema, **_layout(names)))
            if writer.schema.names != schema.names:
                both = f"columns {writer.schema.names} and {schema.names}"
                raise TraceError(f"{file}: batches with {both}; fix: give every batch the same optional columns")
            for piece in good.pieces(BATCH_REFS):
                group.add(_table(arrow, piece, schema), piece.n_refs, writer)
                latest = float(piece.arrival_s[-1])
            done += good.n_requests
            progress.tell(f"writing {file.name}, requests", done)
        if writer is None or done == 0:
            raise TraceError(f"{file}: no requests to write; a trace needs at least one request")
        group.flush(writer)
    return done


class _RowGroup:
    """Rows on their way into one row group."""

    def __init__(self, arrow: Any) -> None:
        self._arrow, self._refs = arrow, 0
        self._tables: list[Any] = []

    def add(self, table: Any, refs: int, writer: Any) -> None:
        self._tables.append(table)
        self._refs += refs
        if self._refs >= ROW_GROUP_REFS:
            self.flush(writer)

    def flush(self, writer: Any) -> None:
        if self._tables:
            table = self._arrow.concat_tables(self._tables)
            writer.write_table(table, row_group_size=table.num_rows)
        self._tables, self._refs = [], 0


def _schema(arrow: Any, names: tuple[str, ...]) -> Any:
    kinds = {"arrival_s": arrow.float64(), "block_ids": arrow.list_(arrow.field("element", arrow.uint64(), False))}
    columns = [*REQUIRED, *optional_columns(names)]
    return arrow.schema([arrow.field(name, kinds.get(name, arrow.int32()), False) for name in columns])


def _layout(names: tuple[str, ...]) -> dict[str, Any]:
    """Return how columns are laid out: ids that follow each other, as dense ids do, take next to no room as deltas."""
    return {
        "compression": "zstd",
        "use_dictionary": optional_columns(names),
        "column_encoding": {"block_ids.list.element": "DELTA_BINARY_PACKED"},
        "write_page_checksum": True,
    }


def _table(arrow: Any, batch: Batch, schema: Any) -> Any:
    columns = batch.per_request()
    columns["block_ids"] = arrow.ListArray.from_arrays(
        arrow.array(batch.offsets.astype(np.int32)), arrow.array(batch.block_ids), type=schema.field("block_ids").type
    )
    return arrow.table([columns[name] for name in schema.names], schema=schema)


def _place(file: Path, start: int, row: int) -> str:
    return f"{file}: request {start + row} to be written"
