"""An ablation as a whole: every arm with every seed, one run after the other, then the summary.

Knows arms, runs and the summary; must not know engines or logs. Runs that are finished are not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.ablation import summary
from sim.ablation.arms import Arm
from sim.ablation.runs import Finished, Plan, finished, perform
from sim.rundir import versions, write_json
from workloads.progress import tell

JSON, TEXT = "ablation.json", "ablation.txt"


@dataclass(frozen=True)
class Study:
    """What an ablation found.

    Attributes:
        runs: Finished runs by arm, in the order the arms were given.
        content: Plain numbers, as in `ablation.json`.
        text: Tables.
    """

    runs: Mapping[str, Sequence[Finished]]
    content: dict[str, Any]
    text: str


def ablate(plan: Plan, arms: Sequence[Arm], seeds: Sequence[int], root: Path, say: Callable[[str], None]) -> Study:
    """Run what is not finished, and sum up.

    Seeds are the outer loop: after each, all arms have equally many runs.

    Args:
        plan: What all runs share.
        arms: What is compared; the first is what the others are compared with.
        seeds: Distinct numbers.
        root: Runs lie in `root/ARM/seed-N`.
        say: Receives progress, line by line.

    Raises:
        sim.ablation.runs.Interrupted: By Ctrl-C; finished runs stay.
        ValueError: If the directory holds runs of another ablation.
        RuntimeError: If a run fails.
    """
    jobs = [(arm, seed, root / arm.name / f"seed-{seed}") for seed in seeds for arm in arms]
    stored = {(arm.name, seed): finished(place, plan.facts(arm, seed)) for arm, seed, place in jobs}
    runs: dict[str, list[Finished]] = {arm.name: [] for arm in arms}
    for number, (arm, seed, place) in enumerate(jobs):
        tell("ablation, runs", number, len(jobs))
        found = stored[arm.name, seed]
        label = f"{arm.name}, seed {seed} ({number + 1} of {len(jobs)})"
        if found is None:
            say(f"{label}: running")
            found = perform(plan, arm, seed, place, lambda text, label=label: say(f"{label}: {text}"))  # type: ignore[misc]
        say(f"{label}: training {found.train:+.4f}, validation {found.validation:+.4f}, {found.seconds:.0f} s")
        runs[arm.name].append(found)
    return _summed_up(plan, runs, root)


def _summed_up(plan: Plan, runs: dict[str, list[Finished]], root: Path) -> Study:
    panel = plan.marks.panel
    content = {
        "panel": panel.name,
        "train_fingerprint": panel.fingerprint,
        "traffic": panel.traffic,
        "versions": versions(),
        **summary.summarise(runs),
    }
    head = f"panel {panel.name}, training fingerprint {panel.fingerprint[:12]}, {panel.traffic}"
    text = f"{head}\n\n{summary.describe(content)}"
    write_json(root / JSON, content)
    (root / TEXT).write_text(text + "\n")
    return Study(runs, content, text)
