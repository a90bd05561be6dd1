"""Which signals matter: each field of a policy replaced by a constant, chosen on train, scored on validation.

Knows fields and splits. Must not know how a replay runs or a report is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sim.core.fields import NEVER
from sim.policy.program import Policy
from sim.results import edits, figures
from sim.results.contenders import Evolved
from sim.results.means import gap_means
from sim.results.places import Ends, GapIntervals, measure, places_of
from sim.results.replays import SERIAL, Runner, Workers
from sim.results.report import Report, Table, gap, ranged
from sim.results.retuning import retuned
from sim.simulation import PolicyError
from workloads import progress
from workloads.panel import Panel, load_panel

CONSTANTS = (0.0, 1.0, 100.0, 10_000.0, NEVER)
"""Tried in the place of a field."""
NEARER = (0.1, 10.0)
"""Times the best of them: tried next; the best of all stays."""
READING = (
    "Loss: mean gap closed by the whole policy minus that of the policy without a field; about 0 if the field is not "
    "needed, negative if it does harm."
)
TEXT = (
    "Each field that the policy reads is replaced, wherever it is read, by a constant: of {constants}, then of a tenth "
    "and ten times the best of these, the one with the best score on every other cell of the train split{tuned}. So "
    "what is lost is what the field says beyond a well chosen number. Losses are of the validation split; intervals "
    "are 95%, paired. s0, s1, ... are the policy's own notes. Fields that say nearly the same hide each other: where "
    "either is enough, neither is missed alone."
)
WHOLE = "nothing (gap closed)"


def report(which: str, policies: Sequence[Evolved], passes: int, workers: Workers = SERIAL) -> Report:
    """Ablate policies field by field.

    Args:
        which: The panel.
        policies: What to ablate.
        passes: Evaluations to tune each reduced policy's literals with, on train; 0 for none.
        workers: Where replays run.
    """
    train, validation = (load_panel(split, which) for split in ("train", "validation"))
    tables, data = [], {}
    losses: dict[str, tuple[float, Ends]] = {}
    for each in policies:
        policy = Policy.from_source(each.source, each.name)
        read = edits.fields_read(policy)
        reduced: dict[str, Policy] = {}
        for done, (record, field) in enumerate(read):
            progress.tell(f"ablating {each.name}, fields", done, len(read))
            reduced[f"{record}.{field}"] = _reduced(policy, record, field, train, passes, workers)
        table, mine, data[each.name] = _measured(each, reduced, validation, workers)
        tables.append(table)
        losses |= {f"{each.name}: {name}" if len(policies) > 1 else name: loss for name, loss in mine.items()}
    said = ", ".join(f"{value:g}" for value in CONSTANTS)
    tuned = f", its literals then tuned on train in {passes} passes" if passes else ""
    text = TEXT.format(constants=said, tuned=tuned)
    drawing = {"ablation": lambda path: figures.bars(losses, "gap closed lost without the field, mean of cells", path)}
    facts: dict[str, Any] = {"panel": validation.name, "fingerprint": validation.fingerprint, "passes": passes}
    facts |= {"policies": data}
    return Report("ablation", "Which signals matter", READING, text, tables, facts, drawing if losses else {})


def _measured(
    each: Evolved, reduced: Mapping[str, Policy], panel: Panel, workers: Workers
) -> tuple[Table, dict[str, tuple[float, Ends]], dict[str, Any]]:
    """Return a table of losses, the losses of the mean with intervals, and all numbers."""
    runners = {name: Runner(policy.name, policy.source) for name, policy in reduced.items()}
    everyone = [each.runner, *runners.values()]
    measured = measure(panel.traces, places_of(panel), everyone, workers, "ablation, replays")
    ends = GapIntervals(measured)
    counting = [place for place in measured.places if measured.cell(each.runner, place).counts]
    whole = gap_means(measured.cells(each.runner))
    without = {name: gap_means(measured.cells(runner)) for name, runner in runners.items()}
    losses = {
        name: (whole["mean"] - without[name]["mean"], ends.difference(each.runner, runner, counting))
        for name, runner in runners.items()
    }
    order = sorted(losses, key=lambda name: -losses[name][0])
    rows = [
        [name, ranged(*losses[name]), *(gap(whole[trace] - without[name][trace]) for trace in list(whole)[1:])]
        for name in order
    ]
    rows.append([WHOLE, *(gap(value) for value in whole.values())])
    table = Table(f"{each.name}: gap closed lost without a field, validation split", ["without", *whole], rows)
    facts = {"whole": whole, "without": without, "sources": {name: policy.source for name, policy in reduced.items()}}
    facts["loss"] = {name: {"mean": loss, "interval": list(span)} for name, (loss, span) in losses.items()}
    return table, losses, facts


def _reduced(policy: Policy, record: str, field: str, train: Panel, passes: int, workers: Workers) -> Policy:
    scores: dict[float, float] = {}

    def score(constant: float) -> float:
        if constant not in scores:
            scores[constant] = _score(edits.without_field(policy, record, field, constant), train, workers)
        return scores[constant]

    best = max(CONSTANTS, key=score)
    best = max((best, *(best * factor for factor in NEARER)), key=score)
    reduced = edits.without_field(policy, record, field, best)
    if passes:
        progress.tell(f"tuning without {record}.{field}", 0)
    return retuned(reduced, train.traces, places_of(train), passes, reduced.name)


def _score(policy: Policy, train: Panel, workers: Workers) -> float:
    """Return the score on every other cell; that of a policy which gives no number is below all."""
    runner = Runner(policy.name, policy.source)
    try:
        return measure(train.traces, places_of(train)[::2], [runner], workers, f"{policy.name}, replays").score(runner)
    except PolicyError:
        return -math.inf
