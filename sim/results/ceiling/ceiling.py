"""The learnable ceiling as a part of the results: trained on train, chosen on validation, read on test.

Knows splits, which training traffic is like which other, and what a policy is compared with. Must not know how
predictions are made, replayed or kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.executor import run
from sim.results import figures
from sim.results.ceiling import clocks, foresight, hazards, kept
from sim.results.ceiling.hazards import EDGES_S, WIDTHS_S, Model
from sim.results.ceiling.kept import Hits, Models
from sim.results.ceiling.touches import FEATURES, Touches, touches_of
from sim.results.contenders import Evolved
from sim.results.means import gap_means, mean_gap
from sim.results.places import GapIntervals, Measured, Place, measure, places_of
from sim.results.replays import SERIAL, Outcome, Runner, Workers
from sim.results.report import Report, Table, gap, ranged
from workloads import progress
from workloads.panel import Panel, load_panel
from workloads.trace import Trace

ROUNDS = (40, 80, 120, 180)
"""Trees per booster; how many is chosen on validation."""
JOINT = "all training traces"
SHOWN = 20
TICKS_S = (1, 10, 100, 1000, 10_000)
CLASSES = {"seen once": 1, "2 times": 2, "3-5": 5, "6-19": 19, "20 and more": 10**9}
READING = (
    "The optimum knows the future; the predictor is the best we could learn from the past. A policy's gap closed is "
    "its share of the first, the column beside it its share of the second."
)
TEXT = (
    "The best predictor of the next use we could train, which no engine could run: gradient-boosted trees over "
    "{features} features of a touch, all that is known online (counts and gaps remembered for ever, the path, the "
    "conversation followed along the prefix, the session, the length of the answer), give the probability of a use "
    "by age; the block with the lowest Gittins index (hits per second of a slot) leaves first. Trained on the "
    "train split, on the trace of the same kind or, where there is none, on all; the number of trees is chosen on "
    "validation by the gap closed itself, so the figures of validation are a little too good. Two predictors: one "
    "knows seconds, the other only the order of requests. Where sessions were laid on a clock by a rule (weka: idle "
    "gaps cut at 300 s), the first can learn the rule, which is no property of traffic: there, judge by the second. "
    "Both are lower bounds of what is learnable: a better predictor may come, and predictions are made at touches "
    "and not renewed when the rest of the session moves."
)


@dataclass(frozen=True)
class Choice:
    """Which predictor stands for a trace: what it learned from, and how many trees of each booster are used."""

    model: str
    rounds: int


Chosen = Mapping[tuple[str, str], Choice]
"""By trace and clock."""


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
    work = _Work(train, Models(train.traces, max(ROUNDS), seeds), workers)
    tried = {(trace, clock): [Choice(work.teacher(trace), rounds) for rounds in ROUNDS]
             for trace in validation.traces for clock in clocks.CLOCKS}  # fmt: skip
    found = work.replayed(validation, tried)
    chosen = _choose(validation, found)
    reported = [(validation, found, chosen)]
    if split != "validation":
        panel = load_panel(split, which, purpose="report")
        choices = {(trace, clock): work.chosen_for(trace, clock, chosen)
                   for trace in panel.traces for clock in clocks.CLOCKS}  # fmt: skip
        hits = work.replayed(panel, {key: [choice] for key, choice in choices.items()})
        reported.insert(0, (panel, hits, choices))
    tables, data = [], {}
    for panel, hits, choices in reported:
        mine = {key: hits[key, choice] for key, choice in choices.items()}
        table, numbers = _table(panel, mine, choices, policies, workers)
        tables.append(table)
        data[panel.split] = {"fingerprint": panel.fingerprint, **numbers}
    used = dict.fromkeys((choice.model, clock) for _, _, each in reported for (_, clock), choice in each.items())
    gains = {f"{model}, {clock}": work.model(model, clock).gains for model, clock in used}
    return _assembled(tables, data, gains, _described(train))


@dataclass(frozen=True, eq=False)
class _Work:
    """Training traffic, the models of it, and where their predictions are replayed."""

    train: Panel
    models: Models
    workers: Workers

    def teacher(self, trace: str) -> str:
        """Return what a model for a trace learns from: traffic of its kind if there is some, else all."""
        return next((name for name in self.train.traces if _family(name) == _family(trace)), JOINT)

    def chosen_for(self, trace: str, clock: str, chosen: Chosen) -> Choice:
        """Return the choice validation made for traffic of this kind; for unknown traffic the middle one of all."""
        for (other, its_clock), choice in chosen.items():
            if _family(other) == _family(trace) and its_clock == clock:
                return choice
        rounds = sorted(choice.rounds for choice in chosen.values())
        return Choice(self.teacher(trace), rounds[len(rounds) // 2])

    def names(self, model: str) -> tuple[str, ...]:
        """Return the training traces of a model."""
        return tuple(self.train.traces) if model == JOINT else (model,)

    def model(self, model: str, clock: str) -> Model:
        """Return a model."""
        return self.models.get(self.names(model), clock)

    def replayed(
        self, panel: Panel, choices: Mapping[tuple[str, str], Sequence[Choice]]
    ) -> dict[tuple[tuple[str, str], Choice], Hits]:
        """Return hits at each place of a trace, by trace and clock, and by choice; kept in the user cache."""
        sizes = {name: [p.capacity_blocks for p in places_of(panel) if p.trace == name] for name in panel.traces}
        paths = {
            (key, choice): kept.hits_path(
                clocks.on_clock(panel.traces[key[0]], key[1]),
                self.models.key(self.names(choice.model), key[1]),
                choice.rounds,
                sizes[key[0]],
            )
            for key, each in choices.items()
            for choice in each
        }
        found = {wanted: hits for wanted, path in paths.items() if (hits := kept.read_hits(path)) is not None}
        fresh: dict[tuple[tuple[str, str], str], list[int]] = {}
        for key, choice in paths:
            if (key, choice) not in found:
                fresh.setdefault((key, choice.model), []).append(choice.rounds)
        order = list(fresh)
        for done, ((_, clock), model) in enumerate(order):
            progress.tell("models of the ceiling", done, len(order))
            self.model(model, clock)
        jobs = [(key[0], (self.model(model, key[1]), sorted(fresh[key, model]), sizes[key[0]], key[1]))
                for key, model in order]  # fmt: skip

        def keep(index: int, each: list[Hits]) -> None:
            key, model = order[index]
            for rounds, hits in zip(sorted(fresh[key, model]), each, strict=True):
                found[key, Choice(model, rounds)] = hits
                kept.write_hits(paths[key, Choice(model, rounds)], hits)

        def tell(done: int, total: int) -> None:
            progress.tell(f"ceiling, {panel.split}, predictors replayed", done, total)

        run(replay, panel.traces, jobs, self.workers.executor, self.workers.count, tell, keep)
        return found


def replay(trace: Trace, job: tuple[Model, list[int], list[int], str]) -> list[Hits]:
    """Predict the uses of a trace with each number of trees, and replay it at each capacity; the job of an executor."""
    model, rounds, capacities, clock = job
    seen = clocks.on_clock(trace, clock)
    touches = touches_of(seen)
    return [foresight.hits(seen, touches, table, capacities) for table in model.hazards(touches, rounds)]


def _family(trace: str) -> str:
    """Return what kind of traffic a trace of a panel is: its name without its split."""
    for split in ("train", "validation", "test"):
        trace = trace.removesuffix(f"_{split}")
    return trace


def _described(train: Panel) -> dict[str, Touches]:
    found = {}
    for done, (name, trace) in enumerate(train.traces.items()):
        progress.tell("describing training traces", done, len(train.traces))
        found[name] = touches_of(trace)
    return found


def _choose(panel: Panel, found: Mapping[tuple[tuple[str, str], Choice], Hits]) -> dict[tuple[str, str], Choice]:
    best: dict[tuple[str, str], tuple[float, Choice]] = {}
    base = measure(panel.traces, places_of(panel), [])
    for (key, choice), hits in found.items():
        places = [place for place in places_of(panel) if place.trace == key[0]]
        mine = {(Runner("ceiling"), place): Outcome(each, {}) for place, each in zip(places, hits, strict=True)}
        measured = Measured(panel.traces, places, {**base.outcomes, **mine})
        mean = gap_means(measured.cells(Runner("ceiling"))).get("mean", 0.0)
        if key not in best or mean > best[key][0]:
            best[key] = mean, choice
    return {key: choice for key, (_, choice) in best.items()}


def _table(
    panel: Panel, hits: Mapping[tuple[str, str], Hits], choices: Chosen, policies: Sequence[Evolved], workers: Workers
) -> tuple[Table, dict[str, Any]]:
    places = places_of(panel)
    outcomes = dict(measure(panel.traces, places, [p.runner for p in policies], workers, "policies, replays").outcomes)
    for (trace, clock), mine in hits.items():
        own = [place for place in places if place.trace == trace]
        outcomes |= {(_runner(clock), place): Outcome(each, {}) for place, each in zip(own, mine, strict=True)}
    measured = Measured(panel.traces, places, outcomes)
    ends = GapIntervals(measured)
    rows, cells, means = [], [], {}
    for trace in panel.traces:
        own = [place for place in places if place.trace == trace]
        for place in own:
            numbers = _numbers(measured, [place], policies)
            counts = measured.cell(_runner(clocks.SECONDS), place).counts
            rows.append([trace, place.label + " ~" * (not counts), *_shown(numbers, policies)])
            cells.append({"trace": trace, "capacity": place.label, "scored": counts, "gap_closed": numbers})
        counting = [place for place in own if measured.cell(_runner(clocks.SECONDS), place).counts]
        if counting:
            means[trace] = _numbers(measured, counting, policies)
            rows.append([f"**{trace}**", "mean", *_shown(means[trace], policies, ends, counting)])
    shares = [f"{p.name}, of predictor {clock}" for p in policies for clock in clocks.CLOCKS]
    head = ["trace", "capacity", *(f"predictor, {clock}" for clock in clocks.CLOCKS), *(p.name for p in policies)]
    said = {f"{trace}, {clock}": f"{c.model}, {c.rounds} trees" for (trace, clock), c in choices.items()}
    note = "Chosen: " + "; ".join(f"{key}: {text}" for key, text in said.items()) + "."
    table = Table(f"Gap closed, {panel.split} split", [*head, *shares], rows, note)
    return table, {"cells": cells, "mean_gap_closed": means, "chosen": said}


def _runner(clock: str) -> Runner:
    return Runner(f"ceiling, {clock}")


def _numbers(measured: Measured, places: Sequence[Place], policies: Sequence[Evolved]) -> dict[str, float]:
    """Return the mean gap closed by predictors and policies."""
    runners = {clock: _runner(clock) for clock in clocks.CLOCKS} | {each.name: each.runner for each in policies}
    return {name: mean_gap([measured.cell(runner, place) for place in places]) for name, runner in runners.items()}


def _shown(
    numbers: Mapping[str, float],
    policies: Sequence[Evolved],
    ends: GapIntervals | None = None,
    places: Sequence[Place] = (),
) -> list[str]:
    """Return a row's numbers, with intervals where they are given."""
    runners = {clock: _runner(clock) for clock in clocks.CLOCKS} | {each.name: each.runner for each in policies}
    texts = [ranged(value, ends.of(runners[name], places)) if ends else gap(value) for name, value in numbers.items()]
    shares = [f"{numbers[p.name] / numbers[clock]:.0%}" if numbers[clock] > 0 else ""
              for p in policies for clock in clocks.CLOCKS]  # fmt: skip
    return [*texts, *shares]


def _assembled(
    tables: Sequence[Table],
    data: Mapping[str, Any],
    gains: Mapping[str, Mapping[str, float]],
    described: Mapping[str, Touches],
) -> Report:
    importance = [
        Table(f"What the predictor looks at: {name}", ["feature", "share of the gain"],
              [[feature, f"{share:.3f}"] for feature, share in list(found.items())[:SHOWN]])
        for name, found in gains.items()
    ]  # fmt: skip
    curves = {name: _hazard_curves(touches) for name, touches in described.items()}
    drawing = {
        "hazards": lambda path: figures.curves(curves, "s since the last use", "uses, % per s", path, TICKS_S, True)
    }
    facts = {**data, "gains": gains, "hazard_percent_per_s": curves}
    text = TEXT.format(features=len(FEATURES))
    return Report("ceiling", "The learnable ceiling", READING, text, [*tables, *importance], facts, drawing)


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
