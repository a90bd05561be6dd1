"""What the keyless operator knew before its process was killed, read back from the logs of the run.

Knows `operator.jsonl`, which the service writes, and the journal of evaluations. Must not know how children are made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sim import journal, jsonlines
from sim.score import REJECTED
from sim.search.genome import fingerprint


@dataclass
class Recalled:
    """State of a service.

    Attributes:
        calls: How often each request came: the random numbers of a call depend on it.
        programs: Training score by source, of all that were evaluated. What was proposed and never evaluated, because
            the run was killed, may be proposed again.
        tuned: Fingerprints of the programs whose constants were tuned.
        spent: Passes over the panel spent on tuning.
    """

    calls: Counter[str] = field(default_factory=Counter)
    programs: dict[str, float] = field(default_factory=dict)
    tuned: set[str] = field(default_factory=set)
    spent: float = 0.0


def recall(run_dir: Path, record: str) -> Recalled:
    """Return what the logs of a run tell; nothing if there are none.

    Args:
        run_dir: Directory of the run.
        record: Name of the service's log in it.
    """
    jsonlines.mend(run_dir / record)
    found = Recalled()
    for entry in jsonlines.read(run_dir / record):
        found.calls[str(entry.get("request"))] += 1
        found.tuned.update(entry.get("tuned") or ())
        found.spent += float((entry.get("tuning") or {}).get("passes") or 0)
    for entry in journal.entries(run_dir):
        found.programs[entry["source"]] = float(entry["metrics"].get("combined_score", REJECTED))
    return found


def mark_of(source: str) -> str | None:
    """Return the fingerprint of a text; None if it is no program, hence no child either."""
    try:
        return fingerprint(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
