"""What is compared: an arm is an engine configuration, or the tuning of one policy file.

Knows configurations and names; must not know how a run is done or scored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.engine_config import read_config
from sim.registry import policies
from sim.search.service import MODELS

LINEAR = "log_linear"
"""Shipped policy that the arm `cma-linear` tunes."""

KEYLESS = {"random": "kvevolve-random", "plain": "kvevolve-plain", "full": None}
"""Arms on the keyless configuration, and the model they put into it; None leaves it as it is."""

_STOPS_EARLY = "early_stopping_patience"
"""The engine's setting that would end runs of an arm at different evaluations."""


@dataclass(frozen=True)
class Arm:
    """One way to search.

    Attributes:
        name: Shown, and the folder of its runs.
        config: Engine configuration to start from; None for one that tunes.
        model: Of the keyless operator, in the place of the configuration's.
        policy: File whose constants are tuned; None for one that evolves.
        iterations: Of this arm alone; None for those of all.
    """

    name: str
    config: Path | None = None
    model: str | None = None
    policy: Path | None = None
    iterations: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return the engine configuration of the arm: without what would end its runs early, its paths absolute.

        Raises:
            ValueError: If the file is no configuration.
        """
        assert self.config is not None
        config = read_config(self.config)
        config.pop(_STOPS_EARLY, None)
        if self.model:
            config["llm"] = {**(config.get("llm") or {}), "models": [{"name": self.model, "weight": 1.0}]}
        own = (config.get("kvevolve") or {}).get("llm") or {}
        for section, key in ((config.get("prompt") or {}, "template_dir"), (own, "replay")):
            if section.get(key):
                section[key] = str((self.config.parent / str(section[key])).resolve())
        return config

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what defines the arm: results of another definition are not its own."""
        content = repr(self.settings()) if self.config else self.policy.read_text()  # type: ignore[union-attr]
        return hashlib.sha256(content.encode()).hexdigest()


def arms(specification: str, keyless: Path) -> list[Arm]:
    """Return the arms of a comma-separated list, in order.

    Args:
        specification: Of `random`, `plain`, `full`, `cma-linear`, `cma:POLICY` and `CONFIG.yaml`; each may be named,
            `NAME=…`, and have iterations of its own, `…@N`.
        keyless: Configuration of the first three.

    Raises:
        ValueError: If an arm is unknown or there twice; names the arm and the fix.
    """
    found = [_arm(part.strip(), keyless) for part in specification.split(",") if part.strip()]
    names = [arm.name for arm in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"arm {twice[0]} is there twice; fix: write NAME={twice[0]}… for one of them")
    if not found:
        raise ValueError(f"no arms; fix: name some of {', '.join([*KEYLESS, 'cma-linear'])}, or configurations")
    return found


def _arm(text: str, keyless: Path) -> Arm:
    label, _, rest = text.rpartition("=")
    value, at, count = rest.rpartition("@")
    value = value if at else rest
    if at and not (count.isdecimal() and int(count)):
        raise ValueError(f"arm {text!r}: {count!r} is no number of iterations; fix: for example {value}@200")
    if value in KEYLESS:
        model = KEYLESS[value]
        if model and model not in MODELS:
            raise ValueError(
                f"arm {value}: the operator of this version has no model {model}, only {', '.join(MODELS)}; "
                "fix: leave the arm out"
            )
        arm = Arm(label or value, keyless, model)
    elif value == "cma-linear" or value.startswith("cma:"):
        name = LINEAR if value == "cma-linear" else value.removeprefix("cma:")
        arm = Arm(label or ("cma-linear" if value == "cma-linear" else f"cma-{Path(name).stem}"), policy=_policy(name))
    elif value.endswith((".yaml", ".yml")):
        arm = Arm(label or Path(value).stem, Path(value))
    else:
        known = ", ".join([*KEYLESS, "cma-linear", "cma:POLICY", "[NAME=]CONFIG.yaml"])
        raise ValueError(f"unknown arm {text!r}; fix: one of {known}")
    if not arm.name or arm.name != arm.name.strip(".") or set(arm.name) & set("/\\\0 "):
        raise ValueError(f"arm {text!r}: its name becomes a folder; fix: NAME without spaces, slashes and outer dots")
    if arm.config is not None:
        arm.settings()
    return replace(arm, iterations=int(count) if at else None)


def _policy(name: str) -> Path:
    path = policies().get(name, Path(name))
    if not path.is_file():
        raise ValueError(f"arm cma:{name}: no such policy; fix: a shipped name (kvevolve policies) or a file")
    return path
