"""The verb `kvevolve fidelity`: what modelling choices are worth on a trace; or how near a preset is to an engine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_json, add_replay, add_trace, replay_options

if TYPE_CHECKING:
    from workloads import Trace


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = (
        "measure what each modelling choice is worth, in hits; or compare a preset with an engine's own KV-cache events"
    )
    verb = verbs.add_parser("fidelity", help=text, description=text)
    add_trace(verb)
    verb.add_argument(
        "--capacity",
        nargs="+",
        metavar="BLOCKS",
        help="blocks or shares of the distinct blocks (default: 1000 … 50000); with --events one, the engine's own",
    )
    add_json(verb)
    text = "KV-cache events that vLLM or SGLang published while it served the trace"
    events = verb.add_argument_group("with recorded events")
    events.add_argument("--events", type=Path, metavar="FILE", help=text)
    events.add_argument("--rank", type=int, help="data-parallel rank, if the file has several")
    events.add_argument("--medium", help="where the blocks lie (default: the GPU)")
    events.add_argument("--group", type=int, help="KV-cache group, if the file has several")
    add_replay(events)
    verb.set_defaults(verb=_fidelity)


def _fidelity(options: argparse.Namespace) -> int:
    from sim.fidelity import CAPACITIES, fidelity
    from workloads import load

    trace = load(options.trace)
    if options.events:
        return _events(options, trace)
    unfit = [
        name for name in (*replay_options(options), "rank", "medium", "group") if getattr(options, name) is not None
    ]
    if unfit:
        raise ValueError(f"--{unfit[0].replace('_', '-')} goes with --events FILE; without it every engine is replayed")
    found = fidelity(trace, options.capacity or CAPACITIES, _with_partial_ids(options.trace, trace))
    if options.json:
        print(json.dumps(found.to_dict(), indent=2, sort_keys=True))
    else:
        print(f"{trace!r}\n{found}")
    return 0


def _events(options: argparse.Namespace, trace: Trace) -> int:
    """Compare; the exit code is 2 if anything differs."""
    from sim.engine_events import engine_events
    from sim.event_fidelity import compare
    from sim.simulation import parse_capacity
    from workloads import events

    if len(options.capacity or ()) != 1:
        raise ValueError("--events needs one --capacity: the usable blocks of the engine (vLLM: num_gpu_blocks - 1)")
    streams = events.read_streams(options.events)
    recorded = events.choose(streams, str(options.events), options.rank, options.medium, options.group)
    capacity = parse_capacity(options.capacity[0], trace.n_blocks)
    simulated = engine_events(trace, capacity, **replay_options(options))
    found = compare(recorded, simulated)
    missing = recorded.provenance.get("sequence_gaps")
    if missing:
        print(
            f"{options.events}: messages are missing, the engine cannot be followed there: {missing}", file=sys.stderr
        )
    if options.json:
        print(json.dumps(found.to_dict() | {"sequence_gaps": missing or []}, indent=2, sort_keys=True))
    else:
        print(f"{trace!r}\n{recorded!r}\n{found}")
    return 2 if found.first_difference else 0


def _with_partial_ids(spec: str, trace: Trace) -> Trace | None:
    """Return the trace with its partial tails as blocks, or None if the file does not have their ids."""
    from workloads import TraceError, load

    if trace.provenance.get("format") == "mooncake":
        try:
            return load(f"{spec}{'&' if '?' in spec else '?'}partial_tail=block")
        except TraceError:
            pass  # converted: the ids are gone
    print("rows about ids of partial blocks are left out: only Mooncake files have such ids", file=sys.stderr)
    return None
