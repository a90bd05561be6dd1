"""Workload specifications: mixtures of generated traffic in YAML.

A specification names families or presets of :mod:`workloads.synthetic`, their parameters and weights, an arrival
process and phases; :func:`generate` makes the trace. In a mixture, ``tenant`` numbers run on from source to source, so
that a tenant tells its source (``provenance["sources"]`` has the ranges); ``request_type`` and ``priority`` are the
family's own. The trace's provenance holds the whole specification.

Knows where specifications lie; must not know how traffic is made. ``workloads.load("spec:FILE?seed=1")`` makes the
trace of a file (:mod:`workloads.readers.spec`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from workloads import yaml_document
from workloads.errors import TraceError, unknown_name
from workloads.spec.check import checked, family_parameters
from workloads.spec.generation import generate as _generate
from workloads.spec.schema import FORMAT, VERSION, Fields
from workloads.trace import Trace

__all__ = [
    "FORMAT",
    "VERSION",
    "WorkloadSpec",
    "family_parameters",
    "find_spec",
    "generate",
    "load_spec",
    "parse_spec",
    "shipped",
    "shipped_spec",
]

_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class WorkloadSpec:
    """A valid specification.

    Attributes:
        fields: What it says; see :class:`workloads.spec.schema.Fields`.
    """

    fields: Fields

    @property
    def name(self) -> str:
        """The workload's name."""
        return self.fields.name

    def to_yaml(self) -> str:
        """Return it as YAML, which :func:`parse_spec` reads as an equal specification."""
        return yaml_document.write(self.fields.plain())

    @classmethod
    def from_plain(cls, plain: dict[str, Any], name: str = "specification") -> WorkloadSpec:
        """Check plain values.

        Args:
            plain: The fields, as they would stand in a file.
            name: What to call it in messages.

        Raises:
            TraceError: listing all that is wrong.
        """
        return cls(checked(yaml_document.Document(name, plain)))


def parse_spec(text: str | bytes, name: str = "specification") -> WorkloadSpec:
    """Read a specification from YAML.

    Args:
        text: The YAML.
        name: The file, for messages.

    Raises:
        TraceError: listing everything wrong with it, each with line, field, expected, got and fix.
    """
    return WorkloadSpec(checked(yaml_document.read(text, name, _MAX_BYTES)))


def load_spec(path: str | os.PathLike[str]) -> WorkloadSpec:
    """Read a specification from a file; errors as :func:`parse_spec`."""
    try:
        with open(path, "rb") as handle:
            text = handle.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error} - fix: check the path") from None
    return parse_spec(text, str(path))


def find_spec(name: str) -> WorkloadSpec:
    """Return the specification in a file, or a shipped one by its name.

    Raises:
        TraceError: there is none, or as :func:`parse_spec`.
    """
    path = Path(name)
    return load_spec(path) if path.suffix or path.exists() else shipped_spec(name)


def generate(
    spec: WorkloadSpec, seed: int | None = None, requests: int | None = None, block_tokens: int | None = None
) -> Trace:
    """Make the trace of a specification.

    Args:
        spec: The specification.
        seed: Seed instead of the specification's, >= 0.
        requests: Requests instead of the specification's, >= 1.
        block_tokens: Tokens per block instead of the specification's, >= 1.

    Returns:
        The trace, the same for the same specification and arguments, byte for byte.

    Raises:
        TraceError: an argument out of range, or whatever a family refuses.
    """
    given = {"seed": seed, "requests": requests, "block_tokens": block_tokens}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return _generate(spec.fields)
    return _generate(WorkloadSpec.from_plain(spec.fields.plain() | changes, spec.name).fields)


def shipped() -> list[str]:
    """Return the names of the specifications that come with kvevolve."""
    folder = files("workloads") / "specs"
    found = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def shipped_spec(name: str) -> WorkloadSpec:
    """Return a specification that comes with kvevolve.

    Raises:
        TraceError: unknown name, with a suggestion.
    """
    if name not in shipped():
        raise unknown_name("shipped specification", name, shipped())
    file = files("workloads") / "specs" / f"{name}.yaml"
    return parse_spec(file.read_bytes(), file.name)
