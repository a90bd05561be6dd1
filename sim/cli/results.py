"""`kvevolve results`: computes published numbers and figures again.

Knows arguments and parts; the library does the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_executor, add_panel, executor_of

if TYPE_CHECKING:
    from sim.results.contenders import Evolved
    from sim.results.replays import Workers
    from sim.results.report import Report

PARTS = {
    "table": "who hits what",
    "ceiling": "the learnable ceiling",
    "ablation": "which signals matter",
    "admission": "admission against eviction",
    "transfer": "transfer between traces",
    "capacity": "transfer between cache sizes",
    "blocks": "transfer between block sizes",
    "cost": "what it cost",
}
"""In the order of the page."""


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "compute the published numbers and figures again; what was replayed before is kept"
    verb = verbs.add_parser("results", help=text, description=text)
    verb.set_defaults(verb=_results)
    verb.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    verb.add_argument("--policies", type=Path, nargs="+", default=[], metavar="FILE", help="default: the incumbents")
    add_panel(verb)
    text = "split that is reported (default: test); validation is for rehearsals"
    verb.add_argument("--panel", dest="split", default="test", choices=("validation", "test"), help=text)
    verb.add_argument("--runs", type=Path, nargs="+", default=[], metavar="RUN", help="run directories, for cost")
    text = "evaluations to tune each policy with: ablation (default: 0) and transfers (default: 60)"
    verb.add_argument("--passes", type=int, metavar="N", help=text)
    verb.add_argument("--no-latency", action="store_true", help="table without replays in overlap mode")
    verb.add_argument("--no-figures", action="store_true", help="no PNG files; they need the extra [figures]")
    text = "where the files and the page of them all, results.md, go"
    verb.add_argument("--output", type=Path, default=Path("results_output"), help=text)
    add_executor(verb)


def _results(options: argparse.Namespace) -> int:
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r} of the results; choose of {', '.join(PARTS)}")
    if options.passes is not None and options.passes < 0:
        raise ValueError(f"--passes {options.passes}: expected 0 or more")
    from sim.cli.compare import tell_of_looks
    from sim.plotting import check_format
    from sim.policy.program import Policy
    from sim.promotion.looks import begin_by_hand
    from sim.results import page
    from sim.results.contenders import evolved
    from sim.results.replays import Workers
    from workloads.atomic import check_writable
    from workloads.panel import load_panel
    from workloads.panel_file import find as panel_of

    parts = list(dict.fromkeys(options.parts)) or list(PARTS)
    check_writable(options.output / page.NAME)
    if not options.no_figures:
        check_format(Path("results.png"))
    workers = Workers(executor_of(options), options.workers)
    policies = [] if parts == ["cost"] else evolved(options.policies)
    if options.split == "test" and policies:
        own = [Policy.from_source(policy.source, policy.name) for policy in policies]
        tell_of_looks(begin_by_hand(own, load_panel("test", options.panel, purpose="report")))
    subject = page.subject(options.split, panel_of(options.panel).name, [(p.name, p.sha256) for p in policies])
    for part in parts:
        report = _part(part, options)(policies, workers)
        for path in report.write(options.output, not options.no_figures, subject if part != "cost" else ""):
            print(path, flush=True)
        print(page.write(options.output, PARTS), flush=True)
    return 0


def _part(part: str, options: argparse.Namespace) -> Callable[[list[Evolved], Workers], Report]:
    """Return a part as a function of policies and workers."""
    from sim.results import ablation, admission, blocks, cost, table, transfer

    panel, split = options.panel, options.split
    ablated, tuned = (default if options.passes is None else options.passes for default in (0, 60))

    def ceiling(policies: list[Evolved], workers: Workers) -> Report:
        from sim.results.ceiling.ceiling import report

        return report(panel, policies, workers, split)

    parts: dict[str, Callable[[list[Evolved], Workers], Report]] = {
        "table": lambda p, w: table.report(panel, split, p, w, not options.no_latency),
        "ablation": lambda p, w: ablation.report(panel, p, ablated, w),
        "admission": lambda p, w: admission.report(panel, split, p, w),
        "transfer": lambda p, w: transfer.traces(panel, split, p, tuned, w),
        "capacity": lambda p, w: transfer.capacities(panel, p, tuned, w),
        "blocks": lambda p, w: blocks.report(panel, split, p, w),
        "ceiling": ceiling,
        "cost": lambda p, w: cost.report(options.runs),
    }
    return parts[part]
