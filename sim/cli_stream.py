"""The verb `kvevolve stream`: replay a Parquet trace that does not fit in memory, with progress on stderr."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

BETWEEN_S = 1.0
"""Progress is shown at most this often."""


def add(verbs: Any) -> None:
    """Add the verb to a parser's verbs."""
    text = "replay a Parquet trace in bounded memory (no offline optimum: that needs the whole future)"
    verb = verbs.add_parser("stream", help=text, description=text)
    verb.set_defaults(verb=_stream)
    verb.add_argument("file", help="a file as `kvevolve trace convert TRACE FILE.parquet` writes it")
    verb.add_argument("--policy", default="native", help="the engine's own, a shipped name or a file (default: native)")
    verb.add_argument("--capacity", required=True, help="blocks; a share (5%%) if the file says how many are distinct")
    verb.add_argument("--engine", help="vllm>=0.23 (default) or vllm<=0.22")
    verb.add_argument("--mode", choices=("serial", "overlap"))
    verb.add_argument("--orphans", action="store_true", default=None, help="let parents leave before their children")
    verb.add_argument("--ghost-blocks", type=int, help="blocks remembered beyond the cache")
    verb.add_argument("--prefill-tokens-per-s", type=float)
    verb.add_argument("--decode-s-per-token", type=float)
    verb.add_argument("--max-running", type=int)
    verb.add_argument("--block-tokens", type=int, help="tokens per block, for a file that does not say")
    verb.add_argument("--json", action="store_true", help="print JSON")


def _stream(options: argparse.Namespace) -> int:
    from sim.streaming import stream
    from workloads.parquet import open_parquet

    keys = ("engine", "mode", "orphans", "ghost_blocks", "prefill_tokens_per_s", "decode_s_per_token", "max_running")
    chosen = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    file = open_parquet(options.file.removeprefix("parquet:"), options.block_tokens)
    result = stream(file, options.policy, options.capacity, progress=reporter(time.monotonic), **chosen)
    content = result.to_dict()
    if options.json:
        print(json.dumps(content, indent=2, sort_keys=True))
        return 0
    for name, value in content.items():
        for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
            print(f"{key:<26} {entry:.6g}" if isinstance(entry, float) else f"{key:<26} {entry}")
    return 0


def reporter(clock: Callable[[], float]) -> Callable[[int, int], None]:
    """Return a function that shows progress on stderr, at most once per `BETWEEN_S` and at the end.

    Args:
        clock: Seconds from any origin.
    """
    start = shown = clock()

    def report(done: int, refs: int) -> None:
        nonlocal shown
        now = clock()
        if now - shown < BETWEEN_S and done < refs:
            return
        shown = now
        rate = done / max(now - start, 1e-9)
        left = f"{(refs - done) / rate:.0f} s left" if rate else "no rate yet"
        print(f"{done / 1e6:,.1f} of {refs / 1e6:,.1f} M refs, {rate / 1e6:.1f} M refs/s, {left}", file=sys.stderr)

    return report
