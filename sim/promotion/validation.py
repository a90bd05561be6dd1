"""Validates incumbents: their files, and every number in them that can be counted again here.

Replaying the test split again is no new look at it: the figures are in the bundle already, and only whether they are
equal comes out. So it is not added to `test_reads`.

Knows bundles and panels. Must not change anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sim.promotion import bundle, looks
from sim.promotion.bundle import SHIPPED, Bundle
from sim.promotion.gate import judge
from sim.promotion.manifest import SPLITS, BundleError, SplitScore
from sim.promotion.scoring import score_on
from workloads import panel_file
from workloads.errors import TraceError
from workloads.panel import load_panel
from workloads.progress import tell

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


@dataclass(frozen=True)
class Finding:
    """What came of one part of a bundle.

    Attributes:
        incumbent: Its name.
        part: "bundle" (its files), a split, or "gate".
        status: `OK`, `FAILED` or `SKIPPED`.
        detail: What was confirmed, what is wrong, or why it could not be looked at.
    """

    incumbent: str
    part: str
    status: str
    detail: str


def validate(
    names: Sequence[str] = (),
    directory: Path | None = None,
    splits: Sequence[str] = SPLITS,
    executor: str = "serial",
    workers: int | None = None,
    rejudge: bool = False,
) -> list[Finding]:
    """Check incumbents: hashes and fields first, then every hit-token count of every split, exactly.

    A bundle that somebody sealed by hand, with a verdict it was never given, passes both; `rejudge` finds it out.

    Args:
        names: Which; default all of the directory.
        directory: Of the incumbents; default those of this package.
        splits: What is scored again; a split whose traces are not at hand is skipped, with the reason.
        executor: See `sim.executor.run`.
        workers: Most replays at a time.
        rejudge: Whether the promotion gate judges each again, minutes; all rules must hold, as they did.

    Raises:
        BundleError: If one is named that is not there.
    """
    place = directory or SHIPPED
    known = bundle.names(place)
    missing = sorted(set(names) - set(known))
    if missing:
        raise BundleError(f"{place}: no incumbent {missing[0]!r}; there are: {', '.join(known) or 'none'}")
    found: list[Finding] = []
    for name in names or known:
        try:
            loaded = bundle.load(name, place)
            fault = looks.fault(loaded, place)
        except BundleError as error:
            found.append(Finding(name, "bundle", FAILED, str(error)))
            continue
        text = f"source {loaded.manifest.sha256[:12]}, fields, seal and looks as written"
        found.append(Finding(name, "bundle", FAILED if fault else OK, fault or text))
        found += [Finding(name, split, *_again(loaded, split, executor, workers)) for split in splits]
        if rejudge:
            found.append(Finding(name, "gate", *_rejudged(loaded, executor, workers)))
    return found


def _rejudged(loaded: Bundle, executor: str, workers: int | None) -> tuple[str, str]:
    """Return status and detail of trying the gate's rules again."""
    reason = _not_at_hand(loaded.manifest.which)
    if reason:
        return SKIPPED, reason
    verdict = judge(loaded.policy, loaded.manifest.which, executor, workers)
    if not verdict.passed:
        first = verdict.failures[0]
        return FAILED, f"refused now: {first.name}: {first.reason}"
    return OK, f"all {len(verdict.checks)} rules hold"


def _again(loaded: Bundle, split: str, executor: str, workers: int | None) -> tuple[str, str]:
    """Return status and detail of scoring one split again."""
    manifest = loaded.manifest
    told = manifest.scores[split]  # type: ignore[index]
    reason = _not_at_hand(manifest.which)
    if reason:
        return SKIPPED, reason
    try:
        panel = load_panel(split, manifest.which, **({"purpose": "report"} if split == "test" else {}))
    except TraceError as error:
        return FAILED, f"the panel does not load any more: {error}"
    if panel.name != manifest.panel or panel.fingerprint != told.fingerprint:
        return FAILED, (
            f"panel {panel.name} {split} is {panel.fingerprint[:12]} here and was {manifest.panel}"
            f" {told.fingerprint[:12]} when it was promoted; fix: restore panel and traces, or the bundle"
        )
    say: Callable[[int, int], None] = partial(tell, f"scoring {manifest.name} on {split}, cells")
    return _compared(told, score_on(panel, loaded.policy, executor, workers, say))


def _compared(told: SplitScore, now: SplitScore) -> tuple[str, str]:
    for field in ("hit_tokens", "lru_hit_tokens", "optimum_hit_tokens", "prompt_tokens"):
        for one, other in zip(told.cells, now.cells, strict=True):
            if getattr(one, field) != getattr(other, field):
                return FAILED, (
                    f"{one.trace} at {one.capacity_blocks} blocks: {field} is {getattr(other, field):,} here and"
                    f" {getattr(one, field):,} in the manifest"
                )
    if told != now:
        return FAILED, f"the score is {now.combined!r} here and {told.combined!r} in the manifest"
    return OK, f"{len(now.cells)} cells equal to the token, score {now.combined:+.4f}"


def _not_at_hand(which: str) -> str:
    """Return why a panel cannot be loaded here, or nothing."""
    if "/" in which and not Path(which).is_file():
        return f"the panel's file {which} is not here"
    try:
        missing = panel_file.find(which).missing()
    except TraceError:
        return ""
    return f"traces not at hand: {', '.join(missing)}" if missing else ""
