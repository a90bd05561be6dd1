"""Settings of the operator and its endpoint: the section `kvevolve.search` of an engine configuration.

Knows names, types and defaults; must not know what they do.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class BadSettings(ValueError):
    """An unknown or impossible setting."""


@dataclass(frozen=True)
class Settings:
    """How children are made.

    Attributes:
        seed: Of every random choice; the engine's `random_seed` unless given.
        max_nodes: Size limit of a child in syntax nodes.
        tune_fraction: Share, 0 to 1, of the requests to kvevolve-gp that are answered by the best program so far with
            tuned constants, unless it was tuned before.
        tune_evaluations: Passes over the reduced panel per tuned answer at most.
        tune_total: The same per run; answers are not tuned once it is spent.
        tune_seconds: Seconds after which a tuned answer starts no further evaluation.
        settle_passes: Passes over the reduced panel that fit the constants of every answer of kvevolve-gp, beside
            `tune_total`; 0 answers with what was drawn.
        objective: Dotted name module:function of what returns the `Objective`.
        screen_children: Children of new behaviour that are screened for each answer of kvevolve-gp; 0 screens none.
        opening: Answers at the beginning of a run that are shipped policies, varied, and draws from the grammar, before
            anything is bred.
        explore: How often, 0 to 1, any of them is the answer instead of the best.
        restart_after: Requests without improvement after which a fresh lineage starts; 0 never starts one.
        taboo_distance: How far, 0 to 1, a fresh lineage keeps from the best behaviours of those before.
        screen: Dotted name module:function of what returns the `Screen`.
    """

    seed: int = 42
    max_nodes: int = 160
    tune_fraction: float = 0.15
    tune_evaluations: int = 48
    tune_total: int = 144
    tune_seconds: float = 60.0
    settle_passes: float = 10.0
    objective: str = "sim.screening:screening_objective"
    screen_children: int = 5
    opening: int = 10
    explore: float = 0.15
    restart_after: int = 20
    taboo_distance: float = 0.05
    screen: str = "sim.screening:training_screen"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            BadSettings: If a value is impossible.
        """
        if not 0 <= self.tune_fraction <= 1:
            raise BadSettings(f"tune_fraction is {self.tune_fraction}; give a share from 0 to 1")
        if self.max_nodes < 10:
            raise BadSettings(f"max_nodes is {self.max_nodes}; give at least 10")
        if min(self.tune_evaluations, self.tune_total, self.tune_seconds, self.settle_passes) < 0:
            raise BadSettings("tune_evaluations, tune_total, tune_seconds and settle_passes cannot be negative")
        if 0 < self.settle_passes < 1:
            raise BadSettings(f"settle_passes is {self.settle_passes}; give 0, or at least 1")
        for name in ("explore", "taboo_distance"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadSettings(f"{name} is {getattr(self, name)}; give a number from 0 to 1")
        for name in ("screen_children", "opening", "restart_after"):
            if getattr(self, name) < 0:
                raise BadSettings(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("objective", "screen"):
            if ":" not in getattr(self, name):
                raise BadSettings(f"{name} is {getattr(self, name)!r}; write module:function")

    @property
    def tunes(self) -> bool:
        """Whether constants are ever tuned."""
        return self.tune_fraction > 0 or (self.settle_passes > 0 and self.screen_children > 0)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], **defaults: Any) -> Settings:
        """Return settings from a configuration section; `defaults` hold where it is silent.

        Raises:
            BadSettings: If a key is unknown or a value has the wrong type.
        """
        types = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        read: dict[str, Any] = dict(defaults)
        for key, value in values.items():
            if key not in types:
                near = difflib.get_close_matches(str(key), types, 1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(types)}"
                raise BadSettings(f"kvevolve.search.{key} is unknown; {hint}")
            wanted = types[key]
            number = isinstance(value, int) and not isinstance(value, bool)
            if not (type(value) is wanted or (wanted is float and number)):
                raise BadSettings(f"kvevolve.search.{key} is {value!r}; give a {wanted.__name__}")
            read[key] = wanted(value)
        return cls(**read)

    def arguments(self) -> list[str]:
        """Return the settings as command-line options."""
        return [
            part for field in dataclasses.fields(self) for part in (_option(field.name), str(getattr(self, field.name)))
        ]

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of `arguments` to a parser."""
        for field in dataclasses.fields(cls):
            default = field.default
            parser.add_argument(_option(field.name), type=type(default), default=default, help=f"default {default}")

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Settings:
        """Return the settings a parser read."""
        return cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)})


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
