"""The frame: how a request, a readiness note, an answer and its arrays travel as bytes.

Knows: framing, strict JSON (finite numbers only), raw numeric arrays.
Must not know: sockets, processes, statuses. Nothing here unpickles, and no length that a peer claims is
believed before it is checked against the bytes that came or against a limit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLACK_BYTES = 1 << 16  # what a frame may carry beside the answer: status, detail, array headers
_HEADER = struct.Struct(">QQ")  # length of the JSON head, length of the blob
_KINDS = frozenset("?biufcmM")  # array dtypes without objects, records or strings


class WireError(ValueError):
    """Bytes that are no frame, or values that cannot be put into one."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        head: Its JSON object.
        blob: Its raw bytes.
        size: Bytes the frame took.
    """

    head: dict[str, Any]
    blob: bytes
    size: int


def pack(head: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """Encode a frame.

    Raises:
        WireError: The head is not JSON, or holds NaN or an infinity.
    """
    try:
        text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as fault:
        raise WireError(f"not a JSON object of finite numbers: {fault}") from fault
    return _HEADER.pack(len(text), len(blob)) + text + blob


def frame_size(data: bytes | bytearray) -> int | None:
    """Return how long the frame at the start of ``data`` is, or None while its header is incomplete."""
    if len(data) < _HEADER.size:
        return None
    n_head, n_blob = _HEADER.unpack_from(data)
    return int(_HEADER.size + n_head + n_blob)


def unpack(data: bytes | bytearray, limit_bytes: int) -> Frame | None:
    """Decode the frame at the start of ``data``.

    Args:
        data: Bytes received so far.
        limit_bytes: Largest frame accepted.

    Returns:
        The frame, or None while it is incomplete.

    Raises:
        WireError: It claims to be larger than the limit, or its head is no JSON object.
    """
    size = frame_size(data)
    if size is None:
        return None
    if size > limit_bytes + _HEADER.size:
        raise WireError(f"a frame of {size} bytes exceeds the limit of {limit_bytes}")
    if len(data) < size:
        return None
    middle = _HEADER.size + int(_HEADER.unpack_from(data)[0])
    try:
        head = json.loads(bytes(data[_HEADER.size : middle]), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as fault:
        raise WireError(f"the frame's head is not JSON: {fault}") from fault
    if not isinstance(head, dict):
        raise WireError("the frame's head is not a JSON object")
    return Frame(head, bytes(data[middle:size]), size)


def encode_arrays(arrays: Mapping[str, NDArray[Any]], limit_bytes: int) -> tuple[list[list[Any]], bytes]:
    """Encode arrays as (headers, raw bytes in the same order).

    Raises:
        WireError: An array is not numeric, or together they exceed the limit.
    """
    headers: list[list[Any]] = []
    parts: list[bytes] = []
    total = 0
    for name, value in arrays.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in _KINDS:
            raise WireError(f"array {name!r} must be a numeric numpy array under a string name")
        total += value.nbytes
        if total > limit_bytes:
            raise WireError(f"the arrays exceed output_bytes = {limit_bytes}")
        headers.append([name, value.dtype.str, list(value.shape)])
        parts.append(value.tobytes())
    return headers, b"".join(parts)


def decode_arrays(headers: object, blob: bytes) -> dict[str, NDArray[Any]]:
    """Decode what ``encode_arrays`` made; the copies are writable.

    Raises:
        WireError: A header is malformed or does not fit the bytes.
    """
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    try:
        if not isinstance(headers, list):
            raise ValueError("the array headers are not a list")
        for name, code, shape in headers:
            dtype = np.dtype(str(code))
            if dtype.kind not in _KINDS or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"array {name!r} has dtype {code!r}, shape {shape!r}")
            count = 1
            for n in shape:
                count *= n
            end = offset + count * dtype.itemsize
            if end > len(blob):
                raise ValueError(f"array {name!r} is longer than the answer")
            arrays[str(name)] = np.frombuffer(blob, dtype, count, offset).reshape(shape).copy()
            offset = end
        if offset != len(blob):
            raise ValueError("bytes are left over behind the arrays")
    except (TypeError, ValueError, OverflowError) as fault:
        raise WireError(f"malformed arrays: {fault}") from fault
    return arrays


def _refuse_constant(name: str) -> float:
    """Refuse NaN and the infinities, which strict JSON does not have."""
    raise ValueError(f"{name} is not a finite number")
