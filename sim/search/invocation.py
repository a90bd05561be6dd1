"""What the `openevolve-run` command of this process asks for: its configuration, its models, its output folder.

Knows the public command line and configuration file of OpenEvolve 0.4.0; must not know the endpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.engine_config import read_config

DEFAULT_BASE = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Invocation:
    """One run of the engine.

    Attributes:
        config: Content of the configuration file; empty without one.
        output: Folder of the run's outputs.
        folder: Folder of the configuration file, or None.
        primary_model: Command-line option, or None.
        secondary_model: Command-line option, or None.
        api_base: Command-line option, or None.
        resumed: Whether it goes on from a checkpoint.
    """

    config: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None
    folder: Path | None = None
    primary_model: str | None = None
    secondary_model: str | None = None
    api_base: str | None = None
    resumed: bool = False

    def models(self) -> list[tuple[str, str]]:
        """Return name and base URL of every model the engine will call."""
        llm = self.config.get("llm") or {}
        base = str(self.api_base or llm.get("api_base") or DEFAULT_BASE)
        if self.primary_model or self.secondary_model:
            names = [self.primary_model or llm.get("primary_model"), self.secondary_model or llm.get("secondary_model")]
            return [(str(name), base) for name in names if name]
        base = str(llm.get("api_base") or DEFAULT_BASE)  # the engine has handed it to the models before --api-base
        named = [{"name": llm[key]} for key in ("primary_model", "secondary_model") if llm.get(key)]
        listed = [*(llm.get("models") or []), *(llm.get("evaluator_models") or []), *named]
        return [(str(model.get("name")), str(model.get("api_base") or base)) for model in listed]


def from_file(path: str | Path) -> Invocation:
    """Return a run with nothing but a configuration file; raises as `read_config` does."""
    return Invocation(read_config(path), folder=Path(path).parent)


def current(argv: Sequence[str] | None = None) -> Invocation | None:
    """Return the run this process is, or None if it is not `openevolve-run`."""
    argv = sys.argv if argv is None else argv
    program = Path(argv[0]) if argv else Path()
    if not (program.stem.startswith("openevolve-run") or (program.stem, program.parent.name) == ("cli", "openevolve")):
        return None
    options, _ = _parser().parse_known_args(list(argv[1:]))
    beside = Path(os.path.dirname(options.initial_program or "")) / "openevolve_output"
    exists = options.config and os.path.exists(options.config)
    return Invocation(
        config=read_config(options.config) if exists else {},
        output=Path(options.output) if options.output else beside,
        folder=Path(options.config).parent if exists else None,
        primary_model=options.primary_model,
        secondary_model=options.secondary_model,
        api_base=options.api_base,
        resumed=options.checkpoint is not None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("initial_program", nargs="?")
    parser.add_argument("evaluation_file", nargs="?")
    for name, short in (("config", "-c"), ("output", "-o"), ("iterations", "-i"), ("target-score", "-t")):
        parser.add_argument(f"--{name}", short)
    parser.add_argument("--log-level", "-l")
    for name in ("checkpoint", "api-base", "primary-model", "secondary-model"):
        parser.add_argument(f"--{name}")
    return parser
