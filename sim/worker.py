"""Runs candidates inside the isolated child: gate, compile, clock probe, smoke cell, panel. Raw counts come out.

Loaded by the zygote, which holds the training traces only. Must not know the optimum, next uses, baselines or how
counts become a score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.policy.compiler import Compiled, compile_policy
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy, clock_origin
from sim.prepared import Prepared, prepare
from sim.result import counted_hits
from sim.simulation import Options, PolicyError, run_policy
from workloads.panel import Panel, load_panel
from workloads.panel_reduction import reduced

CLOCK_TOLERANCE = 0.002
"""Share of a cell's prompt tokens by which hits may differ when all clocks are shifted."""

Answer = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]
_WARM_UP = "def priority(block, cache):\n    return block.released\n"


def load(split: str, which: str, fingerprint: str, most_refs: int | None = None) -> Callable[[dict[str, Any]], Answer]:
    """Load a panel, compile what can be compiled ahead, and return the handler that runs in each child.

    Args:
        split: "train" or "validation"; never the test split.
        which: Panel to load, see `workloads.panel.load_panel`.
        fingerprint: What the panel must be: a panel's file may change while a run lasts.
        most_refs: Block references of each trace of the reduced panel; None for the whole one.

    Raises:
        ValueError: If it is another panel.
    """
    panel = load_panel(split, which)
    if most_refs is not None:
        panel = reduced(panel, most_refs)
    if panel.fingerprint != fingerprint:
        raise ValueError(
            f"panel {panel.name} {split} is {panel.fingerprint[:12]} now and was {fingerprint[:12]} when the evaluator"
            " started; fix: start again, its scores would not compare"
        )
    for name in panel.traces:
        prepare(panel.traces[name])
    run_policy(prepare(panel.traces[panel.cells[0].trace_name]), compile_policy(_policy(_WARM_UP)), 10**6, Options())

    def handle(request: dict[str, Any]) -> Answer:
        return _handle(panel, request)

    return handle


def smoke_cell(panel: Panel) -> int:
    """Return the index of the cell with the fewest references."""
    return min(range(len(panel.cells)), key=lambda i: panel.traces[panel.cells[i].trace_name].n_refs)


def _policy(source: str) -> Policy:
    return Policy.from_source(source, "candidate")


def _handle(panel: Panel, request: Mapping[str, Any]) -> Answer:
    source = str(request["source"])
    try:
        policy = _policy(source)
    except PolicyRejected as rejection:
        return {"stage": "gate", "findings": [str(finding) for finding in rejection.findings]}, {}
    except (RecursionError, ValueError) as error:
        return {"stage": "gate", "findings": [f"line 1: cannot be read, {error}. Fix: write simpler code"]}, {}
    try:
        compiled = compile_policy(policy)
    except PolicyRejected as rejection:
        return {"stage": "compile", "findings": [str(finding) for finding in rejection.findings]}, {}
    origin = clock_origin(source)
    try:
        if request["task"] == "log":
            return _log_evictions(panel, compiled, origin, int(request["cell"]), int(request["evictions"]))
        return _run(panel, compiled, origin, float(request["smoke_floor"]))
    except PolicyError as error:
        line = policy.functions["priority"].lineno
        return {"stage": "run", "findings": [f"line {line}: {error}"]}, {}


def _run(panel: Panel, compiled: Compiled, origin: int, smoke_floor: float) -> Answer:
    policy = compiled.policy
    facts = {"nodes": policy.nodes, "scoring": policy.scoring, "timeless": policy.timeless}
    smoke = smoke_cell(panel)
    known = {smoke: _replay(panel, smoke, compiled, origin)}
    finding = _clock_finding(panel, smoke, compiled, origin, known[smoke])
    trace = panel.traces[panel.cells[smoke].trace_name]
    if not finding and known[smoke]["hit_blocks"] * trace.block_tokens < smoke_floor:
        return {"stage": "smoke", "cell": smoke, "counts": [known[smoke]], "findings": [], **facts}, {}
    if not finding:
        drawn = _drawn_cell(panel, origin)
        known.setdefault(drawn, _replay(panel, drawn, compiled, origin))
        finding = _clock_finding(panel, drawn, compiled, origin, known[drawn])
    if finding:
        return {"stage": "clock", "findings": [finding], **facts}, {}
    counts = [known.get(i) or _replay(panel, i, compiled, origin) for i in range(len(panel.cells))]
    return {"stage": "panel", "counts": counts, "findings": [], **facts}, {}


def _drawn_cell(panel: Panel, origin: int) -> int:
    """Return a small cell that a candidate cannot choose: a second place where its clocks are shifted."""
    refs = [panel.traces[cell.trace_name].n_refs for cell in panel.cells]
    small = [i for i, count in enumerate(refs) if count <= 2 * min(refs)]
    return small[origin % len(small)]


def _clock_finding(panel: Panel, index: int, compiled: Compiled, origin: int, counts: Mapping[str, int]) -> str:
    """Return what to say if the hits of a cell change when all clocks are shifted, else nothing."""
    shifted = _replay(panel, index, compiled, origin + 777_777)
    trace = panel.traces[panel.cells[index].trace_name]
    moved = abs(counts["hit_blocks"] - shifted["hit_blocks"]) * trace.block_tokens
    if moved <= CLOCK_TOLERANCE * panel.prompt_tokens(panel.cells[index]):
        return ""
    return (
        f"line {compiled.policy.functions['priority'].lineno}: with all clocks shifted the policy hits "
        f"{shifted['hit_blocks']} blocks instead of {counts['hit_blocks']}: it depends on absolute time. Fix: use "
        "differences (age, gap, residence), or compare blocks by last_access or released alone; a private slot starts "
        "at 0, not at the clock's origin"
    )


def _replay(panel: Panel, index: int, compiled: Compiled, origin: int) -> dict[str, int]:
    """Return the counters of a cell; of its hits, those of the requests that count."""
    prepared, capacity_blocks = _cell(panel, index)
    outcome = run_policy(prepared, compiled, capacity_blocks, Options(clock_origin=origin))
    return {**outcome.counts, "hit_blocks": counted_hits(outcome.hits, panel.cells[index].first_counted)}


def _cell(panel: Panel, index: int) -> tuple[Prepared, int]:
    cell = panel.cells[index]
    return prepare(panel.traces[cell.trace_name]), cell.capacity_blocks


def _log_evictions(panel: Panel, compiled: Compiled, origin: int, index: int, evictions: int) -> Answer:
    prepared, capacity_blocks = _cell(panel, index)
    outcome = run_policy(prepared, compiled, capacity_blocks, Options(clock_origin=origin), log_evictions=evictions)
    assert outcome.state is not None
    request = outcome.state.log_request[: outcome.logged]
    block = outcome.state.log_block[: outcome.logged]
    return {"stage": "log", "findings": []}, {"request": request, "block": block.astype(np.int64)}
