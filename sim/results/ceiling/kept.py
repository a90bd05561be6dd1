"""Models and hits of the ceiling, kept in the user cache by all that they depend on.

Knows files and the code they come from. Must not know splits.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.results.ceiling import clocks, hazards
from sim.results.ceiling.hazards import Model
from sim.results.ceiling.touches import touches_of
from sim.results.replays import code_digest
from workloads.atomic import atomic_write
from workloads.locate import user_cache_dir
from workloads.trace import Trace

log = logging.getLogger(__name__)

Hits = list[npt.NDArray[np.int32]]
"""Hit blocks per request, at each capacity of a trace."""
CODE = ("foresight.py", "hazards.py", "touches.py")
"""What decides hits, beside `sim.results.replays.code_digest`."""


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
            path = _path(self.key(names, clock), "model.json")
            model = _model(path)
            if model is None:
                described = [touches_of(clocks.on_clock(self._traces[name], clock)) for name in names]
                model = hazards.train(described, self._rounds, self._seeds)
                _write(path, model.to_text().encode())
            self._known[names, clock] = model
        return self._known[names, clock]

    def key(self, names: tuple[str, ...], clock: str) -> list[object]:
        """Return what a model depends on."""
        prints = [clocks.on_clock(self._traces[name], clock).fingerprint for name in names]
        return [code_digest(), _code(), prints, self._rounds, hazards.ROWS, self._seeds]


def hits_path(trace: Trace, key: Sequence[object], rounds: int, capacities: Sequence[int]) -> Path:
    """Return where the hits are that the first `rounds` trees of a model give."""
    return _path([trace.fingerprint, *key, rounds, list(capacities)], "ceiling.npz")


def read_hits(path: Path) -> Hits | None:
    """Return hits that were kept, None if there are none."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return list(stored["hits"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is unreadable (%s) and is computed anew", path, error)
        return None


def write_hits(path: Path, hits: Hits) -> None:
    """Keep hits."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, hits=np.array(hits, np.int32))
    _write(path, buffer.getvalue())


def _model(path: Path) -> Model | None:
    try:
        return Model.from_text(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is unreadable (%s) and is computed anew", path, error)
        return None


@cache
def _code() -> str:
    here = Path(__file__).parent
    return hashlib.sha256(b"\0".join((here / name).read_bytes() for name in CODE)).hexdigest()


def _path(key: Sequence[object], suffix: str) -> Path:
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return user_cache_dir() / "results" / f"{digest}.{suffix}"


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as handle:
            handle.write(content)
    except OSError as error:
        log.warning("cannot keep %s: %s", path, error)
