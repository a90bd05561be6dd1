"""The verb `kvevolve tune`: better constants for a policy, found on the training panel.

Knows arguments, files and what is printed; the library does the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_json

if TYPE_CHECKING:
    from sim.policy.program import Policy


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "tune a policy's constants on the training panel: CMA-ES, successive halving over cells"
    verb = verbs.add_parser("tune", help=text, description=text)
    verb.set_defaults(verb=_tune)
    verb.add_argument("policy", help="a shipped policy's name or a file; it runs in this process")
    verb.add_argument("--passes", type=float, default=60, help="budget in passes over the panel (default: 60)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--sigma", type=float, default=0.5, help="first step in powers of e (default: 0.5)")
    verb.add_argument("--traces", dest="panel", default="auto", metavar="PANEL", help="panel: a name or a YAML file")
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.py", help="always holds the best so far")
    text = "log of replays: the same command with the same file goes on where it was stopped"
    verb.add_argument("--resume", type=Path, metavar="FILE.jsonl", help=text)
    add_json(verb)


def _tune(options: argparse.Namespace) -> int:
    from sim.fitness import TrainingObjective
    from sim.marks import load_marks
    from sim.registry import load_policy
    from sim.search.replay_log import Logged, ReplayLog
    from sim.search.tuner import tune
    from workloads.atomic import atomic_write, check_writable
    from workloads.panel import load_panel

    if not (math.isfinite(options.passes) and options.passes >= 1 and 0 < options.sigma < math.inf):
        raise ValueError("--passes must be at least 1 and --sigma positive")
    policy = load_policy(options.policy)
    if not policy.literals:
        raise ValueError(f"{options.policy}: no numbers to tune; fix: write a constant into the score")
    _check_output(options, policy)
    check_writable(options.output)
    objective = TrainingObjective(load_marks(load_panel("train", options.panel)))
    panel = objective.marks.panel
    log = None
    if options.resume:
        digest = hashlib.sha256(policy.source.encode()).hexdigest()
        about = {"policy": digest, "panel": panel.fingerprint, "seed": options.seed, "sigma": repr(options.sigma)}
        log = ReplayLog(options.resume, about)

    class Kept:
        """The objective, its replays logged."""

        def by_cell(self, policy: Policy) -> Any:
            cells = objective.by_cell(policy)
            return Logged(cells, log) if log else cells

    def keep(better: Policy, score: float, passes: float) -> None:
        with atomic_write(options.output) as handle:
            handle.write(better.source.encode())
        print(f"{passes:7.2f} passes: {score:+.4f}", file=sys.stderr, flush=True)

    try:
        found = tune(policy, Kept(), options.passes, options.seed, options.sigma, keep=keep)
    except KeyboardInterrupt:
        if options.output.exists():
            hint = f"; the same command goes on from {options.resume}" if options.resume else ""
            print(f"\nkvevolve: interrupted; the best so far is in {options.output}{hint}", file=sys.stderr)
        return 130
    finally:
        if log:
            log.close()
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
    return 0


def _values(policy: Policy) -> list[float]:
    return [literal.value for literal in policy.literals]


def _check_output(options: argparse.Namespace, policy: Policy) -> None:
    """Refuse to write over something that is no policy, or over what is tuned."""
    from sim.policy.language import PolicyRejected
    from sim.registry import load_policy

    if not options.output.exists():
        return
    try:
        there = load_policy(options.output)
    except PolicyRejected:
        raise ValueError(f"{options.output} is there and no policy; fix: name another file") from None
    if Path(options.policy).is_file() and options.output.samefile(options.policy):
        raise ValueError(f"{options.output} is the file to be tuned ({there.name}); fix: name another for the result")
