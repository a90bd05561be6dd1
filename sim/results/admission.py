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

TEXT = (
    "Mean gap closed by the whole policy, by its eviction alone (everything is admitted) and by its admission alone "
    "(what is in leaves by LRU). A policy without `admit` has no admission to measure. Nothing is tuned again."
)


def report(which: str, split: str, policies: Sequence[Evolved], workers: Workers = SERIAL) -> Report:
    """Measure both halves of policies on a split."""
    panel = load_panel(split, which, purpose="report")
    variants: dict[tuple[str, str], Runner] = {}
    for each in policies:
        policy = Policy.from_source(each.source, each.name)
        open_ = edits.without_admission(policy)
        halves = {"whole": policy, "eviction alone": open_ or policy}
        if open_:
            halves["admission alone"] = edits.with_lru_eviction(policy)
        variants |= {(each.name, title): Runner(half.name, half.source) for title, half in halves.items()}
    runners = list(dict.fromkeys(variants.values()))
    measured = measure(panel.traces, places_of(panel), runners, workers, "admission against eviction, replays")
    found = {key: gap_means(measured.cells(runner)) for key, runner in variants.items()}
    head = ["policy", "part", *next(iter(found.values()))]
    rows = [[name, title, *(gap(value) for value in means.values())] for (name, title), means in found.items()]
    data = {f"{name}: {title}": means for (name, title), means in found.items()}
    facts = {"panel": panel.name, "split": split, "fingerprint": panel.fingerprint, "mean_gap_closed": data}
    return Report("admission", "Admission against eviction", TEXT, [Table(f"{split} split", head, rows)], facts)
