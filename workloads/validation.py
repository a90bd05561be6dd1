"""What makes columns a trace.

Knows every rule a trace obeys and refuses what breaks one, naming request and field. Must not know file formats, nor
repair anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from workloads import chains
from workloads.columns import F64, I32, I64, INT32_MAX, INT64_MAX, integers, seconds
from workloads.errors import TraceError

if TYPE_CHECKING:
    from workloads.trace import Trace

Columns = dict[str, I32 | I64 | F64 | None]


def checked_columns(
    *,
    block_tokens: int,
    offsets: npt.ArrayLike,
    block_ids: npt.ArrayLike,
    arrival_s: npt.ArrayLike,
    input_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    optional: dict[str, npt.ArrayLike | None],
) -> Columns:
    """Check raw columns and return fresh ones in their final dtypes, ids dense in order of first appearance.

    Args:
        block_tokens: Tokens per block, >= 1.
        offsets: [n + 1] CSR over ``block_ids``.
        block_ids: [n_refs] non-negative integers.
        arrival_s: [n] seconds.
        input_tokens: [n] prompt lengths, >= 0.
        output_tokens: [n] output lengths, >= 0.
        optional: Optional columns by name, [n] each or None.

    Returns:
        Every column of :class:`workloads.trace.Trace` by name (None where absent).

    Raises:
        TraceError: the first rule broken, with request index and field where there is one.
    """
    check_block_tokens(block_tokens)
    rows = integers(offsets, "offsets", 0, INT32_MAX)
    ids = integers(block_ids, "block_ids", 0, INT64_MAX)
    arrivals = seconds(arrival_s, "arrival_s")
    inputs = integers(input_tokens, "input_tokens", 0, INT32_MAX).astype(np.int32)
    outputs = integers(output_tokens, "output_tokens", 0, INT32_MAX).astype(np.int32)
    extra: Columns = {}
    for name, values in optional.items():
        low = -INT32_MAX if name == "priority" else -1
        extra[name] = None if values is None else integers(values, name, low, INT32_MAX).astype(np.int32)
    _check_shapes(rows, ids, {"arrival_s": arrivals, "input_tokens": inputs, "output_tokens": outputs, **extra})
    check_times(arrivals)
    check_block_counts(rows, inputs, block_tokens)
    dense, n_blocks = chains.densify(ids)
    check_chains(rows, dense, n_blocks, ids)
    return {
        "offsets": rows,
        "block_ids": dense,
        "arrival_s": arrivals,
        "input_tokens": inputs,
        "output_tokens": outputs,
        **extra,
    }


def check_block_tokens(block_tokens: object) -> None:
    """Refuse a block size that is not a positive integer."""
    if type(block_tokens) is not int or not 1 <= block_tokens <= INT32_MAX:
        raise TraceError(f"field 'block_tokens': expected an integer >= 1, got {block_tokens!r}", field="block_tokens")


def check_times(arrival_s: F64) -> None:
    """Refuse arrivals that run backwards."""
    late = np.flatnonzero(np.diff(arrival_s) < 0)
    if late.size:
        row = int(late[0]) + 1
        raise TraceError(
            f"request {row}: field 'arrival_s': expected >= {arrival_s[row - 1]} (the request before),"
            f" got {arrival_s[row]}; fix: sort requests by time, stably",
            request=row,
            field="arrival_s",
        )


def check_block_counts(offsets: I64, input_tokens: I32, block_tokens: int) -> None:
    """Refuse a request whose number of ids is not its number of full blocks."""
    have = np.diff(offsets)
    want = input_tokens.astype(np.int64) // block_tokens
    wrong = np.flatnonzero(have != want)
    if wrong.size:
        row = int(wrong[0])
        raise TraceError(
            f"request {row}: field 'block_ids': expected {want[row]} ids = input_tokens {input_tokens[row]}"
            f" // block_tokens {block_tokens}, got {have[row]}; fix: list full blocks only, no partial tail",
            request=row,
            field="block_ids",
        )


def check_chains(offsets: I64, dense: I32, n_blocks: int, shown: I64 | I32) -> None:
    """Refuse ids that are not prefix-chained.

    Args:
        offsets: int64[n + 1].
        dense: int32[n_refs] dense ids in order of first appearance.
        n_blocks: Number of distinct ids.
        shown: [n_refs] the ids as the source wrote them, for the message.
    """
    before = chains.predecessors(offsets, dense)
    at = chains.first_violation(before, dense, chains.parents(before, dense, n_blocks))
    if at >= 0:
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        position = at - int(offsets[row])
        follows = "no block" if position == 0 else f"block id {shown[at - 1]}"
        raise TraceError(
            f"request {row}: field 'block_ids': block id {shown[at]} at position {position} follows {follows}, but"
            " followed another block before; expected prefix-chained ids (equal id = equal whole prefix);"
            " fix: re-key ids by (path so far, id)",
            request=row,
            field="block_ids",
        )


def check_dense(block_ids: I32) -> None:
    """Refuse ids that are not 0..n-1 in order of first appearance."""
    if not chains.is_dense(block_ids):
        raise TraceError("field 'block_ids': expected dense ids in order of first appearance", field="block_ids")


def _check_shapes(offsets: I64, ids: I64 | I32, columns: Columns) -> None:
    n_requests = len(offsets) - 1
    if n_requests < 1:
        raise TraceError("field 'offsets': a trace needs at least one request", field="offsets")
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
        raise TraceError(
            f"field 'offsets': expected 0 = offsets[0] <= ... <= offsets[-1] = {len(ids)}, got"
            f" {offsets[0]} ... {offsets[-1]}",
            field="offsets",
        )
    for name, column in columns.items():
        if column is not None and len(column) != n_requests:
            raise TraceError(f"field {name!r}: expected {n_requests} values, got {len(column)}", field=name)


def check_stored(trace: Trace) -> None:
    """Check every rule on a trace whose columns already have their final dtypes (the cheap path of a load)."""
    check_block_tokens(trace.block_tokens)
    columns = trace.columns()
    per_request: Columns = {k: v for k, v in columns.items() if k not in ("offsets", "block_ids")}
    _check_shapes(trace.offsets, trace.block_ids, per_request)
    for name, column in per_request.items():
        if name == "arrival_s":
            seconds(trace.arrival_s, name)
        elif name != "priority" and column is not None:
            low = 0 if name in ("input_tokens", "output_tokens") else -1
            if int(column.min()) < low:
                raise TraceError(f"field {name!r}: expected values >= {low}, got {column.min()}", field=name)
    check_times(trace.arrival_s)
    check_block_counts(trace.offsets, trace.input_tokens, trace.block_tokens)
    check_dense(trace.block_ids)
    check_chains(trace.offsets, trace.block_ids, trace.n_blocks, trace.block_ids)
