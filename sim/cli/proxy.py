"""The verb `kvevolve proxy`: stand in front of a language model, by hand. Arguments in, text out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "serve an OpenAI-compatible endpoint in front of a model: caps, a record, repair, tuned constants, replay"
    verb = verbs.add_parser("proxy", help=text, description=text)
    verb.set_defaults(verb=_proxy)
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--upstream", metavar="URL", help="endpoint to ask, for example https://api.openai.com/v1")
    source.add_argument("--replay", type=Path, metavar="FILE", help="an llm.jsonl that answers instead, offline")
    source.add_argument(
        "--config", type=Path, metavar="FILE", help="an engine configuration with a kvevolve.llm section"
    )
    verb.add_argument("--port", type=int, default=18572, help="on 127.0.0.1 (default: 18572)")
    verb.add_argument("--run-dir", type=Path, default=Path(), help="where llm.jsonl is, or will be (default: here)")
    verb.add_argument("--cap-usd", type=float, help="most USD llm.jsonl may come to; needs --price")
    verb.add_argument("--cap-tokens", type=int, help="most tokens llm.jsonl may come to")
    text = "USD per million tokens as the vendor lists them; may be repeated"
    verb.add_argument("--price", action="append", default=[], metavar="MODEL=INPUT,OUTPUT", help=text)
    verb.add_argument(
        "--polish", type=int, metavar="N", help="evaluations for the constants of an answer (default: 24)"
    )
    verb.add_argument("--no-repair", action="store_true", help="let answers with a refused program through")


def _proxy(options: argparse.Namespace) -> int:
    from sim.search.llm.server import serve

    if not 0 <= options.port < 2**16:
        raise ValueError(f"--port {options.port}: expected 0, for any that is free, to 65535")
    serve(options.port, _settings(options), options.run_dir)
    return 0


def _settings(options: argparse.Namespace) -> Any:
    from sim.engine_config import read_config
    from sim.search.llm.settings import SECTION, LlmSettings
    from sim.search.settings import BadSettings

    values: dict[str, Any] = {}
    if options.config:
        values = dict((read_config(options.config).get("kvevolve") or {}).get("llm") or {})
        if not values:
            raise BadSettings(f"{options.config} has no section {SECTION}; fix: add it, as in examples/proxy.yaml")
        if values.get("replay"):
            values["replay"] = str(options.config.parent / values["replay"])
    given = {
        "upstream": options.upstream,
        "replay": str(options.replay) if options.replay else None,
        "cap_usd": options.cap_usd,
        "cap_tokens": options.cap_tokens,
        "polish_evaluations": options.polish,
        "repair": False if options.no_repair else None,
    }
    values |= {name: value for name, value in given.items() if value is not None}
    if options.price:
        values["prices"] = dict(_price(text) for text in options.price)
    return LlmSettings.from_mapping(values)


def _price(text: str) -> tuple[str, dict[str, float]]:
    model, _, rates = text.rpartition("=")
    try:
        rate_in, rate_out = (float(rate) for rate in rates.split(","))
    except ValueError:
        raise ValueError(f"--price {text}: write MODEL=INPUT,OUTPUT, for example my-model=1.5,6") from None
    return model, {"input": rate_in, "output": rate_out}
