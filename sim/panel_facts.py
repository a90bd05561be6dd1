"""A panel without its traces: what results cite and logs count.

Knows names, fingerprints and sizes. Must not know policies or scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workloads.panel import Panel


@dataclass(frozen=True)
class PanelFacts:
    """What to say of a panel.

    Attributes:
        name: With version.
        split: Of the panel.
        fingerprint: SHA-256 (hex), see `workloads.panel.Panel`.
        refs: Block references of the cells that count at each stage of an evaluation that replays any.
    """

    name: str
    split: str
    fingerprint: str
    refs: Mapping[str, int]

    @classmethod
    def of(cls, panel: Panel) -> PanelFacts:
        """Return the facts of a panel."""
        smallest = min(panel.traces[cell.trace_name].n_refs for cell in panel.cells)
        return cls(panel.name, panel.split, panel.fingerprint, {"panel": panel.n_refs, "smoke": smallest})

    @property
    def cited(self) -> str:
        """How results name the panel."""
        return f"{self.name} {self.split}, fingerprint {self.fingerprint[:12]}"
