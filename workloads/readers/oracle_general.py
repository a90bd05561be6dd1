"""libCacheSim's oracleGeneral: binary records of 24 bytes, one per object request, plain or zstd, in and out.

Knows that format. Must not know where the files are. Source: 1a1a11a/libCacheSim,
traceReader/customizedReader/oracle/oracleGeneralBin.h @ 08cc880; measured against libCacheSim 0.3.5.

A record, little endian, no padding: ``uint32`` time in s, ``uint64`` object id, ``uint32`` object size, ``int64``
number of the next record of the same object, -1 if there is none. The format knows objects, not prompts:

- out: one record per full block in the order of the prompt; partial tails, lengths, sessions and fractions of a second
  are lost, and requests without a full block leave no record. The object id is the block's: policies that hash it
  (W-TinyLFU) hit as they do here. If asked to, the writer marks requests so that they can be found again
  (``requests=marked``): the object id is then twice the block's, plus 1 for a prompt's first block. As ids are
  prefix-chained, a block is always first or never, so objects stay the same.
- in: every record is a request of one block, unless told otherwise. Sizes and next records are not used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from workloads import chains, progress
from workloads.columns import F64, I64, INT32_MAX, INT64_MAX
from workloads.errors import TraceError
from workloads.formats import Head
from workloads.readers.assemble import checked_repairs
from workloads.readers.packed import opened
from workloads.trace import Trace
from workloads.validation import check_block_tokens, check_times
from workloads.writers.packed import packed_write

SUMMARY = "libCacheSim's oracleGeneral, plain or zstd: blocks as objects, in and out"
SUFFIXES = (".oracleGeneral", ".oracleGeneral.zst", ".oracleGeneral.bin", ".oracleGeneral.bin.zst")
KEEPS = ()
RECORD = np.dtype([("time_s", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
REQUESTS = ("record", "time", "marked")

_CHUNK = 1 << 18  # records: 6 MB


def matches(head: Head) -> bool:
    """Return whether the name says so: records have no mark of their own."""
    return "oraclegeneral" in head.path.name.lower() and head.path.is_file()


def read(
    path: str | os.PathLike[str],
    block_tokens: int = 1,
    name: str | None = None,
    requests: str = "record",
    repair: str | Iterable[str] = (),
) -> Trace:
    """Read an oracleGeneral file.

    Args:
        path: The file, plain or packed.
        block_tokens: Tokens a block is taken to have; the file knows no tokens.
        name: Name of the trace; default: the file's name without suffixes.
        requests: What is a request: "record", each one, the default; "time", records of the same second that follow
            each other; "marked", the records from one with an odd id to the next, as :func:`write` marks them.
        repair: ``rechain`` re-keys ids by (path so far, id), for objects grouped to requests.

    Returns:
        The trace, without partial tails and outputs.

    Raises:
        TraceError: truncated, times that run backwards, or grouped objects that are not prefix-chained.
    """
    file = Path(path)
    check_block_tokens(block_tokens)
    if requests not in REQUESTS:
        raise TraceError(f"{file}: requests={requests!r}; fix: give one of {', '.join(REQUESTS)}")
    repairs = checked_repairs(repair, ("rechain",))
    times, ids = _read_columns(file)
    first = _first_records(file, times, ids, requests)
    offsets = np.append(first, len(ids)).astype(np.int64)
    made = {}
    if repairs and requests != "record":
        ids, made["rechain"] = chains.rechain(offsets, chains.densify(ids)[0])
    columns: dict[str, Any] = {
        "name": name or file.name.partition(".")[0],
        "block_tokens": block_tokens,
        "offsets": offsets,
        "block_ids": ids,
        "arrival_s": times[first].astype(np.float64),
        "input_tokens": np.diff(offsets) * block_tokens,
        "output_tokens": np.zeros(len(first), np.int32),
        "provenance": {
            "format": "oracle_general",
            "source": {"file": file.name, "bytes": file.stat().st_size},
            "time_unit": "s",
            "options": {"block_tokens": block_tokens, "requests": requests},
            "repairs": made,
            "not_recorded": "tokens, output lengths",
        },
    }
    try:
        return _single_blocks(**columns) if requests == "record" else Trace.build(**columns)
    except TraceError as error:
        raise _located(error, file, offsets) from None


def _located(error: TraceError, file: Path, offsets: I64) -> TraceError:
    """Add file and record to an error about a request, and the flag that would repair it."""
    hint = ", or pass repair='rechain'" if error.field == "block_ids" else ""
    at = "" if error.request is None else f" (record {int(offsets[error.request])})"
    return TraceError(f"{file}: {error.message}{at}{hint}", request=error.request, field=error.field)


def _single_blocks(*, block_ids: I64, arrival_s: F64, input_tokens: I64, **others: Any) -> Trace:
    """Build a trace of one-block requests: chained whatever the ids are, so only times are left to check."""
    check_times(arrival_s)
    dense, _ = chains.densify(block_ids)
    return Trace(block_ids=dense, arrival_s=arrival_s, input_tokens=input_tokens.astype(np.int32), **others)


def _read_columns(file: Path) -> tuple[Any, I64]:
    """Return the times uint32[n] and the ids of all records, numbered if they do not fit int64."""
    times: list[Any] = []
    ids: list[Any] = []
    buffer = bytearray(_CHUNK * RECORD.itemsize)
    read = 0
    with opened(file, lambda: f"{file}: record {read}") as (handle, packed, size):
        while filled := _fill(handle, buffer):
            records = np.frombuffer(buffer, RECORD, filled // RECORD.itemsize)
            times.append(records["time_s"].copy())
            ids.append(records["id"].copy())
            read += len(records)
            progress.tell(f"reading {file.name}, MB", packed.tell() / 1e6, size / 1e6)
            if filled % RECORD.itemsize:
                raise EOFError(f"{filled % RECORD.itemsize} bytes of a record of {RECORD.itemsize}")
            if read > INT32_MAX:
                raise TraceError(f"{file}: more than {INT32_MAX} records are not supported - fix: cut the file")
    if not read:
        raise TraceError(f"{file}: no records in it - fix: check that this is the right file")
    every = np.concatenate(ids)
    fit = int(every.max()) <= INT64_MAX
    numbers = every.view(np.int64) if fit else np.unique(every, return_inverse=True)[1].astype(np.int64)
    return np.concatenate(times), numbers


def _fill(handle: Any, buffer: bytearray) -> int:
    """Read until the buffer is full or the stream ends; return how many bytes."""
    filled = 0
    with memoryview(buffer) as view:
        while filled < len(buffer) and (count := handle.readinto(view[filled:])):
            filled += count
    return filled


def _first_records(file: Path, times: Any, ids: I64, requests: str) -> I64:
    """Return int64[n] the number of the first record of every request; takes the marks off ``ids``."""
    if requests == "record":
        return np.arange(len(ids), dtype=np.int64)
    if requests == "time":
        return np.append(0, np.flatnonzero(times[1:] != times[:-1]) + 1)
    first = np.flatnonzero(ids & 1)
    if not len(first) or first[0] != 0:
        raise TraceError(f"{file}: record 0: expected an odd id, the mark of a request - fix: pass requests=record")
    ids >>= 1
    return first


def write(trace: Trace, path: str | os.PathLike[str], block_bytes: int = 1, marked: bool = False) -> None:
    """Write a trace's blocks as objects, whole or not at all.

    Args:
        trace: What to write.
        path: File name, used as given, packed if it ends in ``.zst``; missing folders are created.
        block_bytes: Size of every object: KV bytes of a block, or 1 to measure caches in blocks.
        marked: Mark requests in the ids.

    Raises:
        TraceError: sizes or times that do not fit 32 bits, or no full block in the whole trace.
        OSError: the file cannot be written.
    """
    if not 1 <= block_bytes < 2**32:
        raise TraceError(f"block_bytes {block_bytes}: expected 1 to {2**32 - 1} (32 bits)")
    if not trace.n_refs or trace.arrival_s[-1] >= 2**32:
        raise TraceError(
            f"{trace.name}: {trace.n_refs} full blocks, last arrival {trace.arrival_s[-1]} s: this format needs blocks"
            " and times below 2**32 s - fix: choose another format or slice the trace"
        )
    objects = np.arange(trace.n_blocks, dtype=np.uint64)
    if marked:
        objects *= np.uint64(2)
        objects[np.unique(trace.block_ids[trace.offsets[:-1][trace.full_blocks > 0]])] += np.uint64(1)
    with packed_write(Path(path)) as handle:
        for start in range(0, trace.n_refs, _CHUNK):
            handle.write(_records(trace, start, min(start + _CHUNK, trace.n_refs), objects, block_bytes).tobytes())
            progress.tell(f"writing {Path(path).name}, records", start, trace.n_refs)


def _records(trace: Trace, start: int, stop: int, objects: Any, block_bytes: int) -> Any:
    """Return the records of block references ``start`` to ``stop - 1``."""
    ids, following = trace.block_ids[start:stop], trace.next_use[start:stop]
    request = np.searchsorted(trace.offsets, np.arange(start, stop), side="right") - 1
    records = np.empty(stop - start, RECORD)
    records["time_s"] = trace.arrival_s[request].astype(np.uint32)
    records["id"] = objects[ids]
    records["size"] = block_bytes
    records["next"] = np.where(following < trace.n_refs, following, -1)
    return records
