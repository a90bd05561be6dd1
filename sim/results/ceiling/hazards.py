"""When a block is used next: probabilities by age, learned by gradient-boosted trees from touches.

A discrete-time survival model: each touch gives a row per age bin it is known to have reached unused, labelled by
whether it was used within. Knows LightGBM and features. Must not know caches, splits or scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.results.ceiling.touches import FEATURES, Touches
from workloads import progress

EDGES_S = np.array(
    [0, 1, 2, 4, 6, 8, 11, 15, 20, 30, 45, 60, 80, 100, 120, 150, 180, 240, 290, 300, 310, 360, 480, 600, 800, 1200,
     2400, 4800, 9600, 19200], np.float64,
)  # fmt: skip
"""Lower ends of the age bins."""
WIDTHS_S = np.append(np.diff(EDGES_S), EDGES_S[-1])
ROWS = 300_000
"""Most rows of a training set, drawn at random."""
LEARNING: dict[str, Any] = {
    "objective": "binary", "learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 300, "feature_fraction": 0.5,
    "bagging_fraction": 0.5, "bagging_freq": 1, "lambda_l2": 10.0, "num_threads": 1, "verbose": -1,
    "deterministic": True,
}  # fmt: skip

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Model:
    """Boosters that are averaged, in logits."""

    boosters: Sequence[Any]

    def to_text(self) -> str:
        """Return the model as text, for `from_text`."""
        return json.dumps([booster.model_to_string() for booster in self.boosters])

    @classmethod
    def from_text(cls, text: str) -> Model:
        """Return a model that `to_text` wrote.

        Raises:
            ValueError: If the text is none.
            ModuleNotFoundError: Without LightGBM.
        """
        lightgbm = _lightgbm()
        try:
            return cls([lightgbm.Booster(model_str=each) for each in json.loads(text)])
        except (TypeError, lightgbm.basic.LightGBMError) as error:
            raise ValueError(f"not a model: {error}") from None

    @property
    def gains(self) -> dict[str, float]:
        """Share of the training loss that splits on each feature took away, the largest first."""
        total = sum(booster.feature_importance("gain") for booster in self.boosters)
        shares = dict(zip((*FEATURES, "age"), (total / total.sum()).tolist(), strict=True))
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def hazards(self, touches: Touches, rounds: Sequence[int]) -> list[Floats]:
        """Return float32 (rows, bins) per number of trees: probability of a use within each bin, given none before.

        Args:
            touches: The references.
            rounds: Trees of each booster that are used, rising.
        """
        found = [np.empty((len(touches.features), EDGES_S.size), np.float32) for _ in rounds]
        for bin_ in range(EDGES_S.size):
            progress.tell("predicting uses, age bins", bin_, EDGES_S.size)
            rows = _with_age(touches.features, np.full(len(touches.features), bin_))
            logits = np.zeros(len(rows))
            for table, start, stop in zip(found, (0, *rounds), rounds, strict=False):
                for booster in self.boosters:
                    part = {"start_iteration": start, "num_iteration": stop - start}
                    logits += booster.predict(rows, raw_score=True, num_threads=1, **part)
                table[:, bin_] = 1.0 / (1.0 + np.exp(-logits / len(self.boosters)))
        return found


def train(touches: Sequence[Touches], rounds: int, seeds: int = 2) -> Model:
    """Learn from training traffic.

    Args:
        touches: Of one or more traces, each given equal room.
        rounds: Trees per booster.
        seeds: Boosters, each on rows drawn anew.

    Raises:
        ModuleNotFoundError: Without LightGBM.
    """
    lightgbm = _lightgbm()
    boosters = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        drawn = [_rows(each, ROWS // len(touches), generator) for each in touches]
        rows, used = (np.concatenate(parts) for parts in zip(*drawn, strict=True))

        def tell(state: Any, seed: int = seed) -> None:
            progress.tell("learning when blocks are used, trees", seed * rounds + state.iteration + 1, seeds * rounds)

        data = lightgbm.Dataset(rows, used, feature_name=[*FEATURES, "age"])
        boosters.append(lightgbm.train(LEARNING | {"seed": seed}, data, rounds, callbacks=[tell]))
    return Model(boosters)


def observed(touches: Touches, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return float64 (classes, bins): observed probability of a use by class and age, NaN where nothing was at risk."""
    count = int(classes.max(initial=0)) + 1
    found = np.full((count, EDGES_S.size), np.nan)
    for bin_ in range(EDGES_S.size):
        risk, used = _at_risk(touches, bin_)
        at_risk = np.bincount(classes[risk], touches.size[risk], count)
        hits = np.bincount(classes[risk], touches.size[risk] * used[risk], count)
        found[:, bin_] = np.divide(hits, at_risk, out=np.full(count, np.nan), where=at_risk > 0)
    return found


def _at_risk(touches: Touches, bin_: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which touches entered a bin unused, and left it or were used in it; and which were used before its end."""
    end_s = EDGES_S[bin_] + WIDTHS_S[bin_]
    used = touches.wait_s < end_s
    return (touches.wait_s >= EDGES_S[bin_]) & (used | (touches.left_s >= end_s)), used


def _rows(touches: Touches, most: int, generator: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Draw (touch, bin) pairs at risk, touches by how many references they stand for; return features and labels."""
    share = np.minimum(touches.size / touches.size.mean(), 4.0)
    bins = [np.flatnonzero(_at_risk(touches, bin_)[0]) for bin_ in range(EDGES_S.size)]
    rate = min(1.0, most / max(sum(float(share[rows].sum()) for rows in bins), 1.0))
    picked = [rows[generator.random(rows.size) < rate * share[rows]] for rows in bins]
    features = [_with_age(touches.features[rows], np.full(rows.size, bin_)) for bin_, rows in enumerate(picked)]
    used = [_at_risk(touches, bin_)[1][rows] for bin_, rows in enumerate(picked)]
    return np.concatenate(features), np.concatenate(used)


def _with_age(features: Floats, bins: npt.NDArray[np.int64]) -> Floats:
    return np.column_stack([features, bins.astype(np.float32)])


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise ModuleNotFoundError("the ceiling needs LightGBM; fix: pip install 'kvevolve[results]'") from None
    return lightgbm
