"""The directory of one evolution run: what lies where, the resolved config, provenance.

Knows files; must not know policies or scores.
"""

from __future__ import annotations

import json
import os
import platform
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

PACKAGES = ("kvevolve", "openevolve", "numba", "numpy", "cmaes")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class RunDir:
    """Paths of a run."""

    root: Path

    @property
    def config(self) -> Path:
        """The OpenEvolve config as it was used."""
        return self.root / "config.yaml"

    @property
    def log(self) -> Path:
        """What `openevolve-run` printed."""
        return self.root / "openevolve.log"

    @property
    def trace(self) -> Path:
        """OpenEvolve's record of every stored child, with code."""
        return self.root / "evolution_trace.jsonl"

    @property
    def manual_tasks(self) -> Path:
        """Tasks for a person, where `llm.manual_mode` is set."""
        return self.root / "manual_tasks_queue"

    @property
    def best_policy(self) -> Path:
        """The chosen policy, constants tuned."""
        return self.root / "best_policy.py"

    @property
    def report(self) -> Path:
        """Tables and diff as printed."""
        return self.root / "report.txt"

    @property
    def panel(self) -> Path:
        """The panel the run evolves on: name, file, fingerprint."""
        return self.root / "panel.json"

    @property
    def provenance(self) -> Path:
        """Versions, panel, seed, scores."""
        return self.root / "provenance.json"

    def stored_panel(self) -> dict[str, str]:
        """Return the panel the run was started on: "which", "name" and "fingerprint".

        Raises:
            ValueError: If the run does not say.
        """
        try:
            found = json.loads(self.panel.read_bytes())
            return {key: str(found[key]) for key in ("which", "name", "fingerprint")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.panel} does not say which panel the run is on ({error}); fix: name the directory of a run"
            ) from None

    def latest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint of the run, if there is one."""
        found = [path for path in (self.root / "checkpoints").glob("checkpoint_*") if path.name[11:].isdigit()]
        return max(found, key=lambda path: int(path.name[11:]), default=None)

    def children(self) -> list[dict[str, Any]]:
        """Return the stored children in order of completion; a line still being written is left out."""
        try:
            lines = self.trace.read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def programs(self) -> list[tuple[str, dict[str, float]]]:
        """Return (code, metrics) of every recorded program, the engine's best included.

        OpenEvolve 0.4.0 leaves a child out of its trace if its parent was dropped meanwhile, the best one too.
        """
        found = [(child.get("child_code") or "", child.get("child_metrics") or {}) for child in self.children()]
        best = self.root / "best"
        try:
            metrics = json.loads((best / "best_program_info.json").read_text())["metrics"]
            found.append(((best / "best_program.py").read_text(), metrics))
        except (OSError, ValueError, KeyError):
            pass
        return [(code, metrics) for code, metrics in found if code]


def new_run_dir(parent: Path) -> RunDir:
    """Create `parent/<UTC time>` and return it."""
    root = parent / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    root.mkdir(parents=True, exist_ok=False)
    return RunDir(root.resolve())


def resolve_config(source: Path, run: RunDir, iterations: int | None, seed: int | None) -> dict[str, Any]:
    """Write the config of this run and return it.

    The keyless operator and the proxy get a port of their own, so that runs do not share one; the evolution trace goes
    into the run's directory; iterations and seed override the file's; paths no longer depend on where the file is.

    Raises:
        ValueError: If the file is no YAML mapping.
    """
    try:
        config = yaml.safe_load(source.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{source}: not a readable YAML config: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{source}: expected a mapping of OpenEvolve settings")
    llm = config.get("llm") or {}
    own = (config.get("kvevolve") or {}).get("llm")
    if keyless(config) or own is not None:
        port = _free_port()
        for entry in (llm, *(llm.get("models") or ())):
            if entry.get("api_base"):
                entry["api_base"] = _with_port(entry["api_base"], port)
    for section, key in ((config.get("prompt"), "template_dir"), (own, "replay")):
        if isinstance(section, dict) and section.get(key):
            section[key] = str((source.parent / str(section[key])).resolve())
    if iterations is not None:
        config["max_iterations"] = iterations
        config["checkpoint_interval"] = _divisor(iterations, int(config.get("checkpoint_interval", 20)))
    if seed is not None:
        config["random_seed"] = seed
        config.setdefault("database", {})["random_seed"] = seed
    trace = config.setdefault("evolution_trace", {})
    trace.update(enabled=True, include_code=True, format="jsonl", output_path=str(run.trace), buffer_size=1)
    run.config.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120))
    return config


def keyless(config: dict[str, Any]) -> bool:
    """Return whether all models of a config are operators of this package."""
    models = (config.get("llm") or {}).get("models") or []
    return bool(models) and all(str(model.get("name", "")).startswith("kvevolve-") for model in models)


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    os.replace(partial, path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _with_port(api_base: str, port: int) -> str:
    parts = urlsplit(api_base)
    if parts.hostname not in LOOPBACK:
        return api_base
    return parts._replace(netloc=f"{parts.hostname}:{port}").geturl()


def _divisor(iterations: int, wanted: int) -> int:
    """Return the largest divisor of `iterations` up to `wanted`: the engine checkpoints at multiples only."""
    return max(d for d in range(1, max(1, min(wanted, iterations)) + 1) if iterations % d == 0 or d == 1)
