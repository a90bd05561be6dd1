"""Promotes a policy: the gate on validation, then one look at the test split, then a bundle.

Knows the order of these three and the records that are kept. Must not know the rules of the gate or how files are laid
out. This is the only place that reads the test split of a policy for the first time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sim.policy.program import Policy
from sim.promotion import bundle, ledger, looks
from sim.promotion.bundle import SHIPPED, check_free
from sim.promotion.gate import judge, read
from sim.promotion.lineage import of_run, unknown
from sim.promotion.manifest import FORMAT, SPLITS, BundleError, Lineage, SplitScore, sealed
from sim.promotion.scoring import score_on
from sim.promotion.verdict import Verdict
from sim.rundir import versions
from workloads import panel_file
from workloads.panel import load_panel
from workloads.progress import tell


@dataclass(frozen=True)
class Promoted:
    """What came of a promotion: the gate's verdict, and the bundle if it passed."""

    verdict: Verdict
    path: Path | None
    test: SplitScore | None


def promote(
    file: str | Path,
    name: str,
    panel: str = "auto",
    run: Path | None = None,
    directory: Path | None = None,
    found_by: str | None = None,
    executor: str = "serial",
    workers: int | None = None,
) -> Promoted:
    """Judge a policy and, if it passes, read its test split and write its bundle.

    What the gate refuses is noted in `rejected.jsonl`, of the run if one is named, else beside the bundles, and its
    test split is not read. What was promoted before is refused. Earlier looks of the policy at its test split, of a
    promotion that was cut short or by hand (`sim.promotion.looks`), are told in its bundle.

    Args:
        file: The policy.
        name: Of the incumbent to be.
        panel: Name or file of the panel; it needs all three splits.
        run: Directory of the run that found the policy, for its lineage.
        directory: Of the incumbents; default those of this package.
        found_by: How it was found, in words.
        executor: See `sim.executor.run`.
        workers: Most replays at a time.

    Raises:
        BundleError: If the name is taken, or the policy was promoted before.
        ValueError: If there is no such file, panel or run.
        OSError: If the directory cannot be written.
    """
    place = directory or SHIPPED
    _, source = read(file)
    lineage = of_run(run, source, found_by) if run else unknown(*filter(None, [found_by]))
    found = panel_file.find(panel)
    for split in SPLITS:
        found.traces(split)
    check_free(name, place)
    _refuse_known(place, source)
    ledger.entries(place / ledger.TEST_READS)  # refuses a broken one before the work
    verdict = judge(file, found.which, executor, workers)
    if not verdict.passed:
        ledger.append((run or place) / ledger.REJECTED, verdict.rejection(ledger.now()))
        return Promoted(verdict, None, None)
    return enter(source, name, found.which, verdict, lineage, place, executor, workers)


def enter(
    source: str,
    name: str,
    which: str,
    verdict: Verdict,
    lineage: Lineage,
    directory: Path,
    executor: str = "serial",
    workers: int | None = None,
) -> Promoted:
    """Read the test split of a policy that passed the gate, and write its bundle.

    Raises:
        BundleError: If the verdict is of another policy, or did not pass; if the name is taken.
    """
    policy = Policy.from_source(source, name)
    if not verdict.passed or verdict.sha256 != _sha256(source):
        raise BundleError(f"{name}: no verdict of the gate lets it pass; fix: kvevolve promote")
    check_free(name, directory)
    scores = {}
    for split in SPLITS[:2]:
        scores[split] = score_on(load_panel(split, which), policy, executor, workers, _teller(split))
    if scores["validation"].fingerprint != verdict.fingerprint:
        raise BundleError(f"{name}: the panel changed after the gate; fix: promote again")
    test = load_panel("test", which, purpose="report")
    earlier = ledger.reads_of(directory, verdict.sha256, test.fingerprint)
    look = looks.begin(directory, policy, test)
    scores["test"] = score_on(test, policy, executor, workers, _teller("test"))
    seen = {"combined": scores["test"].combined, "hit_tokens": scores["test"].hit_tokens}
    unseen = {"combined": None, "hit_tokens": None}
    before = [{key: entry.get(key) for key in look} | unseen for entry in earlier]
    manifest = sealed(
        {
            "format": FORMAT,
            "name": name,
            "created": ledger.now(),
            "kvevolve": _version(),
            "versions": versions(),
            "sha256": verdict.sha256,
            "nodes": policy.nodes,
            "panel": test.name,
            "which": which,
            "scores": {split: found.model_dump() for split, found in scores.items()},
            "verdict": {key: verdict.to_dict()[key] for key in ("fingerprint", "checks", "hit_tokens")},
            "lineage": lineage.model_dump(),
            "test_reads": [*before, look | seen],
        }
    )
    path = bundle.write(source, manifest, directory)
    return Promoted(verdict, path, scores["test"])


def _refuse_known(directory: Path, source: str) -> None:
    """Refuse a policy that is an incumbent already: its test split would be read again for nothing."""
    for name, found in bundle.every(directory):
        if isinstance(found, BundleError):
            raise BundleError(f"incumbents must be sound before another one joins them: {found}")
        if found.manifest.sha256 == _sha256(source):
            raise BundleError(
                f"this very policy is the incumbent {name!r}, its test split was read on {found.manifest.created[:10]};"
                " fix: kvevolve incumbents show it"
            )


def _sha256(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _version() -> str:
    return versions()["kvevolve"]


def _teller(split: str) -> Any:
    return partial(tell, f"scoring on {split}, cells")
