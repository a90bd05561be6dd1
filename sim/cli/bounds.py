"""The verb `kvevolve bounds`: what no policy can beat, per capacity and objective. Arguments in, text out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import Any

from sim.cli.arguments import MODEL, add_json, add_model, add_trace, in_blocks
from sim.value import FLOPS_PER_S, OBJECTIVES


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "bounds on what prefix hits can save, certified"
    verb = verbs.add_parser("bounds", help=text, description=text)
    verb.set_defaults(verb=_bounds)
    add_trace(verb)
    text = "blocks, shares, or memory with --model, separated by commas"
    verb.add_argument("--capacities", default="1%,2%,5%,10%,20%", help=text)
    verb.add_argument("--objective", default="tokens", choices=tuple(OBJECTIVES))
    add_model(verb, f"{MODEL}; also for bytes, and of a named model flops and seconds (default there: llama-3.1-8b)")
    verb.add_argument("--flops-per-s", type=float, default=FLOPS_PER_S, help="rate of prefill, for seconds")
    add_json(verb)


def _bounds(options: argparse.Namespace) -> int:
    from sim.tables import table
    from sim.weighted import weighted_bound
    from workloads import load

    trace = load(options.trace)
    found = []
    model = options.model or "llama-3.1-8b"
    for capacity in options.capacities.split(","):
        started = time.monotonic()
        blocks = in_blocks(capacity.strip(), trace.block_tokens, options.model)
        bound = weighted_bound(trace, blocks, options.objective, model, options.flops_per_s)
        found.append((capacity.strip(), bound, time.monotonic() - started))
    if options.json:
        rows = [{**dataclasses.asdict(bound), "capacity": capacity} for capacity, bound, _ in found]
        print(json.dumps({"trace": trace.name, "unit": OBJECTIVES[options.objective], "bounds": rows}, indent=2))
        return 0
    lines = [
        [
            capacity,
            f"{bound.capacity_blocks:,}",
            f"{bound.upper:.6g}",
            f"{bound.lower:.6g}",
            f"{bound.greedy:.6g}",
            f"{bound.ceiling:.6g}",
            f"{100 * bound.gap:.2f}%",
            f"{took:.1f} s",
        ]
        for capacity, bound, took in found
    ]
    print(f"{trace!r}\n{options.objective}: {OBJECTIVES[options.objective]}")
    head = ["capacity", "blocks", "upper bound", "lower bound", "most hit blocks", "infinite cache", "gap", "time"]
    print(table(head, lines, "lrrrrrrr"))
    return 0
