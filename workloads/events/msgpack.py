"""From bytes to columns: messages of KV-cache events in msgpack, parsed where they lie.

Knows msgpack and the structs of vLLM and SGLang. Must not know files, chains or requests. Token ids are stepped over.

A message is a batch ``[ts, events, rank]``; further fields are passed over. An event is a tagged array, the fields in
order (older vLLM and SGLang), or a map with the tag under ``type`` (vLLM since pull request #42892, June 2026;
SGLang 0.5.23). Read are ``block_hashes``, ``parent_block_hash``, ``block_size``, ``medium``, ``group_idx`` and
``session_id``. Source: vLLM 0.33.0 ``vllm/distributed/kv_events.py`` and the history of its fields told in #42892;
SGLang 0.5.23 ``sglang/srt/disaggregation/kv_events.py``.

A hash is an integer; or bytes, of which the last eight count as in vLLM's own integers; or text (JSON), hashed again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

STORED, REMOVED, CLEARED = 0, 1, 2
DONE, SHORT = 0, 1
"""How a parse ends: after the last message, or in a message that goes on behind the bytes. Others are faults."""

(_PAYLOAD, _FRAMES, _BATCH, _TIME, _EVENTS, _EVENT, _TAG, _HASHES, _HASH, _SIZE, _TEXT, _INTEGER) = range(2, 14)
_VALUE, _FIELDS = 14, 15

_NIL, _INT, _FLOAT, _ARRAY, _MAP, _STR, _BIN, _OTHER, _BAD = range(9)
_MAX_INT = np.uint64(2**31 - 1)
_MAX_TIME = np.float64(1e11).view(np.uint64)  # bits of earlier times, and of no negative ones, are lower

TIME, RANK, SEQUENCE, TOPIC, TOPIC_AT, TOPIC_END, FIRST_EVENT = range(7)
"""Columns of a message: the time as the bits of a float64, in s; -1 for no rank; -1 without frames; hash of the topic's
text, 0 for none, and from where to where it lies; its first event. The row behind the last message has that too."""

KIND, FIRST_HASH, PARENT, HAS_PARENT, BLOCK_TOKENS, GROUP, MEDIUM, MEDIUM_AT, MEDIUM_END, SESSION = range(10)
"""Columns of an event: its first hash (the row behind the last has that too); 0 for no block size; -1 for no group;
hash of the medium's text, 0 for none, and from where to where it lies; hash of the session's text, 0 for none."""


def _hashes(*names: str) -> tuple[Any, ...]:
    """Return the 64-bit hashes of texts (FNV-1a, never 0), as `_text` does."""
    found = [0xCBF29CE484222325] * len(names)
    for k, name in enumerate(names):
        for byte in name.encode():
            found[k] = ((found[k] ^ byte) * 0x100000001B3) & (2**64 - 1)
    return tuple(np.uint64(max(number, 1)) for number in found)


_BLOCK_STORED, _BLOCK_REMOVED, _ALL_CLEARED = _hashes("BlockStored", "BlockRemoved", "AllBlocksCleared")
_F_TYPE, _F_HASHES, _F_PARENT, _F_SIZE, _F_MEDIUM, _F_GROUP, _F_SESSION, _F_OTHER = _hashes(
    "type", "block_hashes", "parent_block_hash", "block_size", "medium", "group_idx", "session_id", "any other"
)
_STORED_FIELDS = (_F_TYPE, _F_HASHES, _F_PARENT, _F_OTHER, _F_SIZE, _F_OTHER, _F_MEDIUM, _F_OTHER, _F_OTHER, _F_GROUP)
_REMOVED_FIELDS = (_F_TYPE, _F_HASHES, _F_MEDIUM, _F_GROUP)


_kernel = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
"""Nothing is allocated: counting references to the arrays at each call costs more than the parsing."""


def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Return, per first byte of a value: its kind, the bytes of the number behind it, and what is added to that."""
    kind, width, start = np.full(256, _INT, np.uint8), np.zeros(256, np.uint8), np.arange(256, dtype=np.uint64)
    start[0xE0:] += np.uint64(2**64 - 256)
    kind[0x80:0x90], kind[0x90:0xA0], kind[0xA0:0xC0] = _MAP, _ARRAY, _STR
    start[0x80:0xA0] &= np.uint64(15)
    start[0xA0:0xC0] &= np.uint64(31)
    kind[0xC0:0xC4] = _NIL, _BAD, _OTHER, _OTHER
    kind[0xC4:0xC7], kind[0xC7:0xCA], kind[0xCA:0xCC] = _BIN, _OTHER, _FLOAT
    kind[0xD4:0xD9], kind[0xD9:0xDC], kind[0xDC:0xDE], kind[0xDE:0xE0] = _OTHER, _STR, _ARRAY, _MAP
    width[0xC4:0xD4] = 1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8
    width[0xD9:0xE0] = 1, 2, 4, 2, 4, 2, 4
    start[0xC0:0xE0] = 0
    start[0xC7:0xCA] = 1  # an extension: its type and its bytes
    start[0xD4:0xD9] = 2, 3, 5, 9, 17
    return kind, width, start


