"""The learnable ceiling as a part of the results: trained on train, chosen on validation, read on test.

Knows splits, which training traffic is like which other, and what a policy is compared with. Must not know how
predictions are made or replayed.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.executor import run
from sim.results import figures
from sim.results.ceiling import foresight, hazards
from sim.results.ceiling.hazards import EDGES_S, WIDTHS_S, Model
from sim.results.ceiling.touches import FEATURES, Touches, touches_of
from sim.results.contenders import Evolved
from sim.results.places import Measured, Place, measure, places_of
from sim.results.replays import SERIAL, Outcome, Runner, Workers, code_digest
from sim.results.report import Report, Table, gap
from workloads import progress
from workloads.atomic import atomic_write
from workloads.locate import user_cache_dir
from workloads.panel import Panel, load_panel
from workloads.trace import Trace

log = logging.getLogger(__name__)

ROUNDS = (40, 80, 120, 180)
"""Trees per booster; how many is chosen on validation."""
JOINT = "all training traces"
SHOWN = 20
CLASSES = {"seen once": 1, "2 times": 2, "3-5": 5, "6-19": 19, "20 and more": 10**9}
TEXT = (
    "The best predictor of the next use we could train, which no engine could run: gradient-boosted trees over "
    "{features} features of a touch, all that is known online (counts and gaps remembered for ever, the path, the "
    "conversation followed along the prefix, the session, the length of the answer), give the probability of a use "
    "by age; the block with the lowest Gittins index (hits per second of a slot) leaves first. Trained on the train"
    " split; the training traffic (the trace of the same kind, or all) and the number of trees are chosen on "
    "validation by the gap closed itself. It is a lower bound of what is learnable: a better predictor may come, "
    "and predictions are made at touches and not renewed when the rest of the session moves. Share: gap closed by a"
    " policy over that of the predictor."
)


@dataclass(frozen=True)
class Choice:
    """Which model stands for a trace."""

    model: str
    rounds: int


def report(
    which: str, policies: Sequence[Evolved], workers: Workers = SERIAL, split: str = "test", seeds: int = 2
) -> Report:
    """Train, choose, replay.

    Args:
        which: The panel.
        policies: Whose share of the ceiling is reported.
        workers: Where replays run; training runs here.
        split: What is reported beside validation.
        seeds: Boosters per model.

    Raises:
        ModuleNotFoundError: Without LightGBM.
    """
    train, validation = (load_panel(each, which) for each in ("train", "validation"))
    described = {}
    for done, (name, trace) in enumerate(train.traces.items()):
        progress.tell("describing training traces", done, len(train.traces))
        described[name] = touches_of(trace)
    models = _Models(train, described, seeds)
    tried = {trace: _candidates(trace, train) for trace in validation.traces}
    found = _replayed(validation, {t: [Choice(m, r) for m in names for r in ROUNDS] for t, names in tried.items()},
                      models, workers)  # fmt: skip
    chosen = _choose(validation, found)
    reported = [(validation, {trace: found[trace, choice] for trace, choice in chosen.items()}, chosen)]
    if split != "validation":
        panel = load_panel(split, which, purpose="report")
        choices = {trace: _chosen_for(trace, train, chosen) for trace in panel.traces}
        read = _replayed(panel, {trace: [choice] for trace, choice in choices.items()}, models, workers)
        reported.append((panel, {trace: read[trace, choice] for trace, choice in choices.items()}, choices))
    tables, data = [], {}
    for panel, hits, choices in reported:
        table, numbers = _table(panel, hits, choices, policies, workers)
        tables.append(table)
        data[panel.split] = {"fingerprint": panel.fingerprint, **numbers}
    used = list(dict.fromkeys(choice.model for _, _, choices in reported for choice in choices.values()))
    return _assembled(tables, data, models, used, described)


class _Models:
    """Models by name: from the user cache, else trained when first asked for, and kept there."""

    def __init__(self, train: Panel, described: Mapping[str, Touches], seeds: int) -> None:
        self._train, self._described, self._seeds = train, described, seeds
        self._known: dict[str, Model] = {}

    def __getitem__(self, name: str) -> Model:
        if name not in self._known:
            path = _kept(self.key(name), "model.json")
            model = self._read(path)
            if model is None:
                touches = list(self._described.values()) if name == JOINT else [self._described[name]]
                model = hazards.train(touches, max(ROUNDS), self._seeds)
                _write(path, model.to_text().encode())
            self._known[name] = model
        return self._known[name]

    def key(self, name: str) -> list[object]:
        """Return what a model depends on."""
        names = list(self._train.traces) if name == JOINT else [name]
        here = Path(__file__).parent
        code = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()
        prints = [self._train.traces[name].fingerprint for name in names]
        return [code_digest(), code, prints, max(ROUNDS), hazards.ROWS, self._seeds]

    @staticmethod
    def _read(path: Path) -> Model | None:
        try:
            return Model.from_text(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is unreadable (%s) and is computed anew", path, error)
            return None


def _family(trace: str) -> str:
    """Return what kind of traffic a trace of a panel is: its name without its split."""
    for split in ("train", "validation", "test"):
        trace = trace.removesuffix(f"_{split}")
    return trace


def _candidates(trace: str, train: Panel) -> list[str]:
    return [name for name in train.traces if _family(name) == _family(trace)] + [JOINT]


def _chosen_for(trace: str, train: Panel, chosen: Mapping[str, Choice]) -> Choice:
    """Return the choice validation made for traffic of this kind, else the most frequent one for unknown traffic."""
    for other, choice in chosen.items():
        if _family(other) == _family(trace):
            return choice
    rounds = sorted(choice.rounds for choice in chosen.values() if choice.model == JOINT)
    return Choice(JOINT, rounds[len(rounds) // 2] if rounds else ROUNDS[len(ROUNDS) // 2])


Hits = list[npt.NDArray[np.int32]]


def _replayed(
    panel: Panel, choices: Mapping[str, Sequence[Choice]], models: _Models, workers: Workers
) -> dict[tuple[str, Choice], Hits]:
    """Return hits per request at each place of a trace, by trace and choice, kept in the user cache."""
    wanted = [(trace, choice) for trace, each in choices.items() for choice in each]
    sizes = {t: [p.capacity_blocks for p in places_of(panel) if p.trace == t] for t in choices}
    paths = {
        (trace, choice): _kept(
            [panel.traces[trace].fingerprint, models.key(choice.model), choice.rounds, sizes[trace]], "ceiling.npz"
        )
        for trace, choice in wanted
    }
    found = {key: hits for key in wanted if (hits := _read(paths[key])) is not None}
    fresh = [key for key in wanted if key not in found]
    jobs = [(trace, (models[choice.model], choice.rounds, sizes[trace])) for trace, choice in fresh]

    def keep(index: int, hits: Hits) -> None:
        found[fresh[index]] = hits
        buffer = io.BytesIO()
        np.savez_compressed(buffer, hits=np.array(hits, np.int32))
        _write(paths[fresh[index]], buffer.getvalue())

    def tell(done: int, total: int) -> None:
        progress.tell(f"ceiling, {panel.split}, predictions replayed", done, total)

    run(replay, panel.traces, jobs, workers.executor, workers.count, tell, keep)
    return found


def replay(trace: Trace, job: tuple[Model, int, list[int]]) -> Hits:
    """Predict the uses of a trace and replay it at each capacity; the job of an executor."""
    model, rounds, capacities = job
    touches = touches_of(trace)
    return foresight.hits(trace, touches, model.hazards(touches, rounds), capacities)


def _choose(panel: Panel, found: Mapping[tuple[str, Choice], Hits]) -> dict[str, Choice]:
    best: dict[str, tuple[float, Choice]] = {}
    for (trace, choice), hits in found.items():
        places = [place for place in places_of(panel) if place.trace == trace]
        measured, runner = _measured(panel, places, hits)
        closed = [cell.gap_closed for cell in measured.cells(runner) if cell.counts]
        mean = sum(closed) / max(len(closed), 1)
        if trace not in best or mean > best[trace][0]:
            best[trace] = mean, choice
    return {trace: choice for trace, (_, choice) in best.items()}


def _measured(panel: Panel, places: Sequence[Place], hits: Hits) -> tuple[Measured, Runner]:
    runner = Runner("ceiling")
    base = measure(panel.traces, places, [])
    mine = {(runner, place): Outcome(each, {}) for place, each in zip(places, hits, strict=True)}
    return Measured(panel.traces, places, {**base.outcomes, **mine}), runner


def _table(
    panel: Panel, hits: Mapping[str, Hits], choices: Mapping[str, Choice], policies: Sequence[Evolved], workers: Workers
) -> tuple[Table, dict[str, Any]]:
    others = measure(panel.traces, places_of(panel), [each.runner for each in policies], workers, "policies, replays")
    rows, cells = [], []
    for trace, mine in hits.items():
        places = [place for place in places_of(panel) if place.trace == trace]
        measured, runner = _measured(panel, places, mine)
        for place in places:
            cell = measured.cell(runner, place)
            theirs = {each.name: others.cell(each.runner, place).gap_closed for each in policies}
            shares = [f"{value / cell.gap_closed:.0%}" if cell.gap_closed > 0 else "" for value in theirs.values()]
            both = [text for pair in zip(map(gap, theirs.values()), shares, strict=True) for text in pair]
            rows.append([trace, place.label + " ~" * (not cell.counts), gap(cell.gap_closed), *both])
            cells.append({"trace": trace, "capacity": place.label, "scored": cell.counts, "ceiling": cell.gap_closed,
                          "hit_tokens": cell.hit_tokens, "policies": theirs})  # fmt: skip
    head = ["trace", "capacity", "predictor", *(text for each in policies for text in (each.name, "share"))]
    said = {trace: f"{choice.model}, {choice.rounds} trees" for trace, choice in choices.items()}
    note = "; ".join(f"{trace}: {text}" for trace, text in said.items())
    return Table(f"Gap closed, {panel.split} split", head, rows, note), {"cells": cells, "chosen": said}


def _assembled(
    tables: Sequence[Table],
    data: Mapping[str, Any],
    models: _Models,
    used: Sequence[str],
    described: Mapping[str, Touches],
) -> Report:
    gains = {name: models[name].gains for name in used}
    importance = [
        Table(f"What the predictor looks at, {name}", ["feature", "share of the gain"],
              [[feature, f"{share:.3f}"] for feature, share in list(found.items())[:SHOWN]])
        for name, found in gains.items()
    ]  # fmt: skip
    curves = {name: _hazard_curves(touches) for name, touches in described.items()}
    drawing = {"hazards": lambda path: figures.curves(curves, "s since the last use", "uses, % per s", path)}
    facts = {**data, "gains": gains, "hazard_percent_per_s": curves}
    text = TEXT.format(features=len(next(iter(described.values())).features[0]))
    return Report("ceiling", "The learnable ceiling", text, [*tables, *importance], facts, drawing)


def _hazard_curves(touches: Touches) -> dict[str, list[tuple[float, float]]]:
    """Return (middle of the age bin in s, chance of a use in % per s) by how often a block was seen."""
    seen = touches.features[:, FEATURES.index("seen")]
    classes = np.searchsorted(np.array(list(CLASSES.values()), np.float64), seen).astype(np.int64)
    found = hazards.observed(touches, classes)
    middle = EDGES_S + 0.5 * WIDTHS_S
    return {
        name: [(float(s), 100.0 * float(p) / float(w)) for s, p, w in zip(middle, row, WIDTHS_S, strict=True) if p == p]
        for name, row in zip(CLASSES, found, strict=False)
    }


def _kept(key: Sequence[object], suffix: str) -> Path:
    """Return where in the user cache something is kept that depends on all of a key."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return user_cache_dir() / "results" / f"{digest}.{suffix}"


def _read(path: Path) -> Hits | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return list(stored["hits"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is unreadable (%s) and is computed anew", path, error)
        return None


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as handle:
            handle.write(content)
    except OSError as error:
        log.warning("cannot keep %s: %s", path, error)
