"""Programs found in any engine's prompt: what stands in a code fence and has an EVOLVE-BLOCK, with its score.

Knows fences, markers and how engines write scores; must not know how a child is made or answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^```.*\n", re.MULTILINE)
_START = re.compile(r"^# EVOLVE-BLOCK-START\b.*$", re.MULTILINE)
_END = re.compile(r"^# EVOLVE-BLOCK-END\b.*$", re.MULTILINE)
_CLOSING = re.compile(r"\n```[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} .*$", re.MULTILINE)
_CURRENT = re.compile(r"\b(?:current|to fix)\b", re.IGNORECASE)
_SCORE = re.compile(r"\b(?:combined[ _])?score(?: to maximize)?:\s*(?P<value>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)", re.I)


@dataclass(frozen=True)
class Shown:
    """A program in a prompt.

    Attributes:
        source: The whole file.
        score: As written beside it, None if there is none.
        current: Whether it stands under a heading that calls it the current one, or the one to fix.
    """

    source: str
    score: float | None
    current: bool


def programs(text: str) -> tuple[list[Shown], str]:
    """Return the programs of a prompt, the one to vary first, and the prompt without them.

    The one to vary is the last that a heading calls current, else the first.
    """
    places = list(_places(text))
    bounds = [0, *(bound for place in places for bound in place), len(text)]
    between = [text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    found = []
    for (start, end), before, after in zip(places, between, between[1:], strict=False):
        headings = list(_HEADING.finditer(before))
        score = _score(before[headings[-1].start() :], last=True) if headings else None
        if score is None:
            following = _HEADING.search(after)
            score = _score(after[: following.start()] if following else after, last=False)
        found.append(Shown(text[start:end], score, any(_CURRENT.search(heading[0]) for heading in headings)))
    chosen = max((i for i, program in enumerate(found) if program.current), default=0)
    return found[chosen : chosen + 1] + found[:chosen] + found[chosen + 1 :], "\n".join(between)


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Yield where programs start and end: the text between the fences around an EVOLVE-BLOCK."""
    done = 0
    for start in _START.finditer(text):
        if start.start() < done:
            continue
        end = _END.search(text, start.end())
        closing = _CLOSING.search(text, end.end()) if end else None
        if closing is None:
            return
        opening = [fence.end() for fence in _FENCE.finditer(text, done, start.start())]
        done = closing.end()
        if opening:
            yield opening[-1], closing.start()


def _score(text: str, last: bool) -> float | None:
    written = [float(match["value"]) for match in _SCORE.finditer(text)]
    return written[-1 if last else 0] if written else None