_KIND, _WIDTH, _START = _tables()
_SCALAR_BYTES = np.where(np.isin(_KIND, (_NIL, _INT, _FLOAT)), 1 + _WIDTH, 0).astype(np.uint8)
"""Per first byte: how long the value is, if that says it all; else 0."""


_0, _1, _4, _8 = (np.int64(k) for k in (0, 1, 4, 8))  # numba would compile everything for plain literals too


@_kernel
def _number(buffer, at, size):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for k in range(at, at + size):
        value = (value << np.uint64(8)) | np.uint64(buffer[k])
    return value


@_kernel
def _text(buffer, at, size):  # type: ignore[no-untyped-def]
    """Return the hash of a text."""
    found = np.uint64(0xCBF29CE484222325)
    for k in range(at, at + size):
        found = (found ^ np.uint64(buffer[k])) * np.uint64(0x100000001B3)
    return max(found, np.uint64(1))


@_kernel
def _head(buffer, at, end):  # type: ignore[no-untyped-def]
    """Return (kind, value, position behind) of what begins at `at`; a position of -1: it goes on behind `end`.

    The value is the number (of a float: its bits), or how many bytes, items or pairs follow.
    """
    if at >= end:
        return _NIL, np.uint64(0), -1
    b = buffer[at]
    width, value = np.int64(_WIDTH[b]), _START[b]
    if at + 1 + width > end:
        return _NIL, np.uint64(0), -1
    if width > 0:
        number = _number(buffer, at + 1, width)
        if 0xD0 <= b < 0xD3 and number >> np.uint64(8 * width - 1):  # negative
            number -= np.uint64(1) << np.uint64(8 * width)
        value += number
    kind, after = np.int64(_KIND[b]), at + 1 + width
    if (_STR <= kind <= _OTHER) and value > np.uint64(end - after):
        after = -1
    return kind, value, after


@_kernel
def _skip(buffer, at, end, left):  # type: ignore[no-untyped-def]
    """Return (status, position) behind the next `left` values."""
    while left > 0:
        if at >= end:
            return SHORT, at
        left -= 1
        size = _SCALAR_BYTES[buffer[at]]
        if size:
            at += size
            continue
        start = at
        kind, value, at = _head(buffer, at, end)
        if at < 0 or kind == _BAD:
            return (SHORT if at < 0 else _VALUE), start
        if _ARRAY <= kind <= _MAP:
            left += np.int64(value) << (kind == _MAP)
        else:
            at += np.int64(value)
    return (DONE if at <= end else SHORT), at


@_kernel
def _hash(buffer, kind, value, after):  # type: ignore[no-untyped-def]
    """Return (status, hash, position behind) of a block hash with that head."""
    if kind == _INT:
        return DONE, value, after
    if (kind != _BIN and kind != _STR) or value == 0:
        return _HASH, value, after
    size = np.int64(value)
    if kind == _STR:
        return DONE, _text(buffer, after, size), after + size
    width = min(8, size)
    return DONE, _number(buffer, after + size - width, width), after + size


