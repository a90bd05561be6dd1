"""The verb `kvevolve tune`: better constants for a policy, found on the training panel.

Knows arguments, files and what is printed; the library does the work.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_json, add_panel

if TYPE_CHECKING:
    from sim.policy.program import Policy
    from sim.search.tuner import Tuned
    from workloads.panel import Panel


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "tune a policy's constants on the training panel: CMA-ES, successive halving over cells"
    verb = verbs.add_parser("tune", help=text, description=text)
    verb.set_defaults(verb=_tune)
    verb.add_argument("policy", help="a shipped policy's name or a file; it runs in this process")
    verb.add_argument("--passes", type=float, default=60, help="budget in passes over the panel (default: 60)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--sigma", type=float, default=0.5, help="first step in powers of e (default: 0.5)")
    add_panel(verb)
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.py", help="always holds the best so far")
    text = "log of replays: the same command with the same file goes on where it was stopped"
    verb.add_argument("--resume", type=Path, metavar="FILE.jsonl", help=text)
    add_json(verb)


def _tune(options: argparse.Namespace) -> int:
    from sim.fitness import TrainingObjective
    from sim.marks import load_marks
    from sim.registry import load_policy
    from sim.search.replay_log import LoggedObjective, ReplayLog
    from sim.search.tuner import tune
    from workloads.atomic import atomic_write, check_writable
    from workloads.panel import load_panel

    if not (options.passes >= 1 and 0 < options.sigma < math.inf and math.isfinite(options.passes)):
        raise ValueError("--passes must be at least 1, and --sigma above 0")
    policy = load_policy(options.policy)
    if not policy.literals:
        raise ValueError(f"{options.policy}: no numbers to tune; fix: write a constant into the score")
    _check_output(options)
    check_writable(options.output)
    panel = load_panel("train", options.panel)
    objective = TrainingObjective(load_marks(panel))

    def keep(better: Policy, score: float, passes: float) -> None:
        with atomic_write(options.output) as handle:
            handle.write(better.source.encode())
        print(f"{passes:7.2f} passes: {score:+.4f}", file=sys.stderr, flush=True)

    try:
        if options.resume:
            about = {
                "policy": policy.sha256,
                "panel": panel.fingerprint,
                "seed": options.seed,
                "sigma": repr(options.sigma),
            }
            with closing(ReplayLog(options.resume, about)) as log:
                logged = LoggedObjective(objective, log)
                found = tune(policy, logged, options.passes, options.seed, options.sigma, keep=keep)
        else:
            found = tune(policy, objective, options.passes, options.seed, options.sigma, keep=keep)
    except KeyboardInterrupt:
        hint = f"; the same command goes on from {options.resume}" if options.resume else ""
        print(f"\nkvevolve: interrupted; {options.output} holds the best so far, if any{hint}", file=sys.stderr)
        return 130
    _report(options, panel, policy, found)
    return 0


def _report(options: argparse.Namespace, panel: Panel, policy: Policy, found: Tuned) -> None:
    content = {
        "policy": options.policy,
        "output": str(options.output),
        "panel": panel.name,
        "split": panel.split,
        "fingerprint": panel.fingerprint,
        "seed": options.seed,
        "start_score": found.start_score,
        "score": found.score,
        "passes": found.passes,
        "evaluations": found.evaluations,
        "literals": {"start": _values(policy), "tuned": _values(found.policy)},
    }
    head = f"{panel.name} {panel.split} {panel.fingerprint[:12]}, {panel.traffic}"
    spent = f"{found.passes:.1f} passes, {found.evaluations} candidates scored on all {len(panel.cells)} cells"
    text = f"{head}\n{found.start_score:+.4f} -> {found.score:+.4f} ({spent})\n{options.output}"
    print(json.dumps(content, indent=2) if options.json else text)


def _values(policy: Policy) -> list[float]:
    return [literal.value for literal in policy.literals]


def _check_output(options: argparse.Namespace) -> None:
    """Refuse to write over something that is no policy, or over what is tuned."""
    from sim.policy.language import PolicyRejected
    from sim.policy.program import Policy

    if not options.output.is_file():
        return
    try:
        Policy.from_file(options.output)
    except PolicyRejected:
        raise ValueError(f"{options.output} is there and no policy; fix: name another file") from None
    if Path(options.policy).is_file() and options.output.samefile(options.policy):
        raise ValueError(f"{options.output} is the file to be tuned; fix: name another for the result")
