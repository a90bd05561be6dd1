"""The programs a run has seen: source, behaviour, scores. Ranks them; chooses none.

Knows sources and numbers; must not know how children are made, nor prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sim.search.probe import Behaviour


@dataclass(eq=False)
class Known:
    """One program.

    Attributes:
        source: The whole file.
        mark: Fingerprint of its text.
        behaviour: What it does; None if it was not probed.
        score: On the training panel, as a prompt showed it.
        screened: On the screening panel.
        sent: Whether it was an answer, or stood in a prompt.
        lineage: Number of the lineage it belongs to.
        parent: Source of what it was varied from; None if from nothing.
    """

    source: str
    mark: str
    behaviour: Behaviour | None = None
    score: float | None = None
    screened: float | None = None
    sent: bool = False
    lineage: int = 0
    parent: str | None = None


@dataclass
class Memory:
    """All programs of a run, by the fingerprint of their text."""

    known: dict[str, Known] = field(default_factory=dict)
    behaviours: set[str] = field(default_factory=set)

    def add(self, program: Known) -> Known:
        """Add a program, or return the one with the same text."""
        kept = self.known.setdefault(program.mark, program)
        if kept.behaviour is not None:
            self.behaviours.add(kept.behaviour.mark)
        return kept

    def replace(self, old: Known, new: Known) -> Known:
        """Let a program take the place of another, whose behaviour stays known; return it as `add` does."""
        self.known.pop(old.mark, None)
        return self.add(new)

    def estimate(self, program: Known) -> float:
        """Return the score of a program; the screened one, moved by the mean difference, if no prompt showed it."""
        return _estimate(program, self._offset())

    def _offset(self) -> float:
        both = [
            item.score - item.screened
            for item in self.known.values()
            if item.score is not None and item.screened is not None and min(item.score, item.screened) > 0
        ]
        return sum(both) / len(both) if both else 0.0

    def ranked(self) -> list[Known]:
        """Return the programs that have an estimate, best first."""
        offset = self._offset()
        scored = [(_estimate(item, offset), item) for item in self.known.values()]
        return [item for value, item in sorted(scored, key=lambda pair: -pair[0]) if value > -math.inf]

    def best(self) -> Known | None:
        """Return the program with the highest score a prompt showed; None before any."""
        scored = [item for item in self.known.values() if item.score is not None]
        return max(scored, key=_score, default=None)


def _score(program: Known) -> float:
    return -math.inf if program.score is None else program.score


def _estimate(program: Known, offset: float) -> float:
    if program.score is not None:
        return program.score
    return -math.inf if program.screened is None else program.screened + offset
