"""What a line of the operator's record cost beside the evaluation of its answer: screening, and tuning of constants.

Knows fields of `operator.jsonl`; must not know runs, panels or arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REFS = ("refs screened", "refs settled")
_SECONDS = ("screened", "settled")


def refs(line: Mapping[str, Any]) -> int:
    """Return the block references replayed, of the reduced panel."""
    tuning, ends = line.get("tuning") or {}, line.get("ends") or {}
    return int(tuning.get("refs") or 0) + sum(int((ends.get(name) or {}).get("count") or 0) for name in _REFS)


def cpu_s(line: Mapping[str, Any]) -> float:
    """Return the CPU-seconds of it."""
    tuning, ends = line.get("tuning") or {}, line.get("ends") or {}
    spent = sum(float((ends.get(name) or {}).get("seconds") or 0.0) for name in _SECONDS)
    return float(tuning.get("cpu_seconds") or 0.0) + spent
