"""Admission against eviction: a policy without the one, without the other.

Knows policies and splits. Must not know how a replay runs or a report is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.policy.program import Policy
from sim.results import edits
from sim.results.contenders import Evolved
from sim.results.means import gap_means
from sim.results.places import measure, places_of
from sim.results.replays import SERIAL, Runner, Workers
from sim.results.report import Report, Table, gap
from workloads.panel import load_panel

READING = (
    "Mean gap closed by the whole policy, by its eviction alone (everything is admitted) and by its admission alone "
    "(what is in leaves by LRU): 0 is LRU, 1 the optimum."
)
TEXT = "Nothing is tuned again."
NO_ADMISSION = " {names} let everything in: with no `admit`, all that is won is won by eviction."


def report(which: str, split: str, policies: Sequence[Evolved], workers: Workers = SERIAL) -> Report:
    """Measure both halves of policies on a split."""
    panel = load_panel(split, which, purpose="report")
    variants: dict[tuple[str, str], Runner] = {}
    for each in policies:
        policy = Policy.from_source(each.source, each.name)
        halves = {"whole": policy}
        if without := edits.without_admission(policy):
            halves |= {"eviction alone": without, "admission alone": edits.with_lru_eviction(policy)}
        variants |= {(each.name, title): Runner(half.name, half.source) for title, half in halves.items()}
    runners = list(dict.fromkeys(variants.values()))
    measured = measure(panel.traces, places_of(panel), runners, workers, "admission against eviction, replays")
    found = {key: gap_means(measured.cells(runner)) for key, runner in variants.items()}
    head = ["policy", "part", *next(iter(found.values()))]
    rows = [[name, title, *(gap(value) for value in means.values())] for (name, title), means in found.items()]
    data = {f"{name}: {title}": means for (name, title), means in found.items()}
    open_ = [each.name for each in policies if (each.name, "admission alone") not in variants]
    text = TEXT + (NO_ADMISSION.format(names=", ".join(open_)) if open_ else "")
    facts = {"panel": panel.name, "split": split, "fingerprint": panel.fingerprint, "mean_gap_closed": data}
    table = Table(f"Mean gap closed, {split} split", head, rows)
    return Report("admission", "Admission against eviction", READING, text, [table], facts)
