"""The choice at the end of a run: of the best on training the best on validation, if asked one that the gate passes.

Knows policies and their scores on training and validation; must not know the engine, nor any test split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim.comparison import compare
from sim.fitness import training_objective
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.promotion import ledger
from sim.promotion.gate import judge
from sim.promotion.verdict import Verdict
from sim.rundir import RunDir, write_json
from sim.search.probe import Behaviour, Unsound, behaviour
from sim.search.tuner import tune

FINALISTS = 12
"""Programs, best on training first, that are compared on validation; the first of them is tuned too."""
APART = 0.02
"""Least distance of their behaviours, 0 to 1 (`sim.search.probe`)."""
JUDGED = 4
"""How many of them, best on validation first, the gate judges until one passes. Each is a chance to pass by luck."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ranked:
    """A candidate.

    Attributes:
        policy: The policy.
        score: On validation.
    """

    policy: Policy
    score: float


def finalists(run: RunDir, seed: Policy) -> list[Policy]:
    """Return the best valid programs by training score that behave differently; the seed if there is none.

    The very best of a search are variations of one policy, right or wrong together on other traffic.
    """
    ranked: dict[str, float] = {}
    for code, metrics in run.programs():
        if metrics.get("valid"):
            ranked[code] = float(metrics["combined_score"])
    found: list[Policy] = []
    known: list[Behaviour] = []
    for code in sorted(ranked, key=lambda text: -ranked[text]):
        with contextlib.suppress(PolicyRejected, Unsound):
            policy = Policy.from_source(code, f"evolved_{len(found) + 1}")
            mine = behaviour(policy)
            if all(mine.distance(other) >= APART for other in known):
                found.append(policy)
                known.append(mine)
        if len(found) == FINALISTS:
            break
    return found or [seed]


def ranked(found: Sequence[Policy], panel: str, tune_evaluations: int, seed: int, say: Say) -> list[Ranked]:
    """Return finalists and the first of them with tuned constants, best on validation first.

    Args:
        found: Best on training first.
        panel: Name or file of the panel.
        tune_evaluations: Passes over the training panel that tuning may take; 0 tunes nothing.
        seed: Of the tuning.
        say: Receives progress.
    """
    candidates = [*_tuned(found[0], tune_evaluations, seed, say), *found]
    say(f"comparing the {len(candidates)} best on validation")
    scores = compare(candidates, "validation", panel).scores
    pairs = [Ranked(policy, score.combined) for policy, score in zip(candidates, scores, strict=True)]
    return sorted(pairs, key=lambda pair: -pair.score)


def _tuned(best: Policy, passes: int, seed: int, say: Say) -> list[Policy]:
    if passes <= 0 or not best.literals:
        return []
    say(f"tuning {len(best.literals)} constants of the best program ({passes} passes)")
    tuned = tune(best, training_objective(), passes, seed)
    say(f"tuned: training score {tuned.score:+.4f}")
    return [Policy.from_source(tuned.policy.source, "evolved_tuned")]


def passing(candidates: Sequence[Ranked], run: RunDir, panel: str, say: Say) -> tuple[Ranked, list[Verdict]]:
    """Return the first candidate that the promotion gate passes, else the first of all, and every verdict on the way.

    At most `JUDGED` are tried. Refusals are noted in the run's `rejected.jsonl`, the chosen one's verdict in
    `run.verdict`.
    """
    verdicts: list[Verdict] = []
    chosen = 0
    for number, candidate in enumerate(candidates[:JUDGED]):
        say(f"judging {candidate.policy.name}, {candidate.score:+.4f} on validation, by the promotion gate")
        verdict = judge(candidate.policy, panel, "process")
        verdicts.append(verdict)
        if verdict.passed:
            chosen = number
            break
        refused = ", ".join(check.name for check in verdict.failures)
        say(f"refused: {refused}")
        ledger.append(run.root / ledger.REJECTED, verdict.rejection(ledger.now()))
    write_json(run.verdict, verdicts[chosen].to_dict())
    return candidates[chosen], verdicts


def told(verdicts: Sequence[Verdict], chosen: Ranked) -> str:
    """Return what the gate said: of the chosen one in full, of the others why they were refused."""
    lines = []
    for verdict in verdicts:
        if verdict.policy == chosen.policy.name:
            lines.append(str(verdict))
        else:
            lines.append(f"{verdict.policy}: refused: {', '.join(check.name for check in verdict.failures)}")
    return "\n".join(lines)