@_kernel
def _hashes_of(buffer, at, end, n, out, h):  # type: ignore[no-untyped-def]
    """Read the hashes an event lists; return (status, position behind or of the fault, next hash)."""
    for _ in range(n):
        start = at
        kind, value, at = _head(buffer, at, end)
        if at < 0:
            return SHORT, start, h
        status, out.hashes[h], at = _hash(buffer, kind, value, at)
        if status != DONE:
            return status, start, h
        h += 1
    return DONE, at, h


@_kernel
def _field(buffer, at, end, field, out, e, h):  # type: ignore[no-untyped-def]
    """Read one field of event `e`, whose hashes go to `h` and on; return (status, position behind, next hash)."""
    start, status = at, DONE
    kind, value, at = _head(buffer, at, end)
    if at < 0:
        return SHORT, start, h
    text = at + np.int64(value) if kind == _STR else at
    if field == _F_HASHES:
        if kind != _ARRAY:
            return _HASHES, start, h
        return _hashes_of(buffer, at, end, np.int64(value), out, out.events[e, FIRST_HASH])
    if field == _F_PARENT:
        out.events[e, HAS_PARENT] = kind != _NIL
        if kind != _NIL:
            status, parent, at = _hash(buffer, kind, value, at)
            out.events[e, PARENT] = np.int64(parent)
    elif field == _F_SIZE:
        out.events[e, BLOCK_TOKENS] = np.int64(value)
        status = DONE if kind == _INT and 0 < value <= _MAX_INT else _SIZE
    elif field == _F_GROUP:
        out.events[e, GROUP] = np.int64(value) if kind == _INT else -1
        status = DONE if kind == _NIL or (kind == _INT and value <= _MAX_INT) else _INTEGER
    elif field in (_F_MEDIUM, _F_SESSION):
        if kind != _NIL and kind != _STR:
            status = _TEXT
        elif field == _F_MEDIUM:
            out.events[e, MEDIUM] = np.int64(_text(buffer, at, text - at)) if kind == _STR else 0
            out.events[e, MEDIUM_AT], out.events[e, MEDIUM_END] = at, text
        elif kind == _STR:
            out.events[e, SESSION] = np.int64(_text(buffer, at, text - at))
        at = text
    else:
        status, start = _skip(buffer, start, end, _1)
        at = start
    return status, (at if status == DONE else start), h


@_kernel
def _word(buffer, at, end):  # type: ignore[no-untyped-def]
    """Return (status, hash, position behind) of a tag or a key."""
    kind, size, after = _head(buffer, at, end)
    if after < 0 or kind != _STR:
        return (SHORT if after < 0 else _TAG), np.uint64(0), at
    return DONE, _text(buffer, after, np.int64(size)), after + np.int64(size)


@_kernel
def _name(tag, k):  # type: ignore[no-untyped-def]
    """Return the name of field `k` of an event that is an array."""
    if tag != _BLOCK_REMOVED:
        return _STORED_FIELDS[k] if k < len(_STORED_FIELDS) else _F_OTHER
    return _REMOVED_FIELDS[k] if k < len(_REMOVED_FIELDS) else _F_OTHER


@_kernel
def _event(buffer, at, end, out, e, h):  # type: ignore[no-untyped-def]
    """Read event `e`; return (status, position behind or of the fault, next hash)."""
    start, status = at, DONE
    form, n, at = _head(buffer, at, end)
    if at < 0 or (form != _MAP and form != _ARRAY):
        return (SHORT if at < 0 else _EVENT), start, h
    out.events[e, FIRST_HASH], out.events[e, HAS_PARENT], out.events[e, BLOCK_TOKENS] = h, False, 0
    out.events[e, GROUP], out.events[e, MEDIUM], out.events[e, SESSION], out.events[e, PARENT] = -1, 0, 0, 0
    tag, listed = np.uint64(0), False
    for k in range(np.int64(n)):
        field = _name(tag, k)
        if form == _MAP:
            status, field, at = _word(buffer, at, end)
        if status == DONE and field == _F_TYPE:
            status, tag, after = _word(buffer, at, end)
            if status == DONE and tag not in (_BLOCK_STORED, _BLOCK_REMOVED, _ALL_CLEARED):
                return _TAG, at, h
            at = after
        elif status == DONE:
            status, at, h = _field(buffer, at, end, field, out, e, h)
            listed |= field == _F_HASHES
        if status != DONE:
            return status, at, h
    out.events[e, KIND] = STORED if tag == _BLOCK_STORED else (REMOVED if tag == _BLOCK_REMOVED else CLEARED)
    if tag == 0 or (tag != _ALL_CLEARED and not listed):
        return _FIELDS, start, h
    return DONE, at, (h if tag != _ALL_CLEARED else out.events[e, FIRST_HASH])


