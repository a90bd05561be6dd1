"""Models and hits of the ceiling, kept in the user cache by all that they depend on.

Knows files and the code they come from. Must not know splits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.results import store
from sim.results.ceiling import clocks, hazards
from sim.results.ceiling.hazards import Model
from sim.results.ceiling.touches import touches_of
from workloads.trace import Trace

Hits = list[npt.NDArray[np.int32]]
"""Hit blocks per request, at each capacity of a trace."""
CODE = ("foresight.py", "hazards.py", "touches.py")
"""What decides hits, beside `sim.results.store.replay_code`."""


class Models:
    """Models by the training traces they learn from and the clock: from the user cache, else trained and kept there."""

    def __init__(self, traces: Mapping[str, Trace], rounds: int, seeds: int) -> None:
        """Offer models of any of these traces; `rounds` trees for each of `seeds` boosters."""
        self._traces, self._rounds, self._seeds = traces, rounds, seeds
        self._known: dict[tuple[tuple[str, ...], str], Model] = {}

    def get(self, names: tuple[str, ...], clock: str) -> Model:
        """Return the model of some training traces.

        Raises:
            ModuleNotFoundError: Without LightGBM.
        """
        if (names, clock) not in self._known:
            path = store.path_of(self.key(names, clock), "model.json")
            model = store.read(path, lambda kept: Model.from_text(kept.read_text(encoding="utf-8")))
            if model is None:
                described = [touches_of(clocks.on_clock(self._traces[name], clock)) for name in names]
                model = hazards.train(described, self._rounds, self._seeds)
                store.keep(path, model.to_text().encode())
            self._known[names, clock] = model
        return self._known[names, clock]

    def key(self, names: tuple[str, ...], clock: str) -> list[object]:
        """Return what a model depends on."""
        prints = [clocks.on_clock(self._traces[name], clock).fingerprint for name in names]
        return [
            store.replay_code(),
            store.code_of(Path(__file__).parent, CODE),
            prints,
            self._rounds,
            hazards.ROWS,
            self._seeds,
        ]


def hits_path(trace: Trace, key: Sequence[object], rounds: int, capacities: Sequence[int]) -> Path:
    """Return where the hits are that the first `rounds` trees of a model give."""
    return store.path_of([trace.fingerprint, *key, rounds, list(capacities)], "ceiling.npz")


def read_hits(path: Path) -> Hits | None:
    """Return hits that were kept, None if there are none."""
    return store.read(path, _parsed)


def write_hits(path: Path, hits: Hits) -> None:
    """Keep hits."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, hits=np.array(hits, np.int32))
    store.keep(path, buffer.getvalue())


def _parsed(path: Path) -> Hits:
    with np.load(path, allow_pickle=False) as stored:
        return list(stored["hits"])
