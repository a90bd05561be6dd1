"""Reads Parquet traces, whole or a batch at a time.

Knows the layout and pyarrow's reader. Must not know caches, nor what batches are read for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from workloads import chains, progress, validation
from workloads.batch import BATCH_REFS, U64, Batch
from workloads.columns import I32, I64, INT32_MAX, INT64_MAX
from workloads.errors import TraceError
from workloads.manifest import Manifest
from workloads.parquet.layout import KEY, REQUIRED, checked, decoded, placed, pyarrow
from workloads.trace import OPTIONAL_COLUMNS, Trace

BUFFER_BYTES = 1 << 20
"""Read-ahead per column, in place of a whole compressed row group."""


def read(path: str | os.PathLike[str], name: str | None = None, block_tokens: int | None = None) -> Trace:
    """Read a whole file.

    Args:
        path: The file.
        name: Name of the trace; default: the file's own.
        block_tokens: Tokens per block, for a file of another program that does not say.

    Raises:
        TraceError: naming file, row group, row, field, what was expected and the fix.
    """
    file = open_parquet(path, block_tokens)
    batches = list(file.batches())
    columns: dict[str, Any] = {
        key: np.concatenate([batch.per_request()[key] for batch in batches]) for key in batches[0].per_request()
    }
    starts = np.cumsum([0, *(batch.n_requests for batch in batches)])
    counts = np.concatenate([np.diff(batch.offsets) for batch in batches])
    offsets = np.concatenate(([0], np.cumsum(counts)))
    ids = _narrow([batch.block_ids for batch in batches])
    dense, n_blocks = chains.densify(ids)
    try:
        validation.check_chains(offsets, dense, n_blocks, ids)  # all other rules: `layout.checked`
    except TraceError as error:
        at = int(np.searchsorted(starts, error.request or 0, side="right")) - 1
        file.refuse(batches[at], (error.request or 0) - int(starts[at]), error)
    trace = Trace(
        name=name or file.manifest.name,
        block_tokens=file.manifest.block_tokens,
        offsets=offsets,
        block_ids=dense,
        provenance=file.manifest.full_provenance(),
        **columns,
    )
    if file.manifest.fingerprint not in (None, trace.fingerprint):
        raise TraceError(f"{path}: contents do not match the stored fingerprint; fix: make the file again")
    return trace


def _narrow(parts: list[U64]) -> I32 | I64:
    """Return ids in a row, in the narrowest type that chains take; what is too wide for any as ranks."""
    highest = max((int(part.max()) for part in parts if len(part)), default=0)
    if highest <= INT32_MAX:
        return np.concatenate([part.astype(np.int32) for part in parts])
    ids = np.concatenate(parts)
    return ids.view(np.int64) if highest <= INT64_MAX else np.unique(ids, return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class ParquetTrace:
    """A file whose header and schema have been read and checked, its rows not.

    Attributes:
        path: The file.
        manifest: What it says about itself.
        n_requests: Rows, from the footer.
        names: Columns of a trace it has.
    """

    path: Path
    manifest: Manifest
    n_requests: int
    names: tuple[str, ...]

    def input_tokens(self) -> Iterator[I64]:
        """Yield the prompt lengths, unchecked (`batches` refuses nonsense): what there is to replay; null as 0."""
        with _reading(self.path):
            for batch in self._open().iter_batches(columns=["input_tokens"], use_threads=False):
                yield batch.column(0).cast("int64", safe=False).fill_null(0).to_numpy(zero_copy_only=False)

    def batches(self, refs: int = BATCH_REFS) -> Iterator[Batch]:
        """Yield all requests in order, checked but for chains, at most ``refs`` references (or one request) at a time.

        Held at once are about ``refs`` references, one decoded page per column and the read-ahead, however large a
        row group is.

        Raises:
            TraceError: naming file, row group, row, field, what was expected and the fix.
        """
        latest, done, what = 0.0, 0, f"reading {self.path.name}, requests"
        with _reading(self.path):
            file = self._open()
            for group in range(file.num_row_groups):
                row = 0
                rows = _rows_per_batch(file.metadata.row_group(group), refs)
                read = file.iter_batches(rows, row_groups=[group], columns=list(self.names), use_threads=False)
                for record in read:
                    batch = self._batch(record, (group, row))
                    batch = checked(batch, self.manifest.block_tokens, latest, partial(self._at, batch))
                    row += batch.n_requests
                    done += batch.n_requests
                    progress.tell(what, done, self.n_requests)
                    latest = float(batch.arrival_s[-1]) if batch.n_requests else latest
                    yield from batch.pieces(refs)

    def refuse(self, batch: Batch, row: int, error: TraceError) -> NoReturn:
        """Raise an error about a request of a batch again, with its place in the file."""
        raise placed(error, self._at(batch, row)) from None

    def _at(self, batch: Batch, row: int) -> str:
        return f"{self.path}: row group {batch.place[0]}, row {batch.place[1] + row}"

    def _open(self) -> Any:
        return pyarrow()[1].ParquetFile(
            self.path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )

    def _batch(self, record: Any, place: tuple[int, int]) -> Batch:
        columns: dict[str, Any] = {}
        at = f"{self.path}: row group {place[0]}, row "
        for name in self.names:
            column = record.column(name)
            if column.null_count and name in OPTIONAL_COLUMNS:
                column = column.cast("int64").fill_null(-1)
            elif column.null_count:
                row = place[1] + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
                raise TraceError(f"{at}{row}: field {name!r}: expected a value, got null; fix: drop or fill the row")
            if name != "block_ids":
                columns[name] = column.to_numpy(zero_copy_only=False)
        offsets = column_offsets = record.column("block_ids").offsets.to_numpy().astype(np.int64)
        ids = record.column("block_ids").values[int(offsets[0]) : int(offsets[-1])]
        if ids.null_count:
            first = int(np.argmax(ids.is_null().to_numpy(zero_copy_only=False))) + int(offsets[0])
            row = place[1] + int(np.searchsorted(column_offsets, first, side="right")) - 1
            raise TraceError(f"{at}{row}: field 'block_ids': expected ids, got null among them; fix: drop the row")
        wide = ids.to_numpy(zero_copy_only=False)
        wide = wide.view(np.uint64) if wide.dtype.itemsize == 8 else wide.astype(np.uint64)
        return Batch(offsets=offsets - offsets[0], block_ids=wide, place=place, **columns)


def open_parquet(path: str | os.PathLike[str], block_tokens: int | None = None) -> ParquetTrace:
    """Read header and schema of a file.

    Args:
        path: The file.
        block_tokens: Tokens per block, for a file of another program that does not say.

    Raises:
        TraceError: no such file, not Parquet, or not such a schema; says what to do.
    """
    file, (arrow, parquet) = Path(path), pyarrow()
    with _reading(file):
        opened = parquet.ParquetFile(file)
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    manifest = decoded(file, (schema.metadata or {}).get(KEY), block_tokens)
    names = [name for name in (*REQUIRED, *OPTIONAL_COLUMNS) if name in schema.names]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise TraceError(
            f"{file}: no column {missing[0]!r}; it has {schema.names}; fix: rename columns, see workloads/parquet"
        )
    for name in names:
        _check_kind(arrow, file, name, schema.field(name).type)
    if rows == 0:
        raise TraceError(f"{file}: no requests in it; fix: check that this is the right file")
    return ParquetTrace(file, manifest, rows, tuple(names))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into ours."""
    arrow, _ = pyarrow()
    try:
        yield
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; fix: check the path") from None
    except (arrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise TraceError(
            f"{path}: not a readable Parquet file, or damaged ({reason}); fix: make the file again"
        ) from None


def _rows_per_batch(group: Any, refs: int) -> int:
    """Return how many rows of a row group have about `refs` references."""
    chunks = (group.column(i) for i in range(group.num_columns))
    values = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith("block_ids."))
    rows: int = refs * group.num_rows // max(values, 1)
    return max(1, rows)


def _check_kind(arrow: Any, file: Path, name: str, kind: Any) -> None:
    types = arrow.types
    if name == "arrival_s":
        fits, want = types.is_floating(kind) or types.is_integer(kind), "a number, seconds"
    elif name == "block_ids":
        fits = types.is_list(kind) or types.is_large_list(kind)
        fits, want = fits and types.is_integer(kind.value_type), "a list of uint64"
    else:
        fits, want = types.is_integer(kind), "int32"
    if not fits:
        raise TraceError(f"{file}: column {name!r}: expected {want}, got {kind}; fix: write it as that", field=name)
