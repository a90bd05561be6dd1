"""Fitted tables as a workload specification in YAML, and back.

Knows the layout of a specification with one fitted source. Must not know mixtures: those are the business of the
general reader of specifications.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from workloads.atomic import atomic_write
from workloads.errors import TraceError, unknown_name
from workloads.fitted import fitted
from workloads.trace import Trace

FORMAT, VERSION = "kvevolve-workload", 1
MOST_BYTES = 16 << 20
FAMILY = "fitted"


@dataclass(frozen=True)
class Specification:
    """A workload with one fitted source.

    Attributes:
        name: Its name.
        requests: Requests it makes.
        block_tokens: Tokens per block.
        tables: What :func:`workloads.fitted.fit` found.
    """

    name: str
    requests: int
    block_tokens: int
    tables: Mapping[str, Any]

    def trace(self, seed: int) -> Trace:
        """Return the trace of a seed."""
        made = fitted(seed, self.requests, self.block_tokens, self.tables)
        return made.renamed(f"{self.name}-seed{seed}")


def write(path: Path, name: str, tables: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a specification, whole or not at all.

    Args:
        path: The file.
        name: Name of the workload.
        tables: What `fit` found.
        about: Where the real trace comes from: source, licence, citation.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "seed": 0,
        "requests": tables["requests"],
        "block_tokens": tables["block_tokens"],
        "about": dict(about),
        "sources": [{"family": FAMILY, "weight": 1, "parameters": {"tables": dict(tables)}}],
    }
    text = yaml.safe_dump(content, default_flow_style=None, sort_keys=False, width=118, allow_unicode=True)
    with atomic_write(path) as handle:
        handle.write(text.encode())


def folder() -> Path:
    """Return where the specifications that come with kvevolve lie."""
    return Path(str(resources.files("workloads"))) / "specs"


def shipped() -> list[str]:
    """Return the names of the specifications that come with kvevolve."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def read(name: str | os.PathLike[str]) -> Specification:
    """Read a specification from a file, or a shipped one by its name.

    Raises:
        TraceError: it cannot be read, or is not a specification with one fitted source.
    """
    path = Path(name)
    if not path.suffix and not path.exists():
        if str(name) not in shipped():
            raise unknown_name("shipped specification", str(name), shipped())
        path = folder() / f"{name}.yaml"
    try:
        with path.open("rb") as handle:
            text = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error} - fix: check the path") from None
    if len(text) > MOST_BYTES:
        raise TraceError(f"{path}: expected at most {MOST_BYTES:,} bytes - fix: give what `kvevolve trace fit` wrote")
    try:
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{path}: not YAML: {' '.join(str(error).split())} - fix: mend the file") from None
    return _checked(content, path)


def _checked(content: Any, path: Path) -> Specification:
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise TraceError(f"{path}: field 'format': expected {FORMAT} version {VERSION} - fix: give a specification")
    try:
        (source,) = content["sources"]
        if source["family"] != FAMILY:
            raise ValueError(f"family {source['family']!r}")
        found = Specification(
            str(content["name"]),
            content["requests"],
            content["block_tokens"],
            source["parameters"]["tables"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(
            f"{path}: field 'sources': expected one source of family {FAMILY!r}, found {error} - fix: give what"
            " `kvevolve trace fit` wrote"
        ) from None
    return found
