"""Panels: named, versioned sets of traces x capacities to score policies on.

Knows splits, cells and fingerprints. Must not know policies or scores, nor how a trace is read or a file checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from workloads import formats, panel_file, panel_recipes
from workloads.errors import TraceError, unknown_name
from workloads.ladder import Capacity, Cell, ladder
from workloads.panel_file import SPLITS
from workloads.trace import Trace
from workloads.warmup import first_counted

__all__ = ["SPLITS", "Cell", "Panel", "Setup", "describe", "describe_known", "load_panel", "make_panel"]


@dataclass(frozen=True)
class Setup:
    """How a trace is replayed and counted.

    Attributes:
        capacities: Cache sizes, see `workloads.ladder`.
        model: For capacities in memory.
        warmup: Not counted, see `workloads.warmup.first_counted`.
        weight: Of the trace's cells in the mean of the score.
    """

    capacities: tuple[Capacity, ...] = ("1%", "2%", "5%", "10%", "20%")
    model: str | int | None = None
    warmup: int | str = 0
    weight: float = 1.0


@dataclass(frozen=True, repr=False)
class Panel:
    """Traces and the cells to replay them at.

    Attributes:
        name: Name and version, for example ``real-v1``.
        split: ``train``, ``validation`` or ``test``.
        traces: Traces by name.
        cells: Every (trace, capacity) to replay, traces in order, capacities rising.
        fingerprint: SHA-256 (hex) over name, split, the traces' fingerprints, the cells, and what is set of warm-up and
            weights: results compare only under equal fingerprints.
        generated: Names of the traces that were generated, not recorded.
        weights: Weight of each trace in the mean of the score; 1 where not named.
        which: What `load_panel` finds this panel by: its name if it is shipped, else the path of its file.
        notes: What a reader of the results should know: capacities that fell together, what the panel's file says.
    """

    name: str
    split: str
    traces: Mapping[str, Trace]
    cells: tuple[Cell, ...]
    fingerprint: str
    generated: frozenset[str] = frozenset()
    weights: Mapping[str, float] = field(default_factory=dict)
    which: str = ""
    notes: tuple[str, ...] = ()

    @property
    def real(self) -> bool:
        """Whether any of the traces was recorded."""
        return len(self.generated) < len(self.traces)

    @property
    def traffic(self) -> str:
        """What the traces are, in words."""
        if not self.real:
            return "SYNTHETIC traffic"
        return "recorded and SYNTHETIC traffic" if self.generated else "recorded traffic"

    def weight(self, trace_name: str) -> float:
        """Return the weight of a trace's cells in the mean of the score."""
        return self.weights.get(trace_name, 1.0)

    def prompt_tokens(self, cell: Cell) -> int:
        """Return the prompt tokens that count in a cell: those after its warm-up."""
        return int(self.traces[cell.trace_name].input_tokens[cell.first_counted :].sum(dtype="int64"))

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
            ``synthetic``, or ``auto``: the first of these whose files are all at hand, for every split alike; or the
            path of a panel's YAML file (copy one of ``workloads/panels``).
        purpose: ``"report"`` to load the test split; ignored for the others.

    Returns:
        The panel. Only traces of this split are held; derived traces come from the user cache.

    Raises:
        TraceError: unknown split or panel, a file that says what it must not, or a trace that is not at hand.
        ValueError: the test split without ``purpose="report"``.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if split == "test" and purpose != "report":
        raise ValueError(
            "the test split is for reports only, evolution and tuning must not see it;"
            " fix: use split 'validation', or pass purpose='report' when writing a report"
        )
    file = panel_file.find(which)
    entries = file.traces(split)
    traces = {entry.name: panel_recipes.make(entry, file.path.parent) for entry in entries}
    model = None if file.model is None else _placed(file.model, file)
    setups = {entry.name: Setup(entry.capacities, model, entry.warmup, entry.weight) for entry in entries}
    generated = frozenset(entry.name for entry in entries if formats.is_generated(entry.source))
    panel = make_panel(file.name, split, traces, setups, generated, file.which)
    return replace(panel, notes=(*panel.notes, *(f"{entry.name}: {entry.note}" for entry in entries if entry.note)))


