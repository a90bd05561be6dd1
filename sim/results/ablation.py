"""Which signals matter: each field of a policy replaced by a constant, chosen on train, scored on validation.

Knows fields and splits. Must not know how a replay runs or a report is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.core.fields import NEVER
from sim.policy.program import Policy
from sim.results import edits, figures
from sim.results.contenders import Evolved
from sim.results.means import gap_means
from sim.results.places import measure, places_of
from sim.results.replays import SERIAL, Runner, Workers
from sim.results.report import Report, Table, gap
from sim.results.retuning import retuned
from workloads import progress
from workloads.panel import Panel, load_panel

CONSTANTS = (0.0, 1.0, 10.0, 100.0, 1000.0, NEVER)
"""Tried in the place of a field; the best on train stays."""
TEXT = (
    "Each field a policy reads is replaced by a constant: of {constants} the one with the best training "
    "score{tuned}. Loss: mean gap closed of the whole policy minus that of the reduced one; negative if the field "
    "did harm. The constant is chosen on train; the numbers are of the validation split."
)


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
    losses: dict[str, float] = {}
    for each in policies:
        policy = Policy.from_source(each.source, each.name)
        reduced = {field: _reduced(policy, *field, train, passes, workers) for field in edits.fields_read(policy)}
        runners = {field: Runner(found.name, found.source) for field, found in reduced.items()}
        every = [each.runner, *runners.values()]
        measured = measure(validation.traces, places_of(validation), every, workers, "ablation, replays")
        whole = gap_means(measured.cells(each.runner))
        found = {".".join(field): gap_means(measured.cells(runner)) for field, runner in runners.items()}
        rows = [
            [name, *(gap(whole[trace] - means[trace]) for trace in whole)]
            for name, means in sorted(found.items(), key=lambda item: item[1]["mean"])
        ]
        rows.append(["nothing (gap closed)", *(gap(value) for value in whole.values())])
        tables.append(Table(f"{each.name}: loss without a field", ["without", *whole], rows))
        sources = {".".join(field): policy.source for field, policy in reduced.items()}
        data[each.name] = {"whole": whole, "without": found, "sources": sources}
        losses |= {f"{each.name}: {name}": whole["mean"] - means["mean"] for name, means in found.items()}
    said = ", ".join(f"{value:g}" for value in CONSTANTS)
    tuned = f", its literals then tuned on train in {passes} passes" if passes else ""
    drawing = {"ablation": lambda path: figures.bars(losses, "gap closed lost without the field", path)}
    text = TEXT.format(constants=said, tuned=tuned)
    facts: dict[str, Any] = {"panel": validation.name, "fingerprint": validation.fingerprint, "passes": passes}
    return Report(
        "ablation", "Which signals matter", text, tables, facts | {"policies": data}, drawing if losses else {}
    )


def _reduced(policy: Policy, record: str, field: str, train: Panel, passes: int, workers: Workers) -> Policy:
    tried = [edits.without_field(policy, record, field, constant) for constant in CONSTANTS]
    runners = [Runner(each.name, each.source) for each in tried]
    measured = measure(train.traces, places_of(train), runners, workers, f"without {record}.{field}, replays")
    best = max(zip(tried, runners, strict=True), key=lambda pair: measured.score(pair[1]))[0]
    if passes:
        progress.tell(f"tuning without {record}.{field}", 0)
    return retuned(best, train.traces, places_of(train), passes, best.name)
