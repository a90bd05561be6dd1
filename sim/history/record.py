"""Fields of a record of a log, checked. Knows types; must not know which logs there are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_LARGEST = 2**63 - 1


class Malformed(ValueError):
    """A field has a value of a wrong kind; the message names it."""


def number(record: Mapping[str, Any], key: str) -> float | None:
    """Return a number, None if it is missing, null or not finite."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(f"{key} is {_shown(value)}, not a number")
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole(record: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number, None if it is missing or null."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise Malformed(f"{key} is {_shown(value)}, not a whole number")
    return value


def flag(record: Mapping[str, Any], key: str) -> int | None:
    """Return 0 or 1, None if it is missing."""
    value = record.get(key)
    return None if value is None else int(bool(value))


def text(record: Mapping[str, Any], key: str) -> str | None:
    """Return a text, None if it is missing or null."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Malformed(f"{key} is {_shown(value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{key} has a character that is no Unicode (half of a surrogate pair)") from None
    return value


def mapping(record: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return a mapping, None if it is missing or null."""
    value = record.get(key)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"{key} is {_shown(value)}, not a mapping")
    return value


def as_json(value: Any) -> str | None:
    """Return a value as JSON that SQLite reads: numbers that are not finite are null. None stays None."""
    return None if value is None else json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
