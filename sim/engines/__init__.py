"""Engines by name: which caches can be simulated, whose rules they follow, and what their parameters are.

A module per engine, imported when the engine is first used. Must not know traces or results.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.options import Options, Replay
    from sim.policy.compiler import Compiled
    from sim.prepared import Prepared

VLLM = ("vllm>=0.23", "vllm<=0.22")

_HOME = {
    VLLM[0]: "sim.engines.vllm",
    VLLM[1]: "sim.engines.vllm",
    "sglang": "sim.engines.sglang",
    "flat": "sim.engines.flat",
    "lmcache": "sim.engines.lmcache",
    "vllm-cpu-tier": "sim.engines.cpu_tier",
    "kvbm": "sim.engines.kvbm",
    "tensorrt-llm": "sim.engines.trtllm",
    "mooncake-store": "sim.engines.mooncake_store",
}


class UnknownParameter(ValueError):
    """An engine has no such parameter."""


@dataclass(frozen=True)
class NoParameters:
    """Parameters of an engine that has none."""


@dataclass(frozen=True)
class Engine:
    """What can be simulated under one name.

    Attributes:
        name: As given to `simulate(engine=...)`.
        source: Engine version whose rules these are.
        measured: Whether hits were compared, request by request, with the engine's own code.
        policies: Names of its own eviction policies; the first is the default.
        parameters: A frozen dataclass of numbers and text with defaults; it refuses bad values with ValueError.
        run: `run(prepared, capacity_blocks, options, policy, parameters)` replays one of `policies`.
        run_user: `run_user(prepared, compiled, capacity_blocks, options, parameters)` replays a user policy, or None
            where the engine could not run one.
        run_zoo: `run_zoo(prepared, capacity_blocks, options, name)` replays a classic policy of `sim.zoo` under the
            engine's accounting, or None where that makes no sense.
    """

    name: str
    source: str
    measured: bool
    policies: tuple[str, ...]
    parameters: type
    run: Callable[[Prepared, int, Options, str, Any], Replay]
    run_user: Callable[[Prepared, Compiled, int, Options, Any], Replay] | None
    run_zoo: Callable[[Prepared, int, Options, str], Replay] | None = None


def names() -> tuple[str, ...]:
    """Return the names of all engines."""
    return tuple(_HOME)


def all_engines() -> tuple[Engine, ...]:
    """Return every engine; imports the kernels of all."""
    return tuple(find(name)[0] for name in _HOME)


def check_name(spec: str) -> str:
    """Return the engine's name in "name" or "name?parameter=value&...".

    Raises:
        ValueError: If there is no such engine.
    """
    name = spec.partition("?")[0]
    if name not in _HOME:
        near = difflib.get_close_matches(name, _HOME, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown engine {name!r}{hint}; choose one of {', '.join(_HOME)}")
    return name


def find(spec: str, extra: Mapping[str, Any] | None = None) -> tuple[Engine, Any]:
    """Return an engine and its parameters.

    Args:
        spec: "name" or "name?parameter=value&...".
        extra: More parameters; they win over those in `spec`.

    Raises:
        UnknownParameter: If the engine has no such parameter.
        ValueError: If there is no such engine, or a value makes no sense.
    """
    name = check_name(spec)
    engine = next(found for found in importlib.import_module(_HOME[name]).ENGINES if found.name == name)
    kinds = {field.name: type(field.default) for field in dataclasses.fields(engine.parameters)}
    given: dict[str, Any] = {}
    for pair in filter(None, spec.partition("?")[2].split("&")):
        key, _, text = pair.partition("=")
        given[key] = _value(key, text, kinds.get(key, str))
    given.update(extra or {})
    unknown = sorted(set(given) - set(kinds))
    if unknown:
        known = ", ".join(kinds) or "none"
        raise UnknownParameter(f"engine {name!r} has no parameter {unknown[0]!r}; it has: {known}")
    return engine, engine.parameters(**given)


def _value(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"engine parameter {key}={text!r}: expected true or false")
        return text.lower() in ("true", "1")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"engine parameter {key}={text!r}: expected {kind.__name__}") from None
