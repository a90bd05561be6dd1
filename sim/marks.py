"""What every cell of a panel is measured against: hit tokens of LRU, of the optimum, and of each baseline.

Computed once per panel and kept in the user cache. Holds the optimum: processes that run candidates must not import
this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from sim.bounds import optimum
from sim.core.compiled import sources_digest
from sim.executor import run
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import clock_origin
from sim.registry import BASELINES, load_policy, policies
from sim.result import counted_hits
from sim.score import Cell, Score, score
from sim.simulation import simulate
from workloads.atomic import atomic_write
from workloads.locate import user_cache_dir
from workloads.panel import Panel
from workloads.trace import Trace

log = logging.getLogger(__name__)

KERNELS = ("sim.core.belady", "sim.core.engine", "sim.core.lru")
"""Kernels whose output the marks are."""

LRU, OPTIMUM = "vllm", "optimum"
"""Columns that are no shipped policy: the engine's own LRU, and Belady's bound."""


@dataclass(frozen=True)
class Mark:
    """Hit tokens of one cell."""

    lru: int
    optimum: int
    baselines: dict[str, int]


@dataclass(frozen=True, eq=False)
class Marks:
    """All marks of a panel, in the order of its cells."""

    panel: Panel
    marks: tuple[Mark, ...]
    nodes: dict[str, int]
    """Size of each baseline."""

    def cells(self, hit_tokens: Sequence[int]) -> list[Cell]:
        """Return the cells of a candidate that hit so many tokens in each."""
        return [
            Cell(
                cell.trace_name,
                cell.fraction,
                cell.capacity_blocks,
                self.panel.prompt_tokens(cell),
                mark.lru,
                mark.optimum,
                tokens,
                self.panel.weight(cell.trace_name),
            )
            for cell, mark, tokens in zip(self.panel.cells, self.marks, hit_tokens, strict=True)
        ]

    def baseline_scores(self) -> dict[str, Score]:
        """Return the score of every baseline, charged for its size like a candidate, and of the engine's LRU (0)."""
        scores = {"vllm": score(self.cells([mark.lru for mark in self.marks]), 0)}
        for name, nodes in self.nodes.items():
            scores[name] = score(self.cells([mark.baselines[name] for mark in self.marks]), nodes)
        return scores


def load_marks(
    panel: Panel,
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Marks:
    """Return the marks of a panel, from the user cache if they were computed by these very sources.

    Args:
        panel: The panel.
        executor: Where they are computed if they are not there, see `sim.executor.run`.
        workers: Most replays at a time.
        progress: Called as progress(replays done, all replays).
    """
    nodes = {name: load_policy(name).nodes for name in BASELINES}
    path = _path(panel)
    stored = _read(path, panel, nodes)
    if stored is None:
        log.info("computing LRU, optimum and %d baselines for panel %s %s", len(nodes), panel.name, panel.split)
        stored = _compute(panel, nodes, executor, workers, progress)
        _write(path, panel, stored)
    return Marks(panel, stored, nodes)


def _compute(
    panel: Panel,
    baselines: Iterable[str],
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Mark, ...]:
    columns = (LRU, OPTIMUM, *baselines)
    jobs = [
        (cell.trace_name, (column, cell.capacity_blocks, cell.first_counted))
        for cell in panel.cells
        for column in columns
    ]
    found = iter(run(hit_tokens_of, panel.traces, jobs, executor, workers, progress))
    rows = [dict(zip(columns, islice(found, len(columns)), strict=True)) for _ in panel.cells]
    return tuple(Mark(row.pop(LRU), row.pop(OPTIMUM), row) for row in rows)


def hit_tokens_of(trace: Trace, which_and_where: tuple[str, int, int]) -> int:
    """Return hit tokens of the engine's LRU, of the optimum or of a baseline, at a capacity, from a request on."""
    which, capacity_blocks, first_counted = which_and_where
    if which == OPTIMUM:
        return optimum(trace, capacity_blocks, first_counted).hit_tokens
    if which == LRU:
        result = simulate(trace, LRU, capacity_blocks)
    else:
        compiled, origin = _baseline(which)
        result = simulate(trace, compiled, capacity_blocks, clock_origin=origin)
    return counted_hits(result.hit_blocks_per_request, first_counted) * trace.block_tokens


@cache
def _baseline(name: str) -> tuple[Compiled, int]:
    policy = load_policy(name)
    return compile_policy(policy), clock_origin(policy.source)


def _path(panel: Panel) -> Path:
    here = Path(__file__).parent
    code = [
        *(here / name for name in ("bounds.py", "prepared.py", "simulation.py", "engines/vllm.py")),
        *(here / "policy").glob("*.py"),
    ]
    shipped = policies()
    sources = sorted((path.name, path.read_bytes()) for path in [*(shipped[name] for name in BASELINES), *code])
    baselines = hashlib.sha256(repr(sources).encode()).hexdigest()[:12]
    name = f"{panel.name}-{panel.split}-{panel.fingerprint[:16]}-{sources_digest(*KERNELS)}-{baselines}.json"
    return user_cache_dir() / "marks" / name


def _read(path: Path, panel: Panel, names: Mapping[str, int]) -> tuple[Mark, ...] | None:
    try:
        content = json.loads(path.read_text())
        fingerprint, rows = content["fingerprint"], content["marks"]
        marks = tuple(
            Mark(int(row["lru"]), int(row["optimum"]), {k: int(v) for k, v in row["baselines"].items()}) for row in rows
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        log.warning("%s is unreadable (%s) and is computed anew", path, error)
        return None
    sound = (fingerprint, len(marks)) == (panel.fingerprint, len(panel.cells)) and all(
        set(mark.baselines) == set(names) and 0 <= mark.lru <= mark.optimum for mark in marks
    )
    if not sound:
        log.warning("%s does not hold the marks of this panel and is computed anew", path)
    return marks if sound else None


def _write(path: Path, panel: Panel, marks: Sequence[Mark]) -> None:
    content = {"panel": panel.name, "split": panel.split, "fingerprint": panel.fingerprint}
    try:
        with atomic_write(path) as handle:
            handle.write(json.dumps({**content, "marks": [mark.__dict__ for mark in marks]}).encode())
    except OSError as error:
        log.warning("cannot keep the marks in %s: %s", path, error)
