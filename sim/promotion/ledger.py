"""Two records that only grow: what the gate refused, and every look at a test split.

`rejected.jsonl` and `test_reads.jsonl`, one JSON mapping per line. A look is written down before it is taken, so that
an interrupted promotion leaves a trace too.

Knows lines and files. Must not know what is in them beyond the digests they are looked up by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sim import jsonlines
from sim.promotion.manifest import BundleError

REJECTED, TEST_READS = "rejected.jsonl", "test_reads.jsonl"


def now() -> str:
    """Return the time as records say it: UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, on disk when this returns; half a line left by a killed writer is closed first.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    jsonlines.append(path, entry, synced=True)


def entries(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record; none if there is no such file.

    Raises:
        BundleError: If a line is no JSON mapping. What such a line said is unknown, so it is not passed over.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; fix: make it readable") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise BundleError(
                f"{path}:{number}: no JSON mapping; fix: remove the line if it is the half of one that an interrupted"
                " writer left (nothing was read then), else restore the file"
            )
        found.append(entry)
    return found


def reads_of(directory: Path, sha256: str, fingerprint: str) -> list[dict[str, Any]]:
    """Return the looks that a policy has had at a test split, by the digest of its source."""
    every = entries(directory / TEST_READS)
    return [entry for entry in every if (entry.get("sha256"), entry.get("fingerprint")) == (sha256, fingerprint)]
