"""Times in text logs.

Knows numbers of a stated unit and ISO 8601. Must not know any format.
"""

from __future__ import annotations

from datetime import UTC, datetime

from workloads.text.records import Record, Records

UNITS = {"s": 1000.0, "ms": 1.0, "us": 0.001}
"""Milliseconds by unit."""

_MAX_MS = 1e15


def epoch_ms(records: Records, record: Record, name: str, unit: str) -> float:
    """Return a time field in ms.

    Args:
        records: The log, for messages.
        record: The record.
        name: The field: a number, or text in ISO 8601 (taken as UTC if it names no zone).
        unit: Of numbers, one of :data:`UNITS`.

    Raises:
        TraceError: neither.
    """
    value = record.get(name)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None:
            records.refuse(name, "a time in ISO 8601, or a number", value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        found = moment.timestamp() * 1000.0
        if found < 0:
            records.refuse(name, "a time after 1970", value)
        return found
    return records.number_of(record, name, _MAX_MS / UNITS[unit]) * UNITS[unit]
