"""The directory of one evolution run: what lies where, the resolved config, provenance.

Knows files; must not know policies or scores.
"""

from __future__ import annotations

import json
import platform
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from sim import jsonlines
from sim.engine_config import read_config
from workloads.atomic import atomic_write

PACKAGES = ("kvevolve", "openevolve", "numba", "numpy", "cmaes")
_AT_ONCE = 100
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
    def seed_policy(self) -> Path:
        """The policy the run began with."""
        return self.root / "seed_policy.py"

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
    def own_panel(self) -> Path:
        """The panel of a run on traces of the user's own."""
        return self.root / "panel.yaml"

    @property
    def databases(self) -> Path:
        """Every program the engine stored, whole, a folder for each time it was started."""
        return self.root / "database"

    @property
    def rebuilt(self) -> Path:
        """The checkpoint a run goes on from, see `sim.population`."""
        return self.root / "rebuilt"

    @property
    def verdict(self) -> Path:
        """What the promotion gate found, if it was asked."""
        return self.root / "verdict.json"

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
            stored = {key: str(found[key]) for key in ("which", "name", "fingerprint")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.panel} does not say which panel the run is on ({error}); fix: name the directory of a run"
            ) from None
        return stored | ({"which": str(self.own_panel)} if self.own_panel.is_file() else {})

    def new_database(self) -> Path:
        """Return a folder for the programs of the next start of the engine; it does not exist yet."""
        known = [int(path.name) for path in self.databases.glob("*") if path.name.isdigit()]
        return self.databases / str(max(known, default=0) + 1)

    def stored(self) -> list[dict[str, Any]]:
        """Return the programs the engine stored, migrants too, oldest first; one half written is left out."""
        found = []
        for path in self.databases.glob("*/programs/*.json"):
            try:
                program = json.loads(path.read_bytes())
                float(program["timestamp"]), str(program["code"]), dict(program["metrics"])
                int(program["metadata"]["island"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found.append(program)
        return sorted(found, key=lambda program: (program["timestamp"], program["id"]))

    def children(self) -> list[dict[str, Any]]:
        """Return the traced children in order of completion; a line still being written is left out.

        OpenEvolve 0.4.0 leaves a child out of its trace if its parent was dropped meanwhile; `stored` has it.
        """
        return jsonlines.read(self.trace)

    def has_child(self) -> bool:
        """Return whether the engine stored or traced any program beside the seed."""
        return any(program.get("parent_id") for program in self.stored()) or bool(self.children())

    def programs(self) -> list[tuple[str, dict[str, float]]]:
        """Return (code, metrics) of every program the engine stored, oldest first."""
        return [(program["code"], program["metrics"]) for program in self.stored()]


def new_run_dir(parent: Path) -> RunDir:
    """Create `parent/<UTC time>`, with a number behind it if that is taken, and return it."""
    name = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for place in (parent / name, *(parent / f"{name}-{number}" for number in range(2, _AT_ONCE))):
        with suppress(FileExistsError):  # another run began in this second
            place.mkdir(parents=True)
            return RunDir(place.resolve())
    raise ValueError(f"{parent}: more than {_AT_ONCE} runs began at once; fix: another --output")


def resolve_config(source: Path, run: RunDir, iterations: int | None, seed: int | None) -> dict[str, Any]:
    """Write the config of this run and return it.

    The keyless operator and the proxy get a port of their own, so that runs do not share one; the evolution trace and
    every stored program go into the run's directory; iterations and seed override the file's; paths no longer depend on
    where the file is.

    Raises:
        ValueError: If the file is no configuration.
    """
    config = read_config(source)
    if iterations is not None:
        config["max_iterations"] = iterations
    if seed is not None and seed < 0:
        raise ValueError(f"seed {seed}; fix: a whole number from 0")
    _check_counts(config, source)
    if iterations is not None:
        config["checkpoint_interval"] = _divisor(iterations, config.get("checkpoint_interval", 20))
    if seed is not None:
        config["random_seed"] = seed
        config["database"] = {**(config.get("database") or {}), "random_seed": seed}
    return _placed(config, run, source.parent)


def renew_config(run: RunDir, iterations: int | None = None, seed: int | None = None) -> dict[str, Any]:
    """Write the config of a run that goes on, with places of its own, and return it.

    Raises:
        ValueError: If the file is no configuration, or iterations or seed are given and not those of the run.
    """
    config = read_config(run.config)
    _check_counts(config, run.config)
    for name, asked in (("max_iterations", iterations), ("random_seed", seed)):
        if asked not in (None, config.get(name)):
            raise ValueError(
                f"{run.root} was begun with {name}: {config.get(name)}, not {asked}; fix: change it in {run.config}"
            )
    return _placed(config, run, run.root)


def _check_counts(config: dict[str, Any], source: Path) -> None:
    for name, value in (
        ("max_iterations", config.get("max_iterations")),
        ("checkpoint_interval", config.get("checkpoint_interval", 20)),
    ):
        if type(value) is not int or value < 1:
            option = " or as --iterations" * (name == "max_iterations")
            raise ValueError(f"{source}: field '{name}': {value!r}; fix: a whole number from 1, there{option}")


def _placed(config: dict[str, Any], run: RunDir, folder: Path) -> dict[str, Any]:
    """Write a config in which a free port is the operator's, records go to the run's directory, and paths are whole.

    Those of the config are relative to `folder`.
    """
    llm = config.get("llm") or {}
    own = (config.get("kvevolve") or {}).get("llm")
    if keyless(config) or own is not None:
        port = _free_port()
        for entry in (llm, *(llm.get("models") or ())):
            if entry.get("api_base"):
                entry["api_base"] = _with_port(entry["api_base"], port)
    for section, key in ((config.get("prompt"), "template_dir"), (own, "replay")):
        if isinstance(section, dict) and section.get(key):
            section[key] = str((folder / str(section[key])).resolve())
    trace = config["evolution_trace"] = config.get("evolution_trace") or {}
    trace.update(enabled=True, include_code=True, format="jsonl", output_path=str(run.trace), buffer_size=1)
    config["database"] = {**(config.get("database") or {}), "db_path": str(run.new_database())}
    with atomic_write(run.config) as file:
        file.write(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120).encode())
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
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader, and who comes after a kill, never sees half of it."""
    with atomic_write(path) as file:
        file.write(text.encode())


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
