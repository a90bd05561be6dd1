"""Lineages: when the best has not improved for long, a new one starts elsewhere, then all meet again.

A run alternates between the whole memory ("home") and a fresh lineage that may not return to what was best before.
Knows estimates and behaviours; must not know how children are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sim.search.memory import Known, Memory

WORTHWHILE = 1e-4
"""An improvement of the score that counts: four decimals are shown."""


@dataclass
class Lineages:
    """Which lineage breeds now.

    Attributes:
        patience: Requests without improvement after which the lineage ends; 0 for one lineage only.
        radius: Distance of behaviours a fresh lineage keeps from the taboo ones.
        current: Number of the lineage: even at home, odd for a fresh one.
        waited: Requests since the best of this lineage improved.
        taboo: Best programs of the lineages before.
    """

    patience: int
    radius: float
    current: int = 0
    waited: int = 0
    taboo: list[Known] = field(default_factory=list)
    _best: float = -math.inf

    @property
    def fresh(self) -> bool:
        """Whether the lineage keeps to itself."""
        return self.current % 2 == 1

    def members(self, memory: Memory) -> list[Known]:
        """Return the programs that may be varied now, best first."""
        ranked = memory.ranked()
        return [item for item in ranked if item.lineage == self.current] if self.fresh else ranked

    def step(self, memory: Memory) -> bool:
        """Note one more request; return whether a new lineage begins with it."""
        if not self.patience:
            return False
        members = self.members(memory)
        best = memory.estimate(members[0]) if members else -math.inf
        self.waited = 0 if best > self._best + WORTHWHILE else self.waited + 1
        self._best = max(self._best, best)
        if self.waited < self.patience:
            return False
        if members and members[0] not in self.taboo:
            self.taboo.append(members[0])
        self.current, self.waited, self._best = self.current + 1, 0, -math.inf
        return True

    def forbids(self, program: Known) -> bool:
        """Return whether a fresh lineage may not have a program: it behaves much like a taboo one."""
        mine = program.behaviour
        if not self.fresh or mine is None:
            return False
        return any(item.behaviour is not None and mine.distance(item.behaviour) < self.radius for item in self.taboo)
