"""Panels: named, versioned sets of traces x capacities to score policies on.

Knows splits, cells and fingerprints. Must not know policies or scores, nor how a trace is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from workloads import locate
from workloads.errors import TraceError, unknown_name
from workloads.panel_recipes import PANELS, sources
from workloads.trace import Trace

CAPACITY_FRACTIONS = (0.01, 0.02, 0.05, 0.10, 0.20)
SPLITS = ("train", "validation", "test")

_WHICH = {"real": "real-v1", "mooncake": "mooncake-v1", "synthetic": "synthetic-v1"}


@dataclass(frozen=True)
class Cell:
    """One trace at one cache capacity.

    Attributes:
        trace_name: Key into :attr:`Panel.traces`.
        fraction: Nominal capacity as a share of the trace's distinct blocks.
        capacity_blocks: Capacity in blocks: ``max(1, floor(fraction x n_blocks))``, raised to the largest request.
        raised: True if it had to be raised: an engine refuses to start with less than its longest prompt needs.
    """

    trace_name: str
    fraction: float
    capacity_blocks: int
    raised: bool


@dataclass(frozen=True, repr=False)
class Panel:
    """Traces and the cells to replay them at.

    Attributes:
        name: Name and version: ``real-v1``, ``mooncake-v1`` or ``synthetic-v1``.
        split: ``train``, ``validation`` or ``test``.
        traces: Traces by name.
        cells: Every (trace, capacity) to replay, traces in order, capacities rising.
        fingerprint: SHA-256 (hex) over name, split, the traces' fingerprints and the cells.
        real: True if the traces were recorded, False if they were generated.
        notes: What a reader of the results should know, for example capacities that fell together.
    """

    name: str
    split: str
    traces: Mapping[str, Trace]
    cells: tuple[Cell, ...]
    fingerprint: str
    real: bool
    notes: tuple[str, ...] = ()

    @property
    def n_refs(self) -> int:
        """Block references summed over the cells: what one pass over the panel replays."""
        return sum(self.traces[cell.trace_name].n_refs for cell in self.cells)

    def __repr__(self) -> str:
        return (
            f"Panel({self.name!r}, {self.split!r}, {len(self.traces)} traces, {len(self.cells)} cells,"
            f" {self.n_refs:,} refs, {self.fingerprint[:12]})"
        )


def load_panel(split: str, which: str = "auto", purpose: str | None = None) -> Panel:
    """Load one split of a panel.

    The test split is for reports. Evolution, tuning and model selection never load it: that is why it takes an
    explicit ``purpose="report"``.

    Args:
        split: ``train``, ``validation`` or ``test``.
        which: ``real`` (all traces of ``real-v1``), ``mooncake`` (the Mooncake files that can be fetched),
            ``synthetic``, or ``auto``: the first of these whose files are all at hand, for every split alike.
        purpose: ``"report"`` to load the test split; ignored for the others.

    Returns:
        The panel. Only traces of this split are held; derived traces come from the user cache.

    Raises:
        TraceError: unknown split or panel, or a trace that is not at hand.
        ValueError: the test split without ``purpose="report"``.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if split == "test" and purpose != "report":
        raise ValueError(
            "the test split is for reports only, evolution and tuning must not see it;"
            " fix: use split 'validation', or pass purpose='report' when writing a report"
        )
    if which != "auto" and which not in _WHICH:
        raise unknown_name("panel", which, ["auto", *_WHICH])
    name = _WHICH[which if which != "auto" else _available()]
    traces = {recipe.name: recipe.trace() for recipe in PANELS[name][split]}
    return make_panel(name, split, traces, real=name != "synthetic-v1")


def make_panel(
    name: str,
    split: str,
    traces: Mapping[str, Trace],
    real: bool,
    fractions: Sequence[float] = CAPACITY_FRACTIONS,
) -> Panel:
    """Lay traces out over a capacity ladder.

    Args:
        name: Name of the panel.
        split: Name of the split.
        traces: Traces by name.
        real: Whether they were recorded.
        fractions: Capacities as shares of each trace's distinct blocks, rising.

    Returns:
        The panel, fingerprinted.
    """
    cells: list[Cell] = []
    notes: list[str] = []
    for trace_name, trace in traces.items():
        rungs, note = ladder(trace_name, trace, fractions)
        cells += rungs
        notes += note
    contents = [
        name,
        split,
        {key: trace.fingerprint for key, trace in traces.items()},
        [[cell.trace_name, cell.fraction, cell.capacity_blocks, cell.raised] for cell in cells],
    ]
    fingerprint = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return Panel(name, split, dict(traces), tuple(cells), fingerprint, real, tuple(notes))


def ladder(trace_name: str, trace: Trace, fractions: Sequence[float]) -> tuple[list[Cell], list[str]]:
    """Return the cells of one trace, and notes on rungs that were dropped.

    Rungs that are raised to the same capacity would count one cell twice: only the largest fraction is kept.

    Args:
        trace_name: Key of the trace in the panel.
        trace: The trace.
        fractions: Shares of its distinct blocks, rising.
    """
    if not fractions or any(not 0 < a <= 1 for a in fractions) or sorted(set(fractions)) != list(fractions):
        raise TraceError(f"capacity fractions {list(fractions)}: expected rising shares from above 0 to 1")
    floor_blocks = max(1, int(trace.occupied_blocks.max()))
    kept: dict[int, Cell] = {}
    notes = []
    for fraction in fractions:
        nominal = max(1, int(Fraction(str(fraction)) * trace.n_blocks))
        cell = Cell(trace_name, fraction, max(nominal, floor_blocks), nominal < floor_blocks)
        if cell.capacity_blocks in kept:
            lower = kept[cell.capacity_blocks].fraction
            notes.append(
                f"{trace_name}: {lower:.0%} dropped, with {cell.capacity_blocks:,} blocks (the longest prompt needs"
                f" {floor_blocks:,}) it equals {fraction:.0%}"
            )
        kept[cell.capacity_blocks] = cell
    return list(kept.values()), notes


def describe(panel: Panel) -> str:
    """Return the panel as a text table: traces, sizes, capacities, fingerprint, notes."""
    kind = "recorded traffic" if panel.real else "SYNTHETIC traffic (no recorded traces at hand)"
    lines = [f"panel {panel.name} / {panel.split}: {kind}, fingerprint {panel.fingerprint[:16]}"]
    header = f"{'trace':32s} {'requests':>9s} {'block refs':>11s} {'distinct':>9s} {'block':>6s}  capacities in blocks"
    lines.append(header)
    for name, trace in panel.traces.items():
        rungs = [cell for cell in panel.cells if cell.trace_name == name]
        sizes = "  ".join(f"{c.fraction:.0%}={c.capacity_blocks:,}{'*' if c.raised else ''}" for c in rungs)
        counts = f"{trace.n_requests:9,d} {trace.n_refs:11,d} {trace.n_blocks:9,d} {trace.block_tokens:6d}"
        lines.append(f"{name:32s} {counts}  {sizes}")
    lines.append(f"{len(panel.cells)} cells, {panel.n_refs:,} block refs per pass; * raised to the longest prompt")
    lines += [f"note: {note}" for note in panel.notes]
    return "\n".join(lines)


def _available() -> str:
    """Return the best panel whose files are all at hand."""
    for which in ("real", "mooncake"):
        if all(locate.find(source) is not None for source in sources(_WHICH[which])):
            return which
    return "synthetic"
