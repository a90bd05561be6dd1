"""Compares policies on a panel: hit rates and gap closed per cell, scores, wins.

Knows panels, marks and policies of this machine's user; runs them in this process (after the gate).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from sim import engines
from sim.executor import run, session
from sim.marks import Marks, load_marks
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy, clock_origin
from sim.registry import load_policy
from sim.result import counted_hits
from sim.score import Cell, Score, score
from sim.simulation import Options, resolve, simulate
from sim.tables import table
from workloads.panel import load_panel
from workloads.trace import Trace


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies on one panel; columns in the order they were given."""

    marks: Marks
    names: tuple[str, ...]
    digests: tuple[str, ...]
    """Per policy, SHA-256 (hex) of its source; empty where it has none."""
    cells: tuple[tuple[Cell, ...], ...]
    """Per policy, per cell."""
    scores: tuple[Score, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain numbers and text, fit for JSON."""
        panel = self.marks.panel
        policies = {
            name: {
                "source_sha256": digest,
                "combined_score": result.combined,
                "gap_closed_mean": result.mean,
                "worst_trace": result.worst_trace_name,
                "by_trace": result.by_trace,
                "hit_tokens": [cell.hit_tokens for cell in cells],
            }
            for name, digest, cells, result in zip(self.names, self.digests, self.cells, self.scores, strict=True)
        }
        rows = [
            {"trace": c.trace, "capacity_blocks": c.capacity_blocks, "prompt_tokens": c.prompt_tokens,
             "lru_hit_tokens": c.lru_hit_tokens, "optimum_hit_tokens": c.optimum_hit_tokens, "scored": c.counts}
            for c in self.cells[0]
        ]  # fmt: skip
        return {
            "panel": panel.name,
            "split": panel.split,
            "fingerprint": panel.fingerprint,
            "cells": rows,
            "policies": policies,
        }

    def __str__(self) -> str:
        head = ["trace", "blocks", "share", "vllm", *self.names, "optimum"]
        rows = []
        for i, cell in enumerate(self.cells[0]):
            best = max(cells[i].hit_tokens for cells in self.cells)
            marked = [
                f"{_percent(cells[i].hit_tokens, cell)}{'*' if cells[i].hit_tokens == best else ' '}"
                for cells in self.cells
            ]
            share = f"{100 * cell.fraction:.4g}%{' ' if cell.counts else '~'}"
            edges = (_percent(cell.lru_hit_tokens, cell), _percent(cell.optimum_hit_tokens, cell))
            rows.append([cell.trace, cell.capacity_blocks, share, edges[0], *marked, edges[1]])
        rows.append(["score", "", "", f"{0.0:+.4f}", *(f"{s.combined:+.4f} " for s in self.scores), f"{1.0:+.4f}"])
        note = "hit tokens in % of prompt tokens; * best policy of the row; ~ cell reported, not scored (gap < 1 point)"
        return f"{table(head, rows)}\n{note}"


def compare(
    policies: Sequence[str | Path | Policy],
    split: str = "validation",
    which: str = "auto",
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run policies on a panel.

    Args:
        policies: Names ("zoo:arc" too), files or `Policy` objects; "vllm" is always shown.
        split: "train", "validation" or "test". The test split is for reports: use it once, at the end.
        which: Name or file of the panel, see `workloads.panel.load_panel`.
        executor: "serial", "process" or "ray", see `sim.executor.run`; the result is the same.
        workers: Most replays at a time.
        progress: Called as progress(replays done, all replays).

    Raises:
        ValueError: If there is no such policy, panel or executor, or two policies have one name.
        PolicyRejected: If a policy breaks the contract.
    """
    purpose = {"purpose": "report"} if split == "test" else {}
    panel = load_panel(split, which, **purpose)
    engine = engines.find(Options.engine)[0]
    loaded = [_Column.of(resolve(policy, engine)) for policy in policies]
    names = [column.name for column in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"two policies are called {max(names, key=names.count)!r}; fix: rename a file")
    with session(executor, workers):
        marks = load_marks(panel, executor, workers, progress)
        fresh = [column for column in loaded if not _is_baseline(marks, column)]
        jobs = [
            (c.trace_name, (p.name, p.source, c.capacity_blocks, c.first_counted)) for p in fresh for c in panel.cells
        ]
        replayed = iter(run(hit_tokens_of, panel.traces, jobs, executor, workers, progress))
    cells = [tuple(marks.cells(_hit_tokens(marks, column, replayed))) for column in loaded]
    scores = tuple(score(found, column.nodes) for found, column in zip(cells, loaded, strict=True))
    digests = tuple(column.digest for column in loaded)
    return Comparison(marks, tuple(column.name for column in loaded), digests, tuple(cells), scores)


@dataclass(frozen=True)
class _Column:
    """A policy to compare; `source` is None for what the engine or the zoo runs natively, which counts no nodes."""

    name: str
    source: str | None
    nodes: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest() if self.source else ""

    @classmethod
    def of(cls, policy: str | Policy | Compiled) -> _Column:
        if isinstance(policy, str):
            return cls(policy, None, 0)
        program = policy.policy if isinstance(policy, Compiled) else policy
        return cls(program.name, program.source, program.nodes)


def hit_tokens_of(trace: Trace, policy_and_where: tuple[str, str | None, int, int]) -> int:
    """Return hit tokens of a policy, given by name and source, at a capacity, from a request on."""
    name, source, capacity_blocks, first_counted = policy_and_where
    if source is None:
        result = simulate(trace, name, capacity_blocks)
    else:
        compiled = _compiled(name, source)
        result = simulate(trace, compiled, capacity_blocks, clock_origin=clock_origin(compiled.policy.source))
    return counted_hits(result.hit_blocks_per_request, first_counted) * trace.block_tokens


@lru_cache(maxsize=4)  # jobs come policy by policy
def _compiled(name: str, source: str) -> Compiled:
    return compile_policy(Policy.from_source(source, name))


def _is_baseline(marks: Marks, column: _Column) -> bool:
    return column.name in marks.nodes and column.source == load_policy(column.name).source


def _hit_tokens(marks: Marks, column: _Column, replayed: Iterator[int]) -> list[int]:
    if _is_baseline(marks, column):
        return [mark.baselines[column.name] for mark in marks.marks]
    return list(islice(replayed, len(marks.marks)))


def _percent(tokens: int, cell: Cell) -> str:
    return f"{100 * tokens / cell.prompt_tokens:.2f}"
