"""The verb `kvevolve ablate`: ways to search, compared over seeds. Arguments in, text out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sim.cli.arguments import add_json, add_panel

ROOT = Path(__file__).resolve().parent.parent.parent


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "compare ways to search over seeds, at equal evaluations and equal cost; same command to go on"
    verb = verbs.add_parser("ablate", help=text, description=text)
    verb.set_defaults(verb=_ablate)
    verb.add_argument(
        "--arms",
        default="random,plain,full,cma-linear",
        help="comma-separated: random, plain (genetic programming), full (the keyless configuration), cma-linear, "
        "cma:POLICY (its constants tuned), [NAME=]CONFIG.yaml (a model, or its recording); NAME=ARM renames, ARM@N "
        "sets its iterations; the others are compared with the first (default: %(default)s)",
    )
    verb.add_argument("--seeds", default="1..5", help="1..5 or 1,2,7 (default: 1..5)")
    verb.add_argument("--iterations", type=int, default=60, help="per run; passes of a cma arm (default: 60)")
    verb.add_argument("--program", type=Path, default=ROOT / "initial_program.py", help="seed policy")
    verb.add_argument("--evaluator", type=Path, default=ROOT / "evaluator.py")
    text = "configuration of random, plain and full"
    verb.add_argument("--config", type=Path, default=ROOT / "config.yaml", help=text)
    add_panel(verb)
    verb.add_argument("--output", type=Path, required=True, metavar="DIR", help="runs, tables and figure; kept between")
    verb.add_argument("--figure", type=Path, metavar="FILE", help="also draw the curves (.png, .pdf, .svg); [figures]")
    add_json(verb)


def _ablate(options: argparse.Namespace) -> int:
    from sim.ablation.arms import arms
    from sim.ablation.figure import draw
    from sim.ablation.runs import Interrupted, Plan
    from sim.ablation.study import ablate
    from sim.marks import load_marks
    from sim.plotting import check_format
    from workloads import panel_file
    from workloads.atomic import check_writable
    from workloads.panel import load_panel

    if options.iterations < 1:
        raise ValueError(f"--iterations {options.iterations}; give at least 1")
    seeds = _seeds(options.seeds)
    for path in (options.program, options.evaluator, options.config):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; run inside a kvevolve checkout or name the file")
    chosen = arms(options.arms, options.config)
    if options.figure:
        check_format(options.figure)
        check_writable(options.figure)
    file = panel_file.find(options.panel)
    file.traces("validation")  # refuses a panel without, before the work
    marks = load_marks(load_panel("train", file.which))
    plan = Plan(options.program, options.evaluator, file.which, marks, options.iterations)
    try:
        found = ablate(plan, chosen, seeds, options.output, _say)
    except (KeyboardInterrupt, Interrupted):
        _say(f"kvevolve: interrupted; finished runs are in {options.output}, the same command goes on")
        return 130
    if options.figure:
        draw(found.runs, options.figure, f"{marks.panel.name}, {marks.panel.traffic}, {len(seeds)} seeds")
    print(json.dumps(found.content, indent=2, sort_keys=True) if options.json else found.text)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _seeds(text: str) -> list[int]:
    low, dots, high = text.partition("..")
    try:
        seeds = list(range(int(low), int(high) + 1)) if dots else [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds {text!r}; write 1..5 or 1,2,7") from None
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or len(seeds) > 1000:
        raise ValueError(f"--seeds {text!r}: 1 to 1,000 distinct numbers from 0 are needed")
    return seeds
