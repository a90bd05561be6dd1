"""Scores candidates for an engine: here or on a cluster, once each, with a line in the run's journal.

Knows where evaluations are made and kept. Must not know how one is made, nor which engine asks.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

from sim import broker
from sim.evaluation import Evaluation, read_candidate, training_evaluator
from sim.journal import Journal, Line, of_environment
from sim.panel_facts import PanelFacts


@dataclass(frozen=True)
class Scored:
    """What an engine is told of a candidate."""

    metrics: dict[str, float]
    artifacts: dict[str, str]


def score_file(program_path: str | Path, advice: bool = True) -> Scored:
    """Score the policy in a file on the training panel; never raises for anything the file contains.

    What the run's journal knows is not evaluated again; what comes of an evaluation is in the journal before this
    returns. Without `$KVEVOLVE_RUN_DIR` there is no journal.

    Args:
        program_path: The candidate.
        advice: Whether to look for the costliest evictions too.
    """
    started = time.perf_counter()
    remote = broker.connected()
    facts = remote.facts if remote else PanelFacts.of(training_evaluator().panel)
    journal = of_environment()
    source = read_candidate(program_path)
    if isinstance(source, Evaluation):
        return _told(journal, None, facts, advice, source)
    known = journal.find(source, facts.fingerprint, advice) if journal else None
    if journal and known:
        scored = Scored(known["metrics"], known["artifacts"])
        line = Line(
            source,
            facts.fingerprint,
            known["advice"],
            scored.metrics,
            scored.artifacts,
            known["stage"],
            seconds=time.perf_counter() - started,
            hit_tokens=tuple(known.get("hit_tokens") or ()),
            cached=True,
        )
        journal.append(line)
        return scored
    found = (remote or training_evaluator()).evaluate_source(source, advice)
    return _told(journal, source, facts, advice, found)


def _told(journal: Journal | None, source: str | None, facts: PanelFacts, advice: bool, found: Evaluation) -> Scored:
    scored = Scored(dict(found.metrics), found.artifacts | {"isolation": found.isolation, "panel": facts.cited})
    if journal:
        journal.append(
            Line(
                source,
                facts.fingerprint,
                advice,
                scored.metrics,
                scored.artifacts,
                found.stage,
                found.seconds,
                found.cpu_seconds,
                facts.refs.get(found.stage, 0),
                tuple(found.hit_tokens),
            )
        )
    return scored


def follow_parent() -> None:
    """In a worker of an engine: end when the engine does, however it ends. Killed, it would leave workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        _watch(parent.sentinel)


@cache
def _watch(sentinel: int) -> None:
    def leave() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
