"""The replays of a tuning, kept as lines of JSON: a tuning that was stopped runs again without repeating them.

A seed makes the same proposals again, so what was found for them is all that need be kept. Knows files, values and
cells; must not know what was found, or how.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from sim.policy.program import Policy
from sim.search.trial import Cells
from sim.search.tuner import CellObjective


class ReplayLog:
    """What earlier replays of one tuning found; new ones are appended at once."""

    def __init__(self, path: Path, about: Mapping[str, str | int]) -> None:
        """Open the log, or begin it.

        Args:
            path: The file; made if it is not there. A last line that a kill cut short is dropped.
            about: What the tuning is of: the log of another one is refused.

        Raises:
            ValueError: If the file is no such log, or of another tuning.
            OSError: If it cannot be read or written.
        """
        self.path = path
        self.known: dict[tuple[tuple[float, ...], int], float] = {}
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode(errors="replace").splitlines()
        if lines:
            self._check(lines[0], about)
        elif data:
            raise ValueError(f"{path} line 1: no log of `kvevolve tune`; fix: name another file for --resume")
        for number, line in enumerate(lines[1:], 2):
            self._read(line, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not lines:
            self._append(dict(about))

    def add(self, values: Sequence[float], cell: int, found: float) -> None:
        """Keep what a replay found."""
        self.known[tuple(values), cell] = found
        self._append({"values": list(values), "cell": cell, "found": None if math.isnan(found) else found})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, entry: Mapping[str, object]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def _check(self, line: str, about: Mapping[str, str | int]) -> None:
        try:
            head = json.loads(line)
            other = [name for name, value in about.items() if head[name] != value]
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{self.path} line 1: no log of `kvevolve tune`; fix: name another file") from None
        if other:
            raise ValueError(
                f"{self.path} line 1: of another tuning, {other[0]} is {str(head[other[0]])[:16]} there and "
                f"{str(about[other[0]])[:16]} here; fix: name another file, or tune the same again"
            )

    def _read(self, line: str, number: int) -> None:
        try:
            entry = json.loads(line)
            values = tuple(float(value) for value in entry["values"])
            found = math.nan if entry["found"] is None else float(entry["found"])
            self.known[values, int(entry["cell"])] = found
        except (ValueError, LookupError, TypeError):
            raise ValueError(
                f"{self.path} line {number}: no replay ({line[:40]}); fix: delete from this line on, or the file"
            ) from None


class LoggedObjective:
    """An objective whose replays are taken from a log where it knows them."""

    def __init__(self, objective: CellObjective, log: ReplayLog) -> None:
        """Maximise this objective."""
        self._objective, self._log = objective, log

    def by_cell(self, policy: Policy) -> Cells:
        """Return the score of the values of `policy.literals`, cell by cell."""
        return _Logged(self._objective.by_cell(policy), self._log)


class _Logged:
    """Cells whose replays are taken from a log where it knows them."""

    def __init__(self, cells: Cells, log: ReplayLog) -> None:
        """Replay in these cells what the log does not know."""
        self._cells, self._log = cells, log
        self.shares, self.groups, self.score = cells.shares, cells.groups, cells.score

    def replay(self, values: Sequence[float], cell: int) -> float:
        """Return what the policy reaches in a cell."""
        found = self._log.known.get((tuple(values), cell))
        if found is None:
            found = self._cells.replay(values, cell)
            self._log.add(values, cell, found)
        return found