@_kernel
def _batch(buffer, at, end, out, m, e, h):  # type: ignore[no-untyped-def]
    """Read message `m`; return (status, position behind or of the fault, next event, next hash)."""
    start = at
    kind, n, at = _head(buffer, at, end)
    if at < 0 or kind != _ARRAY or n < 2:
        return (SHORT if at < 0 else _BATCH), start, e, h
    out.messages[m, FIRST_EVENT], out.messages[m, RANK] = e, -1
    for k in range(np.int64(n)):
        kind, value, after = _head(buffer, at, end)
        if after < 0:
            return SHORT, at, e, h
        if k == 0:
            if kind != _FLOAT or after != at + 9 or value > _MAX_TIME:
                return _TIME, at, e, h
            out.messages[m, TIME] = np.int64(value)
        elif k == 1:
            if kind != _ARRAY:
                return _EVENTS, at, e, h
            for _ in range(np.int64(value)):
                status, after, h = _event(buffer, after, end, out, e, h)
                if status != DONE:
                    return status, after, e, h
                e += 1
        elif k == 2 and kind == _INT and value <= _MAX_INT:
            out.messages[m, RANK] = np.int64(value)
        elif k == 2 and kind != _NIL:
            return _INTEGER, at, e, h
        else:
            status, after = _skip(buffer, at, end, _1)
            if status != DONE:
                return status, after, e, h
        at = after
    return DONE, at, e, h


@_kernel
def _frame(buffer, at, end):  # type: ignore[no-untyped-def]
    """Return (from, to) of a frame behind its length of 4 bytes; to -1: it goes on behind `end`."""
    if at < 0 or at + 4 > end:
        return at, -1
    behind = at + 4 + np.int64(_number(buffer, at, _4))
    return at + 4, behind if behind <= end else -1


@_kernel
def parse(buffer, framed, out):  # type: ignore[no-untyped-def]
    """Read whole messages.

    Args:
        buffer: uint8[n].
        framed: Whether a message is three frames, each behind its length (4 bytes, big-endian), or a payload alone.
        out: From `layout.room(n)`.

    Returns:
        Status, messages read, and the position behind them or, of a fault, its own.
    """
    end, at, m, e, h = np.int64(buffer.size), _0, _0, _0, _0
    out.messages[0, FIRST_EVENT] = out.events[0, FIRST_HASH] = 0
    while at < end:
        start, stop = at, end
        out.messages[m, SEQUENCE], out.messages[m, TOPIC] = -1, 0
        if framed:
            first, behind = _frame(buffer, at, end)
            number, number_end = _frame(buffer, behind, end)
            at, stop = _frame(buffer, number_end, end)
            if number_end >= 0 and number_end - number != 8:
                return _FRAMES, m, start
            if stop < 0:
                return SHORT, m, start
            sequence = np.int64(_number(buffer, number, _8))
            if sequence == -1 and at == stop:  # the end of a replay
                continue
            if sequence < -1:
                return _FRAMES, m, start
            out.messages[m, SEQUENCE] = sequence
            out.messages[m, TOPIC] = np.int64(_text(buffer, first, behind - first))
            out.messages[m, TOPIC_AT], out.messages[m, TOPIC_END] = first, behind
        status, at, e, h = _batch(buffer, at, stop, out, m, e, h)
        if status == SHORT and not framed:
            return SHORT, m, start
        if status != DONE or (framed and at != stop):
            return (_PAYLOAD if status <= SHORT else status), m, at
        m += 1
        out.messages[m, FIRST_EVENT], out.events[e, FIRST_HASH] = e, h
    return DONE, m, at
