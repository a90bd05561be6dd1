"""The page of all results: the parts that are there, in order, with what each was computed for.

Knows files of reports. Must not know what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from workloads.atomic import atomic_write

NAME = "results.md"


def write(directory: Path, parts: Mapping[str, str]) -> Path:
    """Write the page of a directory from the reports in it.

    Args:
        directory: Where reports were written.
        parts: Every part by the stem of its files, with what it tells in a few words, in order.

    Returns:
        The page's path.
    """
    there = [part for part in parts if _paths(directory, part)[0].is_file()]
    subjects = {part: _subject(_paths(directory, part)[1]) for part in there}
    lines = ["# Results", "", "Written by `kvevolve results`; every number is computed from traces and policies.", ""]
    lines += [f"- [{parts[part]}](#{part}){subjects[part] and ': '}{subjects[part]}" for part in there]
    lines += [f"- {parts[part]}: not computed yet, `kvevolve results {part}`" for part in parts if part not in there]
    if len(set(filter(None, subjects.values()))) > 1:
        lines += ["", "**Not all parts were computed for the same split and the same policies.**"]
    texts = [_paths(directory, part)[0].read_text(encoding="utf-8") for part in there]
    for part, text in zip(there, texts, strict=True):
        lines += ["", f'<a id="{part}"></a>', "", text]
    path = directory / NAME
    with atomic_write(path) as handle:
        handle.write(("\n".join(lines).rstrip() + "\n").encode())
    return path


def subject(split: str, panel: str, policies: Sequence[tuple[str, str]]) -> str:
    """Return in one line what a part is computed for: split, panel and (name, sha256) of policies."""
    said = ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in policies) or "no policy"
    return f"{split} split of panel {panel}; {said}"


def _paths(directory: Path, part: str) -> tuple[Path, Path]:
    return directory / f"{part}.md", directory / f"{part}.json"


def _subject(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["subject"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"**{path.name} is missing or broken**"
