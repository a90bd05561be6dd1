"""Where a trace comes from, as it rides in every file that is written.

Knows the manifest and how it follows from the provenance of a trace: source, licence and citation of what was read, and
all that was done to it since. Must not know file formats, nor which traces there are.

A provenance says ``origin`` (source, licence, citation), or has a file's ``header`` that does; one of several traces
made into one has ``parts`` instead, and carries all of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from workloads.errors import TraceError
from workloads.validation import check_block_tokens

if TYPE_CHECKING:
    from workloads.trace import Trace

ORIGIN = ("source", "licence", "citation")
MOST_NESTED = 100
"""Levels of a provenance: a few per trace made of several made of several."""
_KINDS = {"name": str, "block_tokens": int, **dict.fromkeys((*ORIGIN, "tool"), str), "provenance": dict}
_OPTIONAL_KINDS = {"distinct_blocks": int, "fingerprint": str}


@dataclass(frozen=True)
class Manifest:
    """What a file says about the trace in it.

    Attributes:
        name: Short name for reports.
        block_tokens: Tokens per block.
        source: Where the requests come from.
        licence: Under which they may be used; an SPDX expression where there is one.
        distinct_blocks: Distinct blocks of the whole file, if it was known when the file was written.
        fingerprint: `Trace.fingerprint`, if the file was written from a trace.
        provenance: As of a trace: reader, options, repairs, materialisation, cuts.
        citation: What to cite.
        tool: What wrote the file.
    """

    name: str
    block_tokens: int
    source: str = ""
    licence: str = ""
    distinct_blocks: int | None = None
    fingerprint: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    citation: str = ""
    tool: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return names and values, fit for JSON."""
        return asdict(self)

    def full_provenance(self) -> dict[str, Any]:
        """Return the provenance, with the origin said here if it does not say one itself."""
        said = {name: getattr(self, name) for name in ORIGIN}
        if said == origin_of(self.provenance):
            return self.provenance
        return {**self.provenance, "origin": said}

    @staticmethod
    def shown(content: Mapping[str, Any]) -> str:
        """Return what `to_dict` gives as a text for people."""
        lines = [f"{name:<26} {content[name] or '(not stated)'}" for name in ORIGIN]
        provenance = json.dumps(content["provenance"], indent=2, sort_keys=True, default=str)
        return "\n".join([*lines, f"provenance {provenance}"])


def manifest_of(trace: Trace) -> Manifest:
    """Return the manifest of a trace."""
    return Manifest(
        trace.name,
        trace.block_tokens,
        distinct_blocks=trace.n_blocks,
        fingerprint=trace.fingerprint,
        provenance=trace.provenance,
        tool=tool(),
        **origin_of(trace.provenance),
    )


def origin_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return source, licence and citation, "" where nothing is said; of several parts all, each once."""
    parts = provenance.get("parts")
    said = [provenance.get("origin"), provenance.get("header")]
    found = {name: _first(said, name) for name in ORIGIN}
    if not any(found.values()) and provenance.get("format") == "synthetic":
        found |= {"source": f"made by {tool()}: synthetic:{provenance.get('generator')}", "licence": "none (synthetic)"}
    if isinstance(parts, list):
        each = [origin_of(part) for part in parts if isinstance(part, Mapping)]
        for name, joint in zip(ORIGIN, ("; ", " AND ", "; "), strict=True):
            found[name] = found[name] or joint.join(dict.fromkeys(part[name] for part in each if part[name]))
    return found


def stated(trace: Trace, **origin: str | None) -> Trace:
    """Return a trace whose origin says more: what is given (None: as before) replaces what was said."""
    given = {name: value for name, value in origin.items() if value is not None}
    if not given:
        return trace
    return replace(trace, provenance={**trace.provenance, "origin": {**origin_of(trace.provenance), **given}})


def stepped(provenance: Mapping[str, Any], step: str) -> dict[str, Any]:
    """Return a provenance with one more thing done to the trace."""
    done = provenance.get("steps", [])
    return {**provenance, "steps": [*(done if isinstance(done, list) else []), step]}


def encode(manifest: Manifest, form: str, version: int) -> bytes:
    """Return a manifest as JSON that names the format and version of the file it rides in."""
    return json.dumps({"format": form, "version": version, **manifest.to_dict()}, allow_nan=False).encode()


def decode(raw: bytes, form: str, version: int) -> Manifest:
    """Read what `encode` wrote.

    Raises:
        TraceError: no such JSON, another format or version, or a field of the wrong kind.
    """
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        raise TraceError("its manifest is not JSON") from None
    if not isinstance(said, dict) or said.get("format") != form or said.get("version") != version:
        found = {key: said.get(key) for key in ("format", "version")} if isinstance(said, dict) else "no JSON object"
        raise TraceError(f"manifest: expected format {form!r} version {version}, got {found}")
    for key, kind in (_KINDS | _OPTIONAL_KINDS).items():
        if type(said.get(key)) is not kind and not (key in _OPTIONAL_KINDS and said.get(key) is None):
            raise TraceError(f"manifest field {key!r}: expected {kind.__name__}, got {said.get(key)!r}", field=key)
    check_block_tokens(said["block_tokens"])
    level: list[Any] = [said["provenance"]]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    if level:
        raise TraceError(f"manifest field 'provenance': nested more than {MOST_NESTED} deep", field="provenance")
    return Manifest(**{item.name: said[item.name] for item in fields(Manifest)})


@cache
def tool() -> str:
    """Return name and version of this program."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"kvevolve {version('kvevolve')}"
    except PackageNotFoundError:
        return "kvevolve, not installed"


def _first(said: list[Any], name: str) -> str:
    return next((str(one[name]) for one in said if isinstance(one, Mapping) and one.get(name)), "")