def make_panel(
    name: str,
    split: str,
    traces: Mapping[str, Trace],
    setups: Mapping[str, Setup] | Setup = Setup(),
    generated: frozenset[str] = frozenset(),
    which: str = "",
) -> Panel:
    """Lay traces out over their capacities.

    Args:
        name: Name of the panel.
        split: Name of the split.
        traces: Traces by name.
        setups: How each is replayed and counted, or all of them.
        generated: Names of those that were generated.
        which: See `Panel`.

    Returns:
        The panel, fingerprinted.

    Raises:
        TraceError: a capacity or a warm-up that makes no sense for its trace.
    """
    cells: list[Cell] = []
    notes: list[str] = []
    per_trace = {key: setups if isinstance(setups, Setup) else setups[key] for key in traces}
    for trace_name, trace in traces.items():
        setup = per_trace[trace_name]
        try:
            first = first_counted(trace, setup.warmup)
        except TraceError as error:
            raise TraceError(f"trace {trace_name!r}: {error}") from None
        rungs, note = ladder(trace_name, trace, setup.capacities, setup.model, first)
        cells += rungs
        notes += note
    weights = {key: setup.weight for key, setup in per_trace.items()}
    contents: list[object] = [
        name,
        split,
        {key: trace.fingerprint for key, trace in traces.items()},
        [[cell.trace_name, cell.fraction, cell.capacity_blocks, cell.raised] for cell in cells],
    ]
    warm = {cell.trace_name: cell.first_counted for cell in cells}
    if any(warm.values()) or set(weights.values()) != {1.0}:
        contents += [warm, weights]
    fingerprint = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return Panel(name, split, dict(traces), tuple(cells), fingerprint, generated, weights, which, tuple(notes))


def describe(panel: Panel) -> str:
    """Return the panel as a text table: traces, sizes, capacities, fingerprint, notes."""
    kind = panel.traffic if panel.real else f"{panel.traffic} (no recorded traces in it)"
    lines = [f"panel {panel.name} / {panel.split}: {kind}, fingerprint {panel.fingerprint[:16]}"]
    header = f"{'trace':32s} {'requests':>9s} {'block refs':>11s} {'distinct':>9s} {'block':>6s}  capacities in blocks"
    lines.append(header)
    for name, trace in panel.traces.items():
        rungs = [cell for cell in panel.cells if cell.trace_name == name]
        sizes = "  ".join(f"{c.label}={c.capacity_blocks:,}{'*' if c.raised else ''}" for c in rungs)
        counts = f"{trace.n_requests:9,d} {trace.n_refs:11,d} {trace.n_blocks:9,d} {trace.block_tokens:6d}"
        lines.append(f"{name:32s} {counts}  {sizes}")
    lines.append(f"{len(panel.cells)} cells, {panel.n_refs:,} block refs per pass; * raised to the longest prompt")
    for name in panel.traces:
        warm = next(cell.first_counted for cell in panel.cells if cell.trace_name == name)
        said = [f"the first {warm:,} requests warm up and are not counted"] * bool(warm)
        said += [f"weight {panel.weight(name):g}"] * (panel.weight(name) != 1.0)
        said += ["generated"] * (panel.real and name in panel.generated)
        if said:
            lines.append(f"{name}: {', '.join(said)}")
    lines += [f"note: {note}" for note in panel.notes]
    return "\n".join(lines)


def describe_known() -> str:
    """Return a line per shipped panel: whether its traces are at hand, and what it is for."""
    lines = []
    for name, path in panel_file.shipped().items():
        if name != path.stem:
            continue
        file = panel_file.read(path)
        missing = file.missing()
        state = f"missing {', '.join(missing)}" if missing else "all traces at hand"
        lines.append(f"{name:<16} {state}; {' '.join(file.about.split())}")
    lines.append(
        f"a panel of your own: copy a file of {panel_file.SHIPPED}, name it, give its path where a panel is asked for"
    )
    return "\n".join(lines)


def _placed(model: str, file: panel_file.PanelFile) -> str:
    """Return a model with its relative path, if it is one, made absolute."""
    target, question, query = model.partition("?")
    beside = file.path.parent / target
    return f"{beside}{question}{query}" if beside.is_file() and not target.isdigit() else model
