"""`kvevolve sweep`: hit rate against cache size, on the command line.

Knows arguments, files and what is printed; the library does the work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.curves import Sweep
    from sim.sweeper import Progress

EVERY_S = 10.0
"""Between two lines of progress where stderr is no terminal."""


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    text = "replay a trace at many cache sizes: hit rate, optimum and ceiling"
    verb = verbs.add_parser("sweep", help=text, description=text)
    verb.set_defaults(verb=_sweep)
    verb.add_argument("trace", help="short name, file, or format:path?option=value")
    verb.add_argument(
        "--policies",
        default="",
        help="comma-separated: the engine's own, shipped names, files, lru-flat (LRU over independent blocks); the "
        "engine's default and the optimum are always there",
    )
    verb.add_argument("--capacities", default="0.5%..50%", help="range, or comma-separated (default: 0.5%%..50%%)")
    verb.add_argument("--points", type=int, default=12, help="sizes a range becomes (default: 12)")
    verb.add_argument("--warmup", default="0", help="replayed, not counted: requests, 50%% of them, or 50%%time")
    verb.add_argument("--sample", default="100%", help="share of the sessions or prefix families to replay: 10%%")
    verb.add_argument("--seed", type=int, default=0, help="of the sample")
    verb.add_argument("--engine", help="see `kvevolve engines`; name?parameter=value (default: vllm>=0.23)")
    verb.add_argument("--mode", choices=("serial", "overlap"))
    verb.add_argument("--decode", choices=("none", "private", "infer"))
    verb.add_argument("--orphans", action="store_true", default=None, help="let parents leave before their children")
    verb.add_argument("--ghost-blocks", type=int, help="blocks remembered beyond the cache")
    verb.add_argument("--eviction-sample", type=int, help="candidates scored per eviction by user policies (0: all)")
    verb.add_argument("--executor", default="serial", choices=("serial", "process", "ray"), help="results are equal")
    verb.add_argument("--workers", type=int, metavar="N", help="most replays at a time (default: one a core)")
    verb.add_argument("--resume", type=Path, metavar="FILE.json", help="keep points here, and take those kept before")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--csv", type=Path, metavar="FILE", help="write one line per point")
    verb.add_argument("--figure", type=Path, metavar="FILE", help="write a figure (.png, .pdf, .svg); needs [figures]")


def _sweep(options: argparse.Namespace) -> int:
    from sim.sweeper import SweepStopped, sweep
    from workloads import load

    keys = ("engine", "mode", "decode", "orphans", "ghost_blocks", "eviction_sample")
    chosen = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    done = _read(options.resume) if options.resume else None
    trace = load(options.trace)
    try:
        found = sweep(
            trace,
            [name for name in options.policies.split(",") if name],
            options.capacities,
            points=options.points,
            warmup=options.warmup,
            sample=_share(options.sample),
            seed=options.seed,
            executor=options.executor,
            workers=options.workers,
            progress=_Reporter(),
            done=done,
            keep=(lambda sweep: _write(options.resume, _json(sweep))) if options.resume else None,
            **chosen,
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


class _Reporter:
    """Tells stderr how far a sweep is."""

    def __init__(self) -> None:
        self.told_s = time.monotonic()

    def __call__(self, now: Progress) -> None:
        terminal = sys.stderr.isatty()
        if not terminal and time.monotonic() - self.told_s < EVERY_S and now.done < now.total:
            return
        self.told_s = time.monotonic()
        rate = f"{now.refs_per_s / 1e6:.1f} M block refs/s"
        text = f"{now.done}/{now.total} replays, {rate}, {now.eta_s:.0f} s left"
        end = "" if terminal and now.done < now.total else "\n"
        print(f"\r{text:<70}" if terminal else text, end=end, file=sys.stderr, flush=True)


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
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
