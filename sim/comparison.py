"""Compares policies on a panel: hit rates and gap closed per cell, scores, wins.

Knows panels, marks and policies of this machine's user; runs them in this process (after the gate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.marks import Marks, load_marks
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy, clock_origin
from sim.registry import load_policy
from sim.score import Cell, Score, score
from sim.simulation import simulate
from sim.tables import table
from workloads.panel import load_panel


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies on one panel; columns in the order they were given."""

    marks: Marks
    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    """Per policy, per cell."""
    scores: tuple[Score, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain numbers and text, fit for JSON."""
        panel = self.marks.panel
        policies = {
            name: {
                "combined_score": result.combined,
                "gap_closed_mean": result.mean,
                "worst_trace": result.worst_trace_name,
                "by_trace": result.by_trace,
                "hit_tokens": [cell.hit_tokens for cell in cells],
            }
            for name, cells, result in zip(self.names, self.cells, self.scores, strict=True)
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
            share = f"{100 * cell.fraction:g}%{' ' if cell.counts else '~'}"
            edges = (_percent(cell.lru_hit_tokens, cell), _percent(cell.optimum_hit_tokens, cell))
            rows.append([cell.trace, cell.capacity_blocks, share, edges[0], *marked, edges[1]])
        rows.append(["score", "", "", f"{0.0:+.4f}", *(f"{s.combined:+.4f} " for s in self.scores), f"{1.0:+.4f}"])
        note = "hit tokens in % of prompt tokens; * best policy of the row; ~ cell reported, not scored (gap < 1 point)"
        return f"{table(head, rows)}\n{note}"


def compare(policies: Sequence[str | Path | Policy], split: str = "validation", which: str = "auto") -> Comparison:
    """Run policies on a panel.

    Args:
        policies: Names, files or `Policy` objects; "vllm" is always shown.
        split: "train", "validation" or "test". The test split is for reports: use it once, at the end.
        which: "auto", "real" or "synthetic".

    Raises:
        ValueError: If there is no such policy or panel.
        PolicyRejected: If a policy breaks the contract.
    """
    purpose = {"purpose": "report"} if split == "test" else {}
    marks = load_marks(load_panel(split, which, **purpose))
    loaded = [load_policy(policy) for policy in policies]
    columns = [tuple(marks.cells(_hit_tokens(marks, policy))) for policy in loaded]
    scores = tuple(score(cells, policy.nodes) for cells, policy in zip(columns, loaded, strict=True))
    return Comparison(marks, tuple(policy.name for policy in loaded), tuple(columns), scores)


def _hit_tokens(marks: Marks, policy: Policy) -> list[int]:
    if policy.name in marks.nodes and policy.source == load_policy(policy.name).source:
        return [mark.baselines[policy.name] for mark in marks.marks]
    compiled = compile_policy(policy)
    origin = clock_origin(policy.source)
    panel = marks.panel
    return [
        simulate(panel.traces[cell.trace_name], compiled, cell.capacity_blocks, clock_origin=origin).hit_tokens
        for cell in panel.cells
    ]


def _percent(tokens: int, cell: Cell) -> str:
    return f"{100 * tokens / cell.prompt_tokens:.2f}"
