"""What a policy has to beat: the engine's LRU, every shipped policy file, every classic of the zoo that sees no future.

Knows which they are and their hits per request on a panel, kept in the user cache. Must not know candidates or rules.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim import zoo
from sim.executor import run
from sim.marks import LRU
from sim.promotion.replays import Column, Hits, hits_of
from sim.registry import load_policy, policies
from workloads.atomic import atomic_write
from workloads.locate import user_cache_dir
from workloads.panel import Panel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rival:
    """A policy to beat."""

    column: Column
    nodes: int
    """Charged like a candidate's; what runs natively has none."""


def rivals() -> dict[str, Rival]:
    """Return every rival by name, the engine's LRU first."""
    found = {LRU: Rival(Column(LRU), 0)}
    for name in policies():
        policy = load_policy(name)
        found[name] = Rival(Column(name, policy.source), policy.nodes)
    for name in zoo.NAMES:
        if name not in zoo.OFFLINE:
            found[zoo.PREFIX + name] = Rival(Column(zoo.PREFIX + name), 0)
    return found


def rival_hits(
    panel: Panel,
    chosen: Mapping[str, Rival],
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Hits]]:
    """Return, by rival, the hits per request of every cell of a panel."""
    path = _path(panel, chosen)
    stored = _read(path, panel, chosen)
    if stored is None:
        jobs = [(c.trace_name, (r.column, c.capacity_blocks)) for r in chosen.values() for c in panel.cells]
        found = run(hits_of, panel.traces, jobs, executor, workers, progress)
        stored = np.concatenate(found).reshape(len(chosen), -1)
        _write(path, stored)
    ends = np.cumsum([panel.traces[cell.trace_name].n_requests for cell in panel.cells])[:-1]
    return {name: np.split(row, ends) for name, row in zip(chosen, stored, strict=True)}


def _path(panel: Panel, chosen: Mapping[str, Rival]) -> Path:
    """Return the cache file of these rivals: a new one whenever any code they run on changes."""
    here = Path(__file__).parent.parent
    code = [path for place in ("core", "engines", "policy") for path in sorted((here / place).rglob("*.py"))]
    code += [here / name for name in ("prepared.py", "simulation.py", "zoo.py")]
    digest = hashlib.sha256(np.__version__.encode())
    for path in code:
        digest.update(path.relative_to(here).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(repr([rival.column for rival in chosen.values()]).encode())
    name = f"{panel.name}-{panel.split}-{panel.fingerprint[:16]}-{digest.hexdigest()[:24]}.npz"
    return user_cache_dir() / "rivals" / name


def _read(path: Path, panel: Panel, names: Sequence[str] | Mapping[str, Rival]) -> npt.NDArray[np.int32] | None:
    total = sum(panel.traces[cell.trace_name].n_requests for cell in panel.cells)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            hits: npt.NDArray[np.int32] = arrays["hits"]
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        log.warning("%s is unreadable (%s) and is computed anew", path, error)
        return None
    if hits.shape != (len(names), total) or hits.dtype != np.int32:
        log.warning("%s does not hold the rivals of this panel and is computed anew", path)
        return None
    return hits


def _write(path: Path, hits: npt.NDArray[np.int32]) -> None:
    try:
        with atomic_write(path) as handle:
            np.savez_compressed(handle, hits=hits)
    except OSError as error:
        log.warning("cannot keep the rivals in %s: %s", path, error)
