"""The promotion gate: what a policy has to show on the validation split before its test split is read, once.

    contract    the language admits it
    isolated    a fresh, sandboxed process runs it within limits, whatever its clocks show, and counts the same hits
    size, cost  syntax nodes, time per decision
    twin        the pure-Python twin of the engine hits the same, request by request
    renaming    other block ids, tenants and types change no hit
    baselines   its score beats every rival's beyond chance (`sim.promotion.bootstrap`)
    lru         no trace is worse off than under LRU
    capacity, block size, time    it keeps its gain when they change (`sim.promotion.stability`)

Knows which rules there are and in which order they are tried. Must not know the test split. What passes one rule and
fails another is in tests/test_promotion_gaming.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sim import resampling
from sim.executor import run
from sim.marks import LRU, Marks, load_marks
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.promotion import bootstrap, cost, rescoring, rivals
from sim.promotion.bootstrap import Entry
from sim.promotion.renaming import check_renaming
from sim.promotion.replays import Column, Hits, hits_of
from sim.promotion.rivals import Rival
from sim.promotion.stability import check_stability
from sim.promotion.verdict import NOT_TRIED, RULES, Check, Verdict
from sim.score import TOLERATED_LOSS, Cell
from sim.simulation import PolicyError
from workloads.panel import Panel, load_panel
from workloads.progress import tell

Progress = Callable[[int, int], None]


def judge(
    policy: str | Path | Policy,
    panel: str = "auto",
    executor: str = "serial",
    workers: int | None = None,
    against: Mapping[str, Rival] | None = None,
) -> Verdict:
    """Try a policy against every rule of the gate, on the validation split alone.

    A rule that keeps it from being run any further (contract, isolated, cost) ends the trial; else all are tried.

    Args:
        policy: A file, or a `Policy`.
        panel: Name or file of the panel, see `workloads.panel.load_panel`.
        executor: "serial", "process" or "ray", see `sim.executor.run`.
        workers: Most replays at a time.
        against: What it has to beat; default all of `sim.promotion.rivals`. The engine's LRU is always among them.

    Raises:
        ValueError: If there is no such file or panel.
    """
    name, source = read(policy)
    found = load_panel("validation", panel)
    trial = _Trial(found, source, executor, workers, against or rivals.rivals())
    checks: dict[str, Check] = {}
    for check in trial.checks(name):
        checks[check.name] = check
    every = tuple(checks.get(rule) or Check(rule, False, {}, NOT_TRIED) for rule in RULES)
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    return Verdict(name, sha256, trial.nodes, found.name, found.fingerprint, every, trial.hit_tokens)


def read(policy: str | Path | Policy) -> tuple[str, str]:
    """Return name and text of a policy, which need not be admitted.

    Raises:
        ValueError: If it cannot be read as text.
    """
    if isinstance(policy, Policy):
        return policy.name, policy.source
    path = Path(policy)
    try:
        return path.stem, path.read_bytes().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; fix: save the file as UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}; fix: give the file of a policy") from None


class _Trial:
    """One policy on one panel."""

    def __init__(
        self, panel: Panel, source: str, executor: str, workers: int | None, against: Mapping[str, Rival]
    ) -> None:
        self.panel, self.source, self.how = panel, source, (executor, workers)
        self.against = {LRU: Rival(Column(LRU), 0), **against}
        self.nodes = 0
        self.hit_tokens: tuple[int, ...] = ()

    def checks(self, name: str) -> Iterator[Check]:
        """Yield the checks as they are made; what was not tried is not among them."""
        try:
            policy = Policy.from_source(self.source, name)
        except PolicyRejected as rejection:
            yield Check("contract", False, {}, "; ".join(map(str, rejection.findings)))
            return
        self.nodes = policy.nodes
        yield Check("contract", True, {"nodes": policy.nodes, "scoring": policy.scoring}, "a policy of the language")
        _tell("running it in a fresh process", 0, 1)
        isolated, tokens = rescoring.check_isolated(self.panel, self.source)
        if not isolated.passed:
            yield isolated
            return
        yield cost.check_size(policy)
        timed = cost.check_cost(self.panel, self.source, partial(_tell, "timing it, traces"))
        yield timed
        if not timed.passed:
            yield isolated
            return
        yield from self._replayed(policy, isolated, tokens)

    def _replayed(self, policy: Policy, isolated: Check, tokens: Sequence[int]) -> Iterator[Check]:
        marks = load_marks(self.panel, *self.how)
        jobs = [(c.trace_name, (Column(policy.name, self.source), c.capacity_blocks)) for c in self.panel.cells]
        hits: list[Hits] = run(hits_of, self.panel.traces, jobs, *self.how, partial(_tell, "replaying it, cells"))
        candidate = Entry(hits, policy.nodes)
        here = bootstrap.tokens(marks, hits)
        self.hit_tokens = tuple(here)
        yield rescoring.same_hits(isolated, tokens, here)
        yield rescoring.check_twin(self.panel, policy, *self.how, partial(_tell, "replaying it in Python, traces"))
        yield self._run("renaming", check_renaming, "renaming blocks and labels, traces")[0]
        yield self._baselines(marks, candidate)
        yield check_lru(marks.cells(here))
        yield from self._run("capacity", check_stability, "changing capacity, block size and time, traces")

    def _run(self, rule: str, call: Callable[..., Any], what: str) -> list[Check]:
        """Return the checks of a rule that replays under other conditions; a policy that breaks there fails it."""
        try:
            found = call(self.panel, self.source, *self.how, partial(_tell, what))
        except PolicyError as error:
            return [Check(rule, False, {}, str(error))]
        return found if isinstance(found, list) else [found]

    def _baselines(self, marks: Marks, candidate: Entry) -> Check:
        stored = rivals.rival_hits(self.panel, self.against, *self.how, partial(_tell, "replaying baselines, cells"))
        others = {name: Entry(stored[name], rival.nodes) for name, rival in self.against.items()}
        return check_baselines(marks, candidate, others)


def check_baselines(marks: Marks, candidate: Entry, others: Mapping[str, Entry]) -> Check:
    """Return whether the score beats every other's by more than chance, however requests are clustered.

    Each comparison is made at the full confidence: all have to be won, so making many does not make winning easier.
    """
    found = {
        kind: bootstrap.intervals(marks, candidate, others, kind, partial(_tell, f"drawing {kind}, policies"))
        for kind in resampling.CLUSTERINGS
    }
    scores = {name: bootstrap.combined(marks, entry) for name, entry in others.items()}
    best = max(scores, key=lambda name: scores[name])
    kind, rival = min(((kind, name) for kind in found for name in others), key=lambda pair: found[pair[0]][pair[1]].low)
    hardest = found[kind][rival]
    mine = bootstrap.combined(marks, candidate)
    figures = {
        "score": mine,
        "best_baseline": best,
        "best_baseline_score": scores[best],
        "hardest_baseline": rival,
        "hardest_clustering": kind,
        "confidence": resampling.CONFIDENCE,
        "samples": resampling.SAMPLES,
        "without_a_trace": bootstrap.without_a_trace(marks, candidate, others[best]),
        "baselines": {
            name: {"score": scores[name], "difference": found[kind][name].measured}
            | {each: [found[each][name].low, found[each][name].high] for each in found}
            for name in others
        },
    }
    text = (
        f"{mine:+.4f}, best baseline {best} {scores[best]:+.4f}; closest is {rival}: {hardest.measured:+.4f},"
        f" {100 * resampling.CONFIDENCE:g}% {hardest.low:+.4f} to {hardest.high:+.4f} over {kind}"
    )
    return Check("baselines", hardest.low > 0.0, figures, text)


def check_lru(cells: Sequence[Cell]) -> Check:
    """Return whether every trace does as well as under LRU on average over its capacities.

    Where cells of a trace count, by the gap closed over those; where none does, no policy can win there, and it may
    lose as much as the score tolerates.
    """
    figures: dict[str, Any] = {}
    faults = []
    for name in dict.fromkeys(cell.trace for cell in cells):
        own = [cell for cell in cells if cell.trace == name]
        counting = [max(cell.gap_closed, -1.0) for cell in own if cell.counts]
        lost = sum(cell.lost for cell in own) / len(own)
        mean = sum(counting) / len(counting) if counting else None
        figures[name] = {"gap_closed": mean, "lost_to_lru": lost} | {
            "cells": [
                {"capacity_blocks": c.capacity_blocks, "gap_closed": c.gap_closed, "lost_to_lru": c.lost} for c in own
            ]
        }
        if (mean is not None and mean < 0.0) or (mean is None and lost > TOLERATED_LOSS):
            shown = f"gap closed {mean:+.3f}" if mean is not None else f"{100 * lost:.2f}% of its prompt tokens lost"
            faults.append(f"{name} is worse off than under LRU: {shown} on average")
    below = sum(cell.lost > 0 for cell in cells)
    text = "; ".join(faults) or f"every trace gains; {below} of {len(cells)} cells lose something"
    return Check("lru", not faults, figures, text)


def _tell(what: str, done: int, total: int) -> None:
    tell(what, done, total)
