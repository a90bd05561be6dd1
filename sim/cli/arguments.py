"""Arguments that several verbs of the command line take, under one name and with one help text.

Knows `argparse` and the names of the library's options; must not know any verb.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

_REPLAY = (
    "engine",
    "mode",
    "decode",
    "orphans",
    "ghost_blocks",
    "eviction_sample",
    "prefill_tokens_per_s",
    "decode_s_per_token",
    "max_running",
)

POLICY = "the engine's own, a shipped name, zoo:NAME or a file (default: native)"
ENGINE = "see `kvevolve engines`; name?parameter=value (default: vllm>=0.23)"


def add_trace(verb: Any) -> None:
    """Add the trace."""
    verb.add_argument("trace", help="short name, file, or format:path?option=value")


MODEL = "for capacities in memory: a model's name, its config.json (?cache_dtype=fp8&tensor_parallel=8), or KV bytes "
MODEL += "per token"


def share(text: str) -> float:
    """Return a share written 10% or 0.1.

    Raises:
        ValueError: If it is no number.
    """
    number = text.strip()
    return float(number.removesuffix("%")) / (100.0 if number.endswith("%") else 1.0)


def add_capacity(verb: Any) -> None:
    """Add one cache size."""
    text = "blocks, a share of the distinct blocks, or memory: 40GiB with --model (default: 5%%)"
    verb.add_argument("--capacity", default="5%", help=text)


def add_model(verb: Any, text: str = MODEL) -> None:
    """Add the model that says how many blocks fit into memory."""
    verb.add_argument("--model", help=text)


def in_blocks(capacities: str, block_tokens: int, model: str | None) -> str:
    """Return capacities with sizes of memory turned into blocks, telling on stderr how.

    Raises:
        ValueError: If there are such sizes and no model, or the model is not understood.
    """
    from sim.capacities import without_memory
    from workloads.kv_bytes import describe

    found = without_memory(capacities, block_tokens, model)
    if found != capacities:
        print(f"{describe(str(model))}: {capacities} is {found} blocks of {block_tokens} tokens", file=sys.stderr)
    return found


def add_json(verb: Any) -> None:
    """Add the choice of JSON."""
    verb.add_argument("--json", action="store_true", help="print JSON")


def add_replay(verb: Any, engine: str = ENGINE, decode: bool = True) -> None:
    """Add the options of a replay.

    Args:
        verb: Parser of a verb.
        engine: Help text.
        decode: Whether generated blocks can be modelled.
    """
    verb.add_argument("--engine", help=engine)
    verb.add_argument("--mode", choices=("serial", "overlap"), help="one request at a time (default), or a server")
    if decode:
        verb.add_argument("--decode", choices=("none", "private", "infer"), help="generated blocks (default: none)")
    verb.add_argument("--orphans", action="store_true", default=None, help="let parents leave before their children")
    verb.add_argument("--ghost-blocks", type=int, metavar="N", help="blocks remembered beyond the cache")
    text = "candidates that user policies score per eviction (default: 0, all)"
    verb.add_argument("--eviction-sample", type=int, metavar="N", help=text)
    verb.add_argument("--prefill-tokens-per-s", type=float, metavar="RATE", help="of the server")
    verb.add_argument("--decode-s-per-token", type=float, metavar="SECONDS", help="of the server")
    verb.add_argument("--max-running", type=int, metavar="N", help="most requests at a time, --mode overlap")


def replay_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a replay that were given, as the library names them."""
    return {name: value for name in _REPLAY if (value := getattr(options, name, None)) is not None}


def add_panel(verb: Any) -> None:
    """Add the panel."""
    text = "auto (real traces if they are at hand), a name of `kvevolve panel --list`, or a YAML file of your own"
    verb.add_argument("--traces", dest="panel", default="auto", metavar="PANEL", help=f"panel: {text}")


def add_split(verb: Any, default: str, splits: Sequence[str]) -> None:
    """Add the panel and its split."""
    verb.add_argument("--panel", dest="split", default=default, choices=splits, help="split of the panel")
    add_panel(verb)


def add_executor(verb: Any) -> None:
    """Add where jobs run."""
    text = "where jobs run; results are equal (default: serial, with --workers process)"
    verb.add_argument("--executor", choices=("serial", "process", "ray"), help=text)
    verb.add_argument("--workers", type=int, metavar="N", help="most jobs at a time (default: one a core)")


def executor_of(options: argparse.Namespace) -> str:
    """Return where jobs run.

    Raises:
        ValueError: If the number of workers is none.
    """
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers {options.workers}: expected at least 1")
    chosen: str | None = options.executor
    return chosen or ("serial" if options.workers is None else "process")


def shown(content: dict[str, Any]) -> list[str]:
    """Return a line per number or text of a result."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= value if isinstance(value, dict) else {name: value}
    texts = (
        (name, f"{value:.6g}" if isinstance(value, float) else value)
        for name, value in flat.items()
        if value is not None
    )
    return [f"{name:<26} {text}" for name, text in texts]
