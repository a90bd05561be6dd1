"""Scores a candidate file: isolated child for the counts, this process for the optimum, the score and the advice.

Every path returns every metric as a float. Knows panels and marks; must not run candidate code itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy.typing as npt

from sim import feedback
from sim.core.replay import COUNTERS
from sim.isolation import Limits, Outcome, Zygote
from sim.marks import Marks, load_marks
from sim.policy.language import MAX_SOURCE_BYTES
from sim.score import LOWEST, REJECTED, Cell, Score, by_capacity, score
from sim.worker import smoke_cell
from workloads.panel import load_panel
from workloads.panel_reduction import reduced

log = logging.getLogger(__name__)

LIMITS = Limits(wall_s=30.0, cpu_s=30.0, memory_bytes=1 << 30, output_bytes=64 << 20)
SMOKE_SHARE = 0.5
"""A candidate that hits less than this share of what LRU hits in the smoke cell is not run on the rest."""

LOGGED_EVICTIONS = 200_000
"""The costliest evictions are looked for among so many, from the start of the weakest cell."""

SHOWN_FINDINGS, FINDING_CHARS = 12, 480
"""Of a rejection: most findings shown, and most characters of each."""

METRICS = (
    "combined_score",
    "train_gap_closed",
    "worst_trace",
    "complexity_nodes",
    "evictions_per_access",
    "admitted_fraction",
    "refused_share",
    "scarce_gap_closed",
    "ample_gap_closed",
    "capacity_tilt",
    "valid",
)
"""Every evaluation returns each of these as a float."""


@dataclass(frozen=True)
class Evaluation:
    """What came of a candidate.

    Attributes:
        metrics: `METRICS`, floats, nothing else.
        artifacts: Text for the writer of the policy.
        stage: Where it ended: "panel" if all went well, else "gate", "compile", "run", "clock", "smoke" or the status
            of the isolated child ("timeout", "memory", "crash", …).
        isolation: Level in force, for example "fork+rlimit+nocaps+landlock+seccomp".
        score: Parts of the score, if it got that far.
        hit_tokens: Per cell of the panel.
        seconds: Wall time it took.
        cpu_seconds: CPU time of the isolated children.
    """

    metrics: dict[str, float]
    artifacts: dict[str, str]
    stage: str
    isolation: str
    score: Score | None = None
    hit_tokens: list[int] = field(default_factory=list)
    seconds: float = field(default=0.0, repr=False, compare=False)
    cpu_seconds: float = field(default=0.0, repr=False, compare=False)


class Evaluator:
    """Scores candidates on one panel."""

    def __init__(
        self, split: str = "train", which: str = "auto", limits: Limits = LIMITS, most_refs: int | None = None
    ) -> None:
        """Load the panel and its marks, and prepare the zygote (started with the first candidate).

        Args:
            split: "train" or "validation".
            which: Name or file of the panel, see `workloads.panel.load_panel`.
            limits: Of each candidate.
            most_refs: Score on the panel reduced to so many block references of each trace; None for the whole one.
        """
        self.panel = load_panel(split, which)
        if most_refs is not None:
            self.panel = reduced(self.panel, most_refs)
        self.marks: Marks = load_marks(self.panel)
        self.baselines = self.marks.baseline_scores()
        self.limits = limits
        arguments: dict[str, Any] = {"split": split, "which": self.panel.which, "fingerprint": self.panel.fingerprint}
        arguments |= {} if most_refs is None else {"most_refs": most_refs}
        self.zygote = Zygote("sim.worker:load", arguments, start_timeout_s=180)

    def evaluate(self, program_path: str | Path, advice: bool = True) -> Evaluation:
        """Score the policy in a file; never raises for anything the file contains.

        Args:
            program_path: The candidate.
            advice: Whether to look for the costliest evictions too (one more replay of one cell).
        """
        source = read_candidate(program_path)
        return source if isinstance(source, Evaluation) else self.evaluate_source(source, advice)

    def evaluate_source(self, source: str, advice: bool = True) -> Evaluation:
        """Score the text of a policy; see `evaluate`."""
        started, spent_s = time.perf_counter(), [0.0]
        found = self._evaluate(source, advice, spent_s)
        return replace(found, seconds=time.perf_counter() - started, cpu_seconds=sum(spent_s))

    def _evaluate(self, source: str, advice: bool, spent_s: list[float]) -> Evaluation:
        outcome = self.zygote.call({"task": "score", "source": source, "smoke_floor": self._smoke_floor()}, self.limits)
        spent_s.append(outcome.cpu_s)
        if outcome.status != "ok" or outcome.payload is None:
            return _rejected(outcome.status, [_died(outcome, self.limits)], outcome.isolation)
        answer = outcome.payload
        if not self._sound(answer):
            return _rejected("forged", ["line 1: the counts are not those of a replay"], outcome.isolation)
        if answer["stage"] == "smoke":
            return self._stopped(answer, outcome.isolation)
        if answer["stage"] != "panel":
            return _rejected(answer["stage"], answer["findings"], outcome.isolation, answer.get("nodes", 0))
        return self._scored(source, answer, outcome.isolation, advice, spent_s)

    def close(self) -> None:
        """Stop the zygote."""
        self.zygote.close()

    def _sound(self, answer: Mapping[str, Any]) -> bool:
        """Return whether an answer has the shape `sim.worker` gives it; native code in the child could forge one."""
        stage, counts = answer.get("stage"), answer.get("counts")
        findings, nodes = answer.get("findings"), answer.get("nodes", 0)
        if not isinstance(stage, str) or not isinstance(findings, list) or not _natural(nodes):
            return False
        if stage not in ("smoke", "panel"):
            return all(isinstance(finding, str) for finding in findings)
        if stage == "smoke" and answer.get("cell") != smoke_cell(self.panel):
            return False
        wanted = 1 if stage == "smoke" else len(self.panel.cells)
        return (
            "nodes" in answer
            and isinstance(counts, list)
            and len(counts) == wanted
            and all(isinstance(count, dict) and set(count) == set(COUNTERS) for count in counts)
            and all(_natural(value) for count in counts for value in count.values())
        )

    def _smoke_floor(self) -> float:
        return SMOKE_SHARE * self.marks.marks[smoke_cell(self.panel)].lru

    def _stopped(self, answer: Mapping[str, Any], isolation: str) -> Evaluation:
        cell = self.panel.cells[answer["cell"]]
        mark = self.marks.marks[answer["cell"]]
        hit_tokens = answer["counts"][0]["hit_blocks"] * self.panel.traces[cell.trace_name].block_tokens
        text = (
            f"stopped after the first cell (trace {cell.trace_name}, capacity {cell.capacity_blocks} blocks): "
            f"{hit_tokens} hit tokens, LRU {mark.lru}, optimum {mark.optimum}. It hits less than half of what LRU "
            "does; keep blocks that were used recently (block.released, block.last_access)"
        )
        metrics = _metrics(
            answer["counts"], answer["nodes"], combined_score=LOWEST, train_gap_closed=-1.0, worst_trace=-1.0
        )
        return Evaluation(metrics | {"valid": 1.0}, {"weakest_cell": text}, "smoke", isolation)

    def _scored(
        self, source: str, answer: Mapping[str, Any], isolation: str, advice: bool, spent_s: list[float]
    ) -> Evaluation:
        counts: list[dict[str, int]] = answer["counts"]
        block_tokens = [self.panel.traces[cell.trace_name].block_tokens for cell in self.panel.cells]
        hit_tokens = [c["hit_blocks"] * tokens for c, tokens in zip(counts, block_tokens, strict=True)]
        cells = self.marks.cells(hit_tokens)
        impossible = [cell for cell in cells if cell.hit_tokens > cell.optimum_hit_tokens]
        if impossible:
            finding = f"more hits than the offline optimum in {impossible[0].trace}: the counts cannot be true"
            return _rejected("forged", [finding], isolation, answer["nodes"])
        result = score(cells, answer["nodes"])
        worst = feedback.weakest(cells)
        artifacts = {
            "cells": feedback.describe_cells(cells),
            "weakest_cell": f"trace {cells[worst].trace}, capacity {cells[worst].capacity_blocks} blocks: "
            f"{cells[worst].gap_closed:+.3f} of the gap between LRU and the optimum",
            "rank_among_baselines": feedback.describe_rank(result, self.baselines),
        }
        if advice:
            artifacts["costliest_evictions"] = self._regrets(source, worst, counts[worst], cells[worst], spent_s)
        metrics = _metrics(
            counts,
            answer["nodes"],
            combined_score=result.combined,
            train_gap_closed=result.mean,
            worst_trace=result.worst_trace,
            **by_capacity(cells),
        )
        return Evaluation(metrics | {"valid": 1.0}, artifacts, "panel", isolation, result, hit_tokens)

    def _regrets(self, source: str, index: int, counts: Mapping[str, int], marked: Cell, spent_s: list[float]) -> str:
        logged = min(counts["evicted_blocks"], LOGGED_EVICTIONS)
        request = {"task": "log", "source": source, "cell": index, "evictions": logged}
        outcome = self.zygote.call(request, self.limits)
        spent_s.append(outcome.cpu_s)
        if outcome.status != "ok":
            return f"not available: {outcome.status} {outcome.detail}"
        cell = self.panel.cells[index]
        trace = self.panel.traces[cell.trace_name]
        evicted_for, block = outcome.arrays.get("request"), outcome.arrays.get("block")
        if not (_indices(evicted_for, trace.n_requests) and _indices(block, trace.n_blocks, evicted_for.shape)):
            return "not available: the log of evictions is malformed"
        judged = feedback.judge_evictions(trace, cell.capacity_blocks, evicted_for, block, cell.first_counted)
        regrets = feedback.costliest_evictions(judged, trace.block_tokens)
        text = feedback.describe_regrets(judged, regrets, marked)
        if counts["bypassed_blocks"] and logged == counts["evicted_blocks"]:
            missing = (marked.optimum_hit_tokens - marked.hit_tokens) // trace.block_tokens
            text += "\n" + feedback.describe_bypasses(judged, missing, counts["bypassed_blocks"])
        return text


def read_candidate(path: str | Path) -> str | Evaluation:
    """Return the text of a candidate file, or its rejection if it is too long, not text or not to be read."""
    try:
        if os.path.getsize(path) > MAX_SOURCE_BYTES:
            finding = f"line 1: the file exceeds {MAX_SOURCE_BYTES} bytes. Fix: shorten it"
            return _rejected("gate", [finding], "not run")
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        finding = f"line {line}: byte {error.start} is not UTF-8. Fix: save the file as UTF-8 text"
        return _rejected("gate", [finding], "not run")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return _rejected("gate", [f"line 1: the file cannot be read, {reason}. Fix: write it anew"], "not run")


@cache
def training_evaluator() -> Evaluator:
    """Return the process-wide evaluator of the training panel; `$KVEVOLVE_PANEL` may name another, or its file."""
    return Evaluator("train", os.environ.get("KVEVOLVE_PANEL", "auto"))


def _metrics(counts: Sequence[Mapping[str, int]], nodes: int, **known: float) -> dict[str, float]:
    total = {name: sum(c[name] for c in counts) for name in counts[0]}
    missing = total["admitted_blocks"] + total["bypassed_blocks"]
    known["complexity_nodes"] = float(nodes)
    known["evictions_per_access"] = total["evicted_blocks"] / max(total["looked_up_blocks"], 1)
    known["admitted_fraction"] = total["admitted_blocks"] / missing if missing else 1.0
    out = total["evicted_blocks"] + total["bypassed_blocks"]
    known["refused_share"] = total["bypassed_blocks"] / out if out else 0.0
    return {name: float(known.get(name, 0.0)) for name in METRICS}


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _indices(
    array: npt.NDArray[Any] | None, size: int, shape: tuple[int, ...] | None = None
) -> TypeGuard[npt.NDArray[Any]]:
    if array is None or array.ndim != 1 or array.dtype.kind not in "iu" or shape not in (None, array.shape):
        return False
    return not array.size or (int(array.min()) >= 0 and int(array.max()) < size)


def _shortened(text: str) -> str:
    """Return a finding fit for a prompt: it may quote the candidate at any length."""
    text = text.replace("`" * 3, "...")
    return text if len(text) <= FINDING_CHARS else f"{text[: FINDING_CHARS // 2]} … {text[-FINDING_CHARS // 2 :]}"


def _rejected(stage: str, findings: Sequence[str], isolation: str, nodes: int = 0) -> Evaluation:
    metrics = dict.fromkeys(METRICS, 0.0)
    metrics |= {"combined_score": REJECTED, "train_gap_closed": -1.0, "worst_trace": -1.0}
    metrics["complexity_nodes"] = float(nodes)
    shown = [f"- {_shortened(finding)}" for finding in findings[:SHOWN_FINDINGS]]
    if len(findings) > SHOWN_FINDINGS:
        shown.append(f"- and {len(findings) - SHOWN_FINDINGS} more")
    text = "\n".join([f"rejected at stage {stage}. Repair this first:", *shown])
    return Evaluation(metrics, {"rejection": text}, stage, isolation)


def _died(outcome: Outcome, limits: Limits) -> str:
    advice = {
        "timeout": f"it ran for more than {limits.wall_s:g} s of wall time; make priority and admit cheaper",
        "cpu": f"it used more than {limits.cpu_s:g} s of CPU time; make priority and admit cheaper",
        "memory": "it ran out of memory; a policy needs none of its own",
    }
    return f"{outcome.status}: {advice.get(outcome.status, outcome.detail)}"
