"""Panels as files: which there are, where they lie, and what they say.

Knows names and YAML files, of this package and of users. Must not know traces. What a file says is checked once
(`workloads.panel_schema`) and kept in the user cache, by its contents: reading it again takes a millisecond.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workloads import formats, locate
from workloads.atomic import atomic_write
from workloads.errors import TraceError, unknown_name
from workloads.ladder import Capacity
from workloads.panel_overlap import shared

SPLITS = ("train", "validation", "test")
SHIPPED = Path(__file__).parent / "panels"
_AUTO = ("real", "mooncake", "synthetic")
_CHECKS = (
    "panel_schema.py",
    "panel_overlap.py",
    "yaml_document.py",
    "yaml_model.py",
    "panel_file.py",
    "kv_bytes.py",
    "formats.py",
)


@dataclass(frozen=True)
class TraceEntry:
    """One trace of a panel, every default filled in.

    Attributes:
        name: Its name in the panel.
        source: What `workloads.load` takes; relative paths are relative to the panel's file.
        options: Options of the source, added to those it names.
        cut: What part of the source: ``{"time": [0.0, 0.4]}`` of the time between first and last arrival,
            ``{"sessions": [0.0, 0.5]}`` of the sessions by the hash of their names, ``{"requests": [0, 5000]}``; empty
            for all of it.
        capacities: Cache sizes.
        warmup: See `workloads.warmup.first_counted`.
        weight: Of its cells in the mean of the score.
        note: For listings.
    """

    name: str
    source: str
    options: Mapping[str, str | int | float | bool | None]
    cut: Mapping[str, list[Any]]
    capacities: tuple[Capacity, ...]
    warmup: str | int
    weight: float
    note: str


@dataclass(frozen=True)
class PanelFile:
    """What a panel file says.

    Attributes:
        name: Name and version.
        path: The file.
        about: What the panel is for.
        model: For capacities in memory.
        splits: Traces by split.
        which: What finds this panel again: its name if it is shipped, else its path.
    """

    name: str
    path: Path
    about: str
    model: str | None
    splits: Mapping[str, tuple[TraceEntry, ...]]
    which: str

    def traces(self, split: str) -> tuple[TraceEntry, ...]:
        """Return the traces of a split.

        Raises:
            TraceError: the panel has no such split.
        """
        if split not in self.splits:
            raise TraceError(
                f"{self.path}: panel {self.name} has no split {split!r}, only {', '.join(self.splits)} - fix: add it,"
                " or use another panel"
            )
        return self.splits[split]

    def missing(self) -> list[str]:
        """Return the sources that are files and not at hand, over all splits."""
        sources = {entry.source for entries in self.splits.values() for entry in entries}
        return sorted(source for source in sources if not self._at_hand(source))

    def _at_hand(self, source: str) -> bool:
        target = source.partition("?")[0]
        if target in locate.KNOWN_TRACES:
            return locate.find(target) is not None
        return formats.is_generated(source) or (self.path.parent / target.rpartition(":")[2]).exists()


def find(which: str = "auto") -> PanelFile:
    """Return a panel.

    Args:
        which: ``auto``, the first of real, mooncake and synthetic whose traces are all at hand; a shipped name, with a
            version (``real-v1``) or without (the latest); or the path of a YAML file.

    Raises:
        TraceError: no such panel, or a file that says what it must not.
    """
    if which == "auto":
        return next(panel for name in _AUTO if not (panel := find(name)).missing() or name == _AUTO[-1])
    if which in shipped():
        return read(shipped()[which])
    if Path(which).suffix in (".yaml", ".yml") or "/" in which:
        return read(Path(which))
    raise unknown_name("panel", which, ["auto", *shipped(), "or the path of a .yaml file"])


@cache
def shipped() -> Mapping[str, Path]:
    """Return the files of the shipped panels by name, with version and (the latest) without."""
    found: dict[str, Path] = {}
    version = re.compile(r"(.+)-v(\d+)")
    names = [match for path in SHIPPED.glob("*.yaml") if (match := version.fullmatch(path.stem))]
    for match in sorted(names, key=lambda match: (match[1], int(match[2]))):
        found[match[0]] = found[match[1]] = SHIPPED / f"{match[0]}.yaml"
    return MappingProxyType(found)


def read(path: Path) -> PanelFile:
    """Return what a panel file says.

    Raises:
        TraceError: unreadable, wrong (all mistakes at once, with lines), or under the name of a shipped panel that says
            something else.
    """
    content = _content(path)
    name = content["name"]
    own = shipped().get(name)
    if own is not None and path.resolve() != own and _meaning(content) != _meaning(_content(own)):
        raise TraceError(
            f"{path}: field 'name': {name!r} is the name of a shipped panel that says something else, and results cite"
            f" panels by name - fix: give it a name of its own, for example my-{name}",
            field="name",
        )
    if own is not None and path.parent.resolve() == SHIPPED and path.stem != name:
        raise TraceError(f"{path}: field 'name': expected {path.stem!r}, got {name!r} - fix: name it like its file")
    splits = {
        split: tuple(TraceEntry(**{**entry, "capacities": tuple(entry["capacities"])}) for entry in traces)
        for split, traces in content["splits"].items()
    }
    _refuse_overlap(path, splits)
    which = name if path.resolve() == own else str(path.resolve())
    return PanelFile(name, path.resolve(), content["about"], content["model"], MappingProxyType(splits), which)


def _refuse_overlap(path: Path, splits: Mapping[str, tuple[TraceEntry, ...]]) -> None:
    """Refuse splits that share traffic by another spelling of a file, which the text alone does not tell."""
    every = [(split, entry, (entry.source, entry.options, entry.cut)) for split in splits for entry in splits[split]]
    for (split, one, mine), (other_split, other, others) in combinations(every, 2):
        if split != other_split and shared(mine, others, path.resolve().parent):
            raise TraceError(
                f"{path}: field 'splits': expected splits that share no traffic, got {one.name!r} ({split}) and"
                f" {other.name!r} ({other_split}), which read the same files - fix: cut both in the same way, into"
                " ranges that do not overlap",
                field="splits",
            )


def _meaning(content: dict[str, Any]) -> dict[str, Any]:
    """Return what is not mere text for readers."""
    splits = {
        split: [{key: value for key, value in entry.items() if key != "note"} for entry in traces]
        for split, traces in content["splits"].items()
    }
    return {**content, "about": "", "splits": splits}


def _content(path: Path) -> dict[str, Any]:
    """Return a file as checked plain data, from the cache if the very same text was checked before."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error} - fix: give the path of a panel's YAML file") from None
    entry = locate.user_cache_dir() / "panels" / f"{hashlib.sha256(_checks() + raw).hexdigest()[:32]}.json"
    try:
        stored: dict[str, Any] = json.loads(entry.read_bytes())
        return stored
    except (OSError, ValueError):
        pass
    from workloads.panel_schema import checked

    content = checked(path, raw)
    try:
        with atomic_write(entry) as handle:
            handle.write(json.dumps(content).encode())
    except OSError:
        return content  # checked again next time
    return content


@cache
def _checks() -> bytes:
    """Return a digest of the code that checks panel files."""
    here = Path(__file__).parent
    return hashlib.sha256(b"\0".join((here / name).read_bytes() for name in _CHECKS)).digest()
