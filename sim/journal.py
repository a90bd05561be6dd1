"""The journal of a run's evaluations, which is its memo too: RUN/evaluations.jsonl.

Knows sources, panels and what came of them. Must not know how a candidate is scored, nor the engine. An evaluation is
in the journal before the engine hears of it: what a kill leaves unwritten is only what was being evaluated. A line says
which code it was made by, and answers only for that.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim import jsonlines
from sim.code_digest import code_digest

FILE = "evaluations.jsonl"
RUN_DIR_VARIABLE = "KVEVOLVE_RUN_DIR"
"""The directory of the run this process works for."""

REPEATABLE = frozenset({"gate", "compile", "run", "clock", "smoke", "panel"})
"""Stages a candidate would end at again. Time, memory and crashes may have been the machine's doing."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One evaluation.

    Attributes:
        source: Text of the candidate; None if its file was no text.
        panel: Fingerprint of the panel.
        advice: Whether the costliest evictions were asked for.
        metrics: As the engine got them.
        artifacts: As the engine got them.
        stage: Where it ended, see `sim.evaluation.Evaluation`.
        seconds: Wall time.
        cpu_seconds: CPU time of the isolated children.
        refs: Block references of the cells that were counted; replays that only probe are not.
        hit_tokens: Per cell of the panel; empty unless the stage is "panel".
        cached: Whether this was answered from an earlier line.
    """

    source: str | None
    panel: str
    advice: bool
    metrics: dict[str, float]
    artifacts: dict[str, str]
    stage: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    refs: int = 0
    hit_tokens: tuple[int, ...] = ()
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        stamped = {"time": round(time.time(), 3), "code": code_digest()}
        stamped["source_sha"] = None if self.source is None else sha(self.source)
        return {**stamped, **vars(self), "seconds": round(self.seconds, 4), "cpu_seconds": round(self.cpu_seconds, 4)}


class Journal:
    """The journal of one run; every process that evaluates has its own."""

    def __init__(self, run_dir: Path) -> None:
        """Keep it in a run's directory, made with the first line."""
        self.path = run_dir / FILE
        self._read = 0
        self._places: dict[tuple[str, str, bool], tuple[int, int]] = {}

    def append(self, line: Line) -> None:
        """Write a line; a disk that is full costs the line, not the evaluation, and is told in the log."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            jsonlines.append(self.path, line.to_dict())
        except OSError as error:
            _LOGGER.warning("an evaluation is not in the journal, a resumed run will not know of it: %s", error)

    def find(self, source: str, panel: str, advice: bool) -> dict[str, Any] | None:
        """Return an entry of the same source, panel and code that would come out the same, if any process wrote one.

        One with advice also serves where none is asked for.
        """
        self._catch_up()
        keys = [(sha(source), panel, True), (sha(source), panel, False)]
        place = next((self._places[key] for key in keys[: 1 if advice else 2] if key in self._places), None)
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place[0])
            entry = jsonlines.entry_of(file.read(place[1]))
        return entry if entry is not None and entry.get("source") == source else None

    def _catch_up(self) -> None:
        """Note where the lines are that were written since the last time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        for (offset, length), entry in jsonlines.parsed(data):
            if _whole(entry) and entry["stage"] in REPEATABLE and entry.get("code") == code_digest():
                key = (entry["source_sha"], entry["panel"], entry["advice"])
                self._places.setdefault(key, (self._read + offset, length))
        self._read += data.rfind(b"\n") + 1


def of_environment() -> Journal | None:
    """Return the journal of the run this process works for; None if it works for none."""
    given = os.environ.get(RUN_DIR_VARIABLE)
    return _journal(given) if given else None


@cache
def _journal(run_dir: str) -> Journal:
    return Journal(Path(run_dir))


def entries(run_dir: Path) -> list[dict[str, Any]]:
    """Return every whole line of a run's journal, oldest first."""
    return [entry for entry in jsonlines.read(run_dir / FILE) if _whole(entry)]


def by_other_code(run_dir: Path) -> bool:
    """Return whether a run's last whole line was written by other code than this."""
    known = entries(run_dir)
    return bool(known) and known[-1].get("code") != code_digest()


def sha(source: str) -> str:
    """Return the SHA-256 (hex) of a text."""
    return hashlib.sha256(source.encode()).hexdigest()


def _whole(entry: dict[str, Any]) -> bool:
    kinds: dict[str, type] = {
        "source_sha": str,
        "source": str,
        "panel": str,
        "advice": bool,
        "metrics": dict,
        "artifacts": dict,
    }
    kinds |= {"stage": str, "time": float}
    return all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
