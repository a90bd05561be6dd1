"""The verb `kvevolve stream`: replay a Parquet trace that does not fit in memory, with progress on stderr."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from sim.cli.arguments import add_json, add_replay, replay_options, shown
from sim.meter import Meter


def add(verbs: Any) -> None:
    """Add the verb to a parser's verbs."""
    text = "replay a Parquet trace in bounded memory (no offline optimum: that needs the whole future)"
    verb = verbs.add_parser("stream", help=text, description=text)
    verb.set_defaults(verb=_stream)
    verb.add_argument("file", help="a file as `kvevolve trace convert TRACE FILE.parquet` writes it")
    verb.add_argument("--policy", default="native", help="the engine's own, a shipped name or a file (default: native)")
    verb.add_argument("--capacity", required=True, help="blocks; a share (5%%) if the file says how many are distinct")
    add_replay(verb, "vllm>=0.23 (default) or vllm<=0.22", decode=False)
    verb.add_argument("--block-tokens", type=int, help="tokens per block, for a file that does not say")
    add_json(verb)


def _stream(options: argparse.Namespace) -> int:
    from sim.streaming import stream
    from workloads.parquet import open_parquet

    file = open_parquet(options.file.removeprefix("parquet:"), options.block_tokens)
    meter, began = Meter(), time.monotonic()

    def progress(done: int, refs: int) -> None:
        rate = max(done, 1) / max(time.monotonic() - began, 1e-9)
        text = f"{done / 1e6:,.1f} of {refs / 1e6:,.1f} M block refs, {rate / 1e6:.1f} M block refs/s"
        meter.tell(f"{text}, {(refs - done) / rate:.0f} s left", done == refs)

    result = stream(file, options.policy, options.capacity, progress=progress, **replay_options(options))
    content = result.to_dict()
    print(json.dumps(content, indent=2, sort_keys=True) if options.json else "\n".join(shown(content)))
    return 0
