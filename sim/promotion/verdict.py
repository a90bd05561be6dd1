"""What the gate found: one check per rule, and all of them together.

Knows names, numbers and text. Must not know how a rule is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim.rundir import versions
from sim.tables import table

RULES = (
    "contract",
    "isolated",
    "size",
    "cost",
    "twin",
    "renaming",
    "baselines",
    "lru",
    "capacity",
    "block size",
    "time",
)
"""Every rule, in the order in which they are tried. A verdict that lacks one has not passed."""

NOT_TRIED = "not tried: an earlier rule failed"


@dataclass(frozen=True)
class Check:
    """One rule.

    Attributes:
        name: One of `RULES`.
        passed: Whether it holds.
        figures: What was measured, fit for JSON.
        reason: What holds, or what does not and where, in a sentence.
    """

    name: str
    passed: bool
    figures: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What came of one policy on one validation split.

    Attributes:
        policy: Its name.
        sha256: Of its source, hex.
        nodes: Its size; 0 if it breaks the contract.
        panel: Name of the panel.
        fingerprint: Of the panel's validation split.
        checks: One per rule, in the order of `RULES`.
        hit_tokens: Per cell of the validation split; empty if it was not replayed.
    """

    policy: str
    sha256: str
    nodes: int
    panel: str
    fingerprint: str
    checks: tuple[Check, ...]
    hit_tokens: tuple[int, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether every rule was tried and holds."""
        return tuple(check.name for check in self.checks) == RULES and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The rules that do not hold, those that were not tried left out."""
        return [check for check in self.checks if not check.passed and check.reason != NOT_TRIED]

    def __getitem__(self, rule: str) -> Check:
        return next(check for check in self.checks if check.name == rule)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, fit for JSON."""
        return {
            "policy": self.policy,
            "sha256": self.sha256,
            "nodes": self.nodes,
            "panel": self.panel,
            "fingerprint": self.fingerprint,
            "passed": self.passed,
            "checks": [dict(vars(check)) for check in self.checks],
            "hit_tokens": list(self.hit_tokens),
        }

    def rejection(self, time: str) -> dict[str, Any]:
        """Return a line for the record of what was refused."""
        reasons = {check.name: check.reason for check in self.failures}
        return {"time": time, "kvevolve": versions()["kvevolve"], "reasons": reasons} | self.to_dict()

    def __str__(self) -> str:
        words = {True: "ok", False: "FAILED"}
        rows = [
            [check.name, "-" if check.reason == NOT_TRIED else words[check.passed], check.reason]
            for check in self.checks
        ]
        head = f"{self.policy} on {self.panel} validation {self.fingerprint[:12]}, {self.nodes} nodes"
        end = "passed" if self.passed else f"refused: {', '.join(check.name for check in self.failures)}"
        return f"{head}\n{table(['rule', '', ''], rows, 'lll')}\n{end}"
