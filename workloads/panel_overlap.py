"""Whether two traces of a panel may hold the same requests.

Knows what sources, options and cuts mean for that, and when two spellings name one file. Must not know YAML, nor read a
trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads import formats, locate

Options = Mapping[str, Any]
Cut = Mapping[str, Any]


def placed(source: str, folder: Path) -> str:
    """Return a source with its relative path, if it has one, made absolute."""
    target, question, query = source.partition("?")
    if target in locate.KNOWN_TRACES:
        return source
    kind, colon, path = target.partition(":")
    if colon and (kind in formats.MODULES or (folder / path).is_file()):
        return f"{kind}:{folder / path}{question}{query}"
    if (folder / target).exists():
        return f"{folder / target}{question}{query}"
    return source


def file_of(spec: str) -> Path | None:
    """Return the file or folder a placed source is read from; None if it is generated, or not at hand."""
    target = spec.partition("?")[0]
    if target in locate.KNOWN_TRACES:
        return locate.find(target)
    path = Path(target if Path(target).exists() else target.partition(":")[2])
    return path if target and path.exists() and path != Path() else None


def shared(one: tuple[str, Options, Cut], other: tuple[str, Options, Cut], folder: Path) -> bool:
    """Return whether two traces may hold the same requests: of one source, and not cut apart.

    A generator with the same seed is one source, whatever its other options: with more requests it begins the same.
    Parts of the time, or ranges of requests, are apart only if both traces are laid out alike.

    Args:
        one: Source, options and cut of a trace.
        other: The same of another trace.
        folder: Where relative paths start.
    """
    alike = _options(*one[:2]) == _options(*other[:2])
    if formats.is_generated(one[0]) or formats.is_generated(other[0]):
        same = _stream(*one[:2]) == _stream(*other[:2])
    else:
        mine, others = (placed(source, folder) for source, _, _ in (one, other))
        files = file_of(mine), file_of(others)
        same = _target(mine) == _target(others)
        if files[0] is not None and files[1] is not None:
            first, second = (file.resolve() for file in files if file is not None)
            same |= first.samefile(second) or first in second.parents or second in first.parents
    return same and not _apart(one[2], other[2], alike)


def bounds(cut: Cut) -> tuple[str, float, float]:
    """Return how a cut is made, and its range; the end is infinite where it is open."""
    ((kind, (start, end)),) = cut.items()
    return kind, float(start or 0), math.inf if end is None else float(end)


def _apart(one: Cut, other: Cut, alike: bool) -> bool:
    if not one or not other:
        return False
    mine, others = bounds(one), bounds(other)
    comparable = mine[0] == others[0] and (alike or mine[0] == "sessions")
    return comparable and not (mine[1] < others[2] and others[1] < mine[2])


def _target(source: str) -> str:
    return source.partition("?")[0]


def _stream(source: str, options: Options) -> tuple[str, str]:
    """Return what a generator draws: its name and seed."""
    return _target(source), _options(source, options).get("seed", "")


def _options(source: str, options: Options) -> dict[str, str]:
    """Return all options of a source as text; the name of a trace changes nothing in it."""
    given = dict(pair.partition("=")[::2] for pair in source.partition("?")[2].split("&") if pair)
    given |= {key: "none" if value is None else str(value) for key, value in options.items()}
    named = {"block_tokens" if key == "block" else key: _number(text.lower()) for key, text in given.items()}
    return {key: text for key, text in named.items() if key != "name"}


def _number(text: str) -> str:
    try:
        return f"{float(text):.17g}"
    except ValueError:
        return text
