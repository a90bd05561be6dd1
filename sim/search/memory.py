"""What the keyless operator knew before its process was killed, read back from the logs of the run.

Knows `operator.jsonl`, which the service writes, and the journal of evaluations. Must not know how children are made.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sim import journal, jsonlines
from sim.search.genome import fingerprint


@dataclass
class Memory:
    """State of a service.

    Attributes:
        calls: How often each request came: the random numbers of a call depend on it.
        seen: Fingerprints of the programs that were evaluated. What was proposed and never evaluated, because the run
            was killed, may be proposed again.
        tuned: Fingerprints of the programs whose constants were tuned.
        spent: Passes over the panel spent on tuning.
        best: Best score shown in a prompt.
    """

    calls: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    tuned: set[str] = field(default_factory=set)
    spent: float = 0.0
    best: float = -math.inf


def recall(run_dir: Path, record: str) -> Memory:
    """Return what the logs of a run tell; nothing if there are none.

    Args:
        run_dir: Directory of the run.
        record: Name of the service's log in it.
    """
    jsonlines.mend(run_dir / record)
    memory = Memory()
    for entry in jsonlines.read(run_dir / record):
        memory.calls[str(entry.get("request"))] += 1
        memory.tuned.update(entry.get("tuned") or ())
        memory.spent += float((entry.get("tuning") or {}).get("passes") or 0)
        score = entry.get("best")
        memory.best = max(memory.best, score if isinstance(score, int | float) else -math.inf)
    sources = {entry["source"] for entry in journal.entries(run_dir)}
    memory.seen = {mark for source in sources if (mark := mark_of(source)) is not None}
    return memory


def mark_of(source: str) -> str | None:
    """Return the fingerprint of a text; None if it is no program, hence no child either."""
    try:
        return fingerprint(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
