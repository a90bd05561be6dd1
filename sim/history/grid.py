"""The MAP-Elites grid of the last checkpoint: which cells are filled, how well, on which island.

Knows the tables and OpenEvolve's settings of the grid; must not know how it is shown.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

BUILT_IN = ("complexity", "diversity")
"""OpenEvolve's own features and defaults, for runs without a configuration."""
DEFAULT_BINS, DEFAULT_ARCHIVE = 10, 100


@dataclass(frozen=True)
class Island:
    """One island.

    Attributes:
        programs: On it.
        generation: Children it had.
        best: Their best score.
        cells: Bin per feature to the best score there.
    """

    programs: int
    generation: int
    best: float | None
    cells: dict[tuple[int, ...], float | None]


@dataclass(frozen=True)
class Grid:
    """All islands at a checkpoint.

    Attributes:
        iteration: Of the checkpoint.
        features: Their names.
        bins: Per feature.
        ranges: Least and largest value seen, per feature, None if unknown.
        islands: In order.
    """

    iteration: int
    features: tuple[str, ...]
    bins: tuple[int, ...]
    ranges: tuple[tuple[float, float] | None, ...]
    islands: tuple[Island, ...]

    def union(self) -> dict[tuple[int, ...], float | None]:
        """Return the best score of every cell that any island fills."""
        best: dict[tuple[int, ...], float | None] = {}
        for island in self.islands:
            for cell, score in island.cells.items():
                known = best.get(cell)
                best[cell] = score if known is None else known if score is None else max(known, score)
        return best

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        total = 1
        for count in self.bins:
            total *= count
        return {
            "checkpoint": self.iteration,
            "features": list(self.features),
            "bins": list(self.bins),
            "cells": total,
            "filled": len(self.union()),
            "islands": [
                {"programs": i.programs, "generation": i.generation, "best": i.best, "filled": len(i.cells)}
                for i in self.islands
            ],
        }


def last_grid(connection: sqlite3.Connection) -> Grid | None:
    """Return the grid of the newest checkpoint, None without one."""
    found = connection.execute(
        "SELECT iteration, islands, features FROM checkpoints ORDER BY iteration DESC LIMIT 1"
    ).fetchone()
    if found is None:
        return None
    iteration, islands, stats = found[0], json.loads(found[1]), json.loads(found[2])
    scores = dict(connection.execute("SELECT id, score FROM children").fetchall())
    cells: dict[int, dict[tuple[int, ...], float | None]] = {}
    for island, cell, child_id in connection.execute(
        "SELECT island, cell, child_id FROM cells WHERE checkpoint = ?", (iteration,)
    ):
        place = tuple(int(part) for part in cell.split("-") if part.isdigit())
        cells.setdefault(island, {})[place] = scores.get(child_id)
    dimensions = max((len(place) for filled in cells.values() for place in filled), default=0)
    features, bins = _settings(connection, dimensions)
    ranges = tuple(_range(stats.get(name)) for name in features)
    listed = tuple(
        Island(facts["programs"], facts["generation"], scores.get(facts["best_id"]), cells.get(number, {}))
        for number, facts in enumerate(islands)
    )
    return Grid(iteration, features, bins, ranges, listed)


def _settings(connection: sqlite3.Connection, dimensions: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and bins of the features, as OpenEvolve 0.4.0 takes them from its configuration."""
    found = connection.execute("SELECT value FROM facts WHERE name = 'config'").fetchone()
    database = (json.loads(found[0]) if found else {}).get("database") or {}
    names = tuple(map(str, database.get("feature_dimensions") or BUILT_IN))
    if dimensions and len(names) != dimensions:
        names = tuple(f"feature {number}" for number in range(1, dimensions + 1))
    bins = database.get("feature_bins", DEFAULT_BINS)
    if isinstance(bins, dict):
        return names, tuple(int(bins.get(name, DEFAULT_BINS)) for name in names)
    least = int(int(database.get("archive_size", DEFAULT_ARCHIVE)) ** (1 / max(len(names), 1)) + 0.99)
    return names, (max(int(bins), least),) * len(names)


def _range(values: Any) -> tuple[float, float] | None:
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values) or len(values) != 2:
        return None
    return float(values[0]), float(values[1])
