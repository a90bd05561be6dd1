"""One run of one arm with one seed, in a directory of its own; what it left is read again, not run again.

Knows the engine's job, the tuner and files; must not know what runs are compared for. Scores on train and validation,
never on test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim.ablation import curve as curves
from sim.ablation.arms import Arm
from sim.ablation.curve import Point
from sim.comparison import compare
from sim.evolve import Job, search
from sim.fitness import TrainingObjective
from sim.marks import Marks
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.rundir import RunDir, versions, write_json, write_text
from sim.search.tuner import tune

RESULT = "ablation_run.json"
"""There if a run is finished."""
BEGUN = "ablation_begun.json"
"""There if a run was begun, by an ablation: it may be removed and begun anew."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What all runs share.

    Attributes:
        program: Seed policy of the engine's arms.
        evaluator: OpenEvolve evaluator.
        panel: Name or file of the panel.
        marks: Of its training split.
        iterations: Of the engine, and passes of the tuner; for arms without their own number.
    """

    program: Path
    evaluator: Path
    panel: str
    marks: Marks
    iterations: int

    def iterations_of(self, arm: Arm) -> int:
        """Return the iterations, or passes, of an arm's runs."""
        return arm.iterations or self.iterations

    def facts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return what makes a run another one."""
        panel = self.marks.panel
        program = self.program.read_text() if arm.config else ""
        return {
            "arm": arm.name,
            "arm_sha256": arm.digest,
            "seed": seed,
            "iterations": self.iterations_of(arm),
            "panel": panel.name,
            "train_fingerprint": panel.fingerprint,
            "program": program,
        }


@dataclass(frozen=True)
class Finished:
    """What a run came to.

    Attributes:
        arm: Name of its arm.
        seed: Its seed.
        curve: Best training score against what was spent.
        train: Best training score.
        validation: Score of that policy on the validation split.
        seconds: Wall time.
        cpu_s: CPU time of the run and all its processes that ended with it.
    """

    arm: str
    seed: int
    curve: tuple[Point, ...]
    train: float
    validation: float
    seconds: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Evaluations per second of wall time."""
        return self.curve[-1].evaluations / self.seconds if self.seconds else 0.0


class Interrupted(Exception):
    """A run was stopped by Ctrl-C; it is not finished."""


def finished(root: Path, facts: Mapping[str, Any]) -> Finished | None:
    """Return what is in a directory, if a run is finished there.

    Raises:
        ValueError: If it is of another run, or unreadable; says what differs and the fix.
    """
    path = root / RESULT
    try:
        content = json.loads(path.read_bytes())
        stored = content["facts"]
        other = [name for name, value in facts.items() if stored.get(name) != value]
        points = tuple(Point(**point) for point in content["curve"])
        if not points:
            raise ValueError("it has no curve")
        numbers = {name: float(content[name]) for name in ("train", "validation", "seconds", "cpu_s")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: unreadable ({error}); fix: delete {root} to run it again") from None
    if other:
        raise ValueError(
            f"{path}: a run with another {', '.join(other)}; fix: another --output, or the same arms, iterations, "
            "panel and program as before"
        )
    return Finished(str(facts["arm"]), int(facts["seed"]), points, **numbers)


def perform(plan: Plan, arm: Arm, seed: int, root: Path, say: Say) -> Finished:
    """Do a run from its beginning, and write down what it came to.

    Raises:
        Interrupted: By Ctrl-C; the run will be begun anew.
        RuntimeError: If the engine fails, or no valid policy was found.
        ValueError: If the directory is in use for something else, or the configuration makes no sense.
    """
    if root.exists():
        if any(root.iterdir()) and not (root / BEGUN).exists():
            raise ValueError(f"{root} is there and no run of an ablation; fix: another --output")
        shutil.rmtree(root)
    root.mkdir(parents=True)
    facts = plan.facts(arm, seed)
    write_json(root / BEGUN, facts)
    started, spent = time.monotonic(), _cpu_s()
    run = RunDir(root.resolve())
    best, points = (_evolved if arm.config else _tuned)(plan, arm, seed, run, say)
    seconds, cpu_s = time.monotonic() - started, _cpu_s() - spent
    write_text(run.best_policy, best.source)
    found = compare([best], "validation", plan.panel)
    train = points[-1].best
    assert train is not None
    content = {
        "facts": facts,
        "train": train,
        "validation": found.scores[0].combined,
        "validation_fingerprint": found.marks.panel.fingerprint,
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "curve": [vars(point) for point in points],
        "versions": versions(),
    }
    write_json(root / RESULT, content)
    written = finished(root, facts)
    assert written is not None
    return written


def _evolved(plan: Plan, arm: Arm, seed: int, run: RunDir, say: Say) -> tuple[Policy, tuple[Point, ...]]:
    config = run.root / "arm.yaml"
    config.write_text(yaml.safe_dump(arm.settings(), sort_keys=False, allow_unicode=True, width=120))
    job = Job(plan.program, plan.evaluator, config, plan.iterations_of(arm), seed, 0, plan.panel)
    with _environment():
        complete = search(job, run, say)
    if not complete:
        raise Interrupted
    points = curves.read(run, plan.marks.panel.n_refs)
    ranked: dict[str, float] = {
        code: float(metrics["combined_score"]) for code, metrics in run.programs() if metrics.get("valid")
    }
    for code in sorted(ranked, key=lambda text: -ranked[text]):
        with contextlib.suppress(PolicyRejected):
            best = Policy.from_source(code, f"{arm.name}_{seed}")
            return best, _closed(points, ranked[code])
    raise RuntimeError(f"no valid policy was found; see {run.log}")


def _closed(points: tuple[Point, ...], best: float) -> tuple[Point, ...]:
    """End a curve with the best program's score: a trace may lack it."""
    last = points[-1] if points else Point(0.0, 0.0, 0.0, 0.0, None)
    if last.best is not None and last.best >= best:
        return points
    return (*points, Point(last.evaluations, last.cpu_s, last.refs, last.usd, best))


def _tuned(plan: Plan, arm: Arm, seed: int, run: RunDir, say: Say) -> tuple[Policy, tuple[Point, ...]]:
    assert arm.policy is not None
    policy = Policy.from_source(arm.policy.read_text(), f"{arm.name}_{seed}")
    refs, passes, started = plan.marks.panel.n_refs, plan.iterations_of(arm), time.process_time()
    points: list[Point] = []

    def keep(better: Policy, score: float, spent: float) -> None:
        points.append(Point(spent, time.process_time() - started, spent * refs, 0.0, score))
        say(f"pass {spent:.1f}/{passes}: new best training score {score:+.4f}")

    try:
        found = tune(policy, TrainingObjective(plan.marks), passes, seed, keep=keep)
    except KeyboardInterrupt:
        raise Interrupted from None
    points.append(Point(found.passes, time.process_time() - started, found.passes * refs, 0.0, found.score))
    return Policy.from_source(found.policy.source, policy.name), tuple(points)


def _cpu_s() -> float:
    """Return CPU-seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Undo changes of the environment, which the engine's processes read."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
