"""Typed, read-only numpy columns.

Knows how a sequence of numbers becomes a checked array of one dtype. Must not know what a request or a block is.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from workloads.errors import TraceError

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

_Scalar = TypeVar("_Scalar", bound=np.generic)


def frozen(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """Return the array itself, marked read-only."""
    array.setflags(write=False)
    return array


def integers(values: npt.ArrayLike, field: str, low: int, high: int) -> I64:
    """Copy a 1-d sequence of integers into a fresh int64 array, checking every value.

    Args:
        values: Anything numpy can turn into a 1-d array of integers. Booleans and fractions are refused.
        field: Name used in the error.
        low: Smallest accepted value.
        high: Largest accepted value.

    Returns:
        int64 array, shape of the input, owned by the caller.

    Raises:
        TraceError: wrong shape, not integers, or a value out of range (with its index as ``request``).
    """
    raw = _one_dimensional(values, field)
    if raw.dtype.kind == "f":
        off = np.flatnonzero(~(np.isfinite(raw) & (raw == np.trunc(raw)) & (np.abs(raw) < 2**53)))
        if off.size:
            raise _bad_value(field, int(off[0]), raw[off[0]], "an integer")
    elif raw.dtype.kind not in "iu" and raw.size:
        raise TraceError(f"field {field!r}: expected integers, got dtype {raw.dtype}", field=field)
    off = np.flatnonzero((raw < low) | (raw > high)) if raw.size else np.empty(0, np.int64)
    if off.size:
        raise _bad_value(field, int(off[0]), raw[off[0]], f"an integer from {low} to {high}")
    return np.array(raw, dtype=np.int64)


def seconds(values: npt.ArrayLike, field: str) -> F64:
    """Copy a 1-d sequence of times into a fresh float64 array: finite, not negative.

    Args:
        values: Anything numpy can turn into a 1-d array of numbers, in seconds.
        field: Name used in the error.

    Returns:
        float64 array, shape of the input, owned by the caller.

    Raises:
        TraceError: wrong shape, not numbers, NaN, infinite or negative (with its index as ``request``).
    """
    raw = _one_dimensional(values, field)
    if raw.dtype.kind not in "iuf" and raw.size:
        raise TraceError(f"field {field!r}: expected numbers, got dtype {raw.dtype}", field=field)
    column = np.array(raw, dtype=np.float64)
    off = np.flatnonzero(~(np.isfinite(column) & (column >= 0)))
    if off.size:
        raise _bad_value(field, int(off[0]), column[off[0]], "finite seconds >= 0")
    return column


def renumbered(labels: I64 | I32) -> I32:
    """Number labels 0, 1, ... in the order in which they first appear; what is negative becomes -1.

    Args:
        labels: [n] labels, for example of sessions.

    Returns:
        int32[n].
    """
    whole: I64 = labels.astype(np.int64)
    values, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    numbers = np.full(len(values), -1, np.int32)
    known = np.flatnonzero(values >= 0)
    numbers[known[np.argsort(first[known])]] = np.arange(len(known))
    return numbers[inverse.reshape(-1)]


def _one_dimensional(values: npt.ArrayLike, field: str) -> npt.NDArray[Any]:
    try:
        raw = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise TraceError(f"field {field!r}: expected a flat sequence of numbers: {error}", field=field) from None
    if raw.ndim != 1:
        raise TraceError(f"field {field!r}: expected one dimension, got shape {raw.shape}", field=field)
    return raw


def _bad_value(field: str, index: int, value: object, expected: str) -> TraceError:
    return TraceError(f"index {index}: field {field!r}: expected {expected}, got {value}", request=index, field=field)
