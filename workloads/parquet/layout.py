"""The layout of a Parquet trace: its columns and manifest, and the rules a batch of its rows obeys.

Knows names, types and how a refusal names its place. Must not know how files are read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workloads import validation
from workloads.batch import Batch
from workloads.columns import INT32_MAX, integers, seconds
from workloads.errors import TraceError
from workloads.manifest import Manifest, decode, encode
from workloads.trace import OPTIONAL_COLUMNS

FORMAT, VERSION, KEY = "kvevolve-parquet", 2, b"kvevolve"
REQUIRED = ("arrival_s", "input_tokens", "output_tokens", "block_ids")


def pyarrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet.

    Raises:
        TraceError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TraceError("Parquet files need pyarrow; fix: pip install 'kvevolve[parquet]'") from None
    return pyarrow, pyarrow.parquet


def encoded(manifest: Manifest) -> bytes:
    """Return the value of the metadata key."""
    return encode(manifest, FORMAT, VERSION)


def decoded(path: Path, raw: bytes | None, block_tokens: int | None) -> Manifest:
    """Read the value of the metadata key.

    Args:
        path: The file, for messages.
        raw: The value, None if the file has no such key.
        block_tokens: What the caller says; must agree with the file where both speak.

    Raises:
        TraceError: not such a value, another version, or nobody says how large a block is.
    """
    if raw is None:
        if block_tokens is None:
            raise TraceError(
                f"{path}: no metadata key {KEY.decode()!r}, so the block size is unknown; fix: name it, for example"
                f" parquet:{path}?block_tokens=64"
            )
        validation.check_block_tokens(block_tokens)
        return Manifest(path.stem, block_tokens)
    try:
        manifest = decode(raw, FORMAT, VERSION)
    except TraceError as error:
        raise TraceError(
            f"{path}: metadata key {KEY.decode()!r}: {error.message}; fix: make the file again from its source",
            field=error.field,
        ) from None
    if block_tokens not in (None, manifest.block_tokens):
        raise TraceError(f"{path}: option block_tokens {block_tokens}, but the file says {manifest.block_tokens}")
    return manifest


def checked(batch: Batch, block_tokens: int, latest_s: float, at: Callable[[int], str]) -> Batch:
    """Check a batch against every rule of a trace but prefix chaining; return it with columns of their final types.

    Args:
        batch: The requests.
        block_tokens: Tokens per block.
        latest_s: Arrival of the request before the first.
        at: Names the place of a row of the batch.

    Raises:
        TraceError: the first rule broken, with its place.
    """
    try:
        columns: dict[str, Any] = {"arrival_s": seconds(batch.arrival_s, "arrival_s")}
        for name, values in batch.per_request().items():
            if name != "arrival_s":
                low = {"input_tokens": 0, "output_tokens": 0, "priority": -INT32_MAX}.get(name, -1)
                columns[name] = integers(values, name, low, INT32_MAX).astype(np.int32)
        validation.check_times(np.concatenate(([latest_s], columns["arrival_s"])))
        validation.check_block_counts(batch.offsets, columns["input_tokens"], block_tokens)
    except TraceError as error:
        shift = error.field == "arrival_s" and error.message.startswith("request")  # counts from the one before
        raise placed(error, at((error.request or 0) - shift)) from None
    return replace(batch, **columns)


def placed(error: TraceError, place: str) -> TraceError:
    """Return an error about a request of a batch, with its place in the file for the number in the batch."""
    if error.request is None:
        return TraceError(f"{place.partition(': ')[0]}: {error.message}", field=error.field)
    return TraceError(f"{place}: {error.message.partition(': ')[2]}", field=error.field)


def optional_columns(names: tuple[str, ...] | list[str]) -> list[str]:
    """Return the optional columns among some names, in the order of the layout."""
    return [name for name in OPTIONAL_COLUMNS if name in names]
