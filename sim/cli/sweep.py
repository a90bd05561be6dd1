"""`kvevolve sweep`: hit rate against cache size, on the command line.

Knows arguments, files and what is printed; the library does the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import (
    add_executor,
    add_json,
    add_model,
    add_replay,
    add_trace,
    executor_of,
    in_blocks,
    replay_options,
    share,
)
from sim.meter import Meter

if TYPE_CHECKING:
    from sim.curves import Sweep
    from sim.sweeper import Progress


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "replay a trace at many cache sizes: hit rate, optimum and ceiling"
    verb = verbs.add_parser("sweep", help=text, description=text)
    verb.set_defaults(verb=_sweep)
    add_trace(verb)
    verb.add_argument(
        "--policies",
        default="",
        help="comma-separated: the engine's own, shipped names, zoo:NAME, files, lru-flat (LRU over independent "
        "blocks); the engine's default and the optimum are always there",
    )
    text = "range, or comma-separated; memory with --model: 10GiB..160GiB (default: 0.5%%..50%%)"
    verb.add_argument("--capacities", default="0.5%..50%", help=text)
    add_model(verb)
    verb.add_argument("--points", type=int, default=12, help="sizes a range becomes (default: 12)")
    verb.add_argument("--warmup", default="0", help="replayed, not counted: requests, 50%% of them, or 50%%time")
    verb.add_argument("--sample", default="100%", help="share of the sessions or prefix families to replay: 10%%")
    verb.add_argument("--seed", type=int, default=0, help="of the sample")
    add_replay(verb)
    add_executor(verb)
    verb.add_argument("--resume", type=Path, metavar="FILE.json", help="keep points here, and take those kept before")
    add_json(verb)
    verb.add_argument("--csv", type=Path, metavar="FILE", help="write one line per point")
    verb.add_argument("--figure", type=Path, metavar="FILE", help="write a figure (.png, .pdf, .svg); needs [figures]")


def _sweep(options: argparse.Namespace) -> int:
    from sim.plotting import check_format
    from sim.sweeper import SweepStopped, sweep
    from workloads import load
    from workloads.atomic import check_writable

    for path in filter(None, (options.resume, options.csv, options.figure)):
        check_writable(path)
    if options.figure:
        check_format(options.figure)
    done = _read(options.resume) if options.resume else None
    trace = load(options.trace)
    try:
        found = sweep(
            trace,
            [name for name in options.policies.split(",") if name],
            in_blocks(options.capacities, trace.block_tokens, options.model),
            points=options.points,
            warmup=options.warmup,
            sample=_share(options.sample),
            seed=options.seed,
            executor=executor_of(options),
            workers=options.workers,
            progress=_reporter(),
            done=done,
            keep=(lambda sweep: _write(options.resume, _json(sweep))) if options.resume else None,
            **replay_options(options),
        )
        code = 0
    except SweepStopped as stopped:
        found, code = stopped.sweep, 130
        kept = f"the same command goes on from {options.resume}" if options.resume else "--resume FILE.json keeps them"
        print(f"\nkvevolve: interrupted with {len(found.points)} points done; {kept}", file=sys.stderr)
    print(_json(found) if options.json else found)
    if options.csv:
        _write(options.csv, found.csv())
    if options.figure:
        from sim.figure import draw

        draw(found, options.figure)
    return code


def _reporter() -> Callable[[Progress], None]:
    meter = Meter()

    def report(now: Progress) -> None:
        rate = f"{now.refs_per_s / 1e6:.1f} M block refs/s"
        meter.tell(f"{now.done}/{now.total} replays, {rate}, {now.eta_s:.0f} s left", now.done == now.total)

    return report


def _share(text: str) -> float:
    try:
        return share(text)
    except ValueError:
        raise ValueError(f"--sample {text!r}: give a share, for example 10% or 0.1") from None


def _json(sweep: Sweep) -> str:
    return json.dumps(sweep.to_dict(), indent=1)


def _read(path: Path) -> Sweep | None:
    from sim.curves import Sweep

    if not path.exists():
        return None
    try:
        return Sweep.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; fix: give a file written by --resume, or a new name") from None


def _write(path: Path, text: str) -> None:
    from workloads.atomic import atomic_write

    with atomic_write(path) as handle:
        handle.write(text.rstrip("\n").encode() + b"\n")
