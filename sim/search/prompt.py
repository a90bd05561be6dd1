"""Engines' prompts read, and answers written so that their parsers take them.

Knows the texts of OpenEvolve 0.4.0's default templates, and of other engines what they have in common; must not know
how a child is made.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

from sim.search import layouts
from sim.search.genome import NotAGenome, split
from sim.search.operator import Partner

Mode = Literal["diff", "rewrite"]

_CURRENT = re.compile(r"^# Current Program[ \t]*\n```\w*\n", re.MULTILINE)
_END = re.compile(r"\n```\s*\n# Task\b")
_PARTNER = re.compile(
    r"^### (?:Program|Inspiration) \S+ \(Score: (?P<score>[^,)]+)[^)\n]*\)\n```\w*\n(?P<code>.*?)\n```\n"
    r"(?=Key features|Unique approach)",
    re.MULTILINE | re.DOTALL,
)
_FITNESS = re.compile(r"^- Fitness: (\S+)$", re.MULTILINE)
_JUDGE_WORDS = re.compile(r"\bNOT_NOVEL\b|\bJSON object\b|^# Program to Analyze", re.MULTILINE)
_DIFF_WORDS = re.compile(r"SEARCH/REPLACE|^<<<<<<< SEARCH", re.MULTILINE)
_MARKER = re.compile(r"^[ \t]*(<<<<<<< SEARCH|=======|>>>>>>> REPLACE)[ \t]*\r?$|<<<<<<< SEARCH|>>>>>>> REPLACE", re.M)


class CannotAnswer(ValueError):
    """A request to vary a program for which no valid answer exists; the message says why."""


@dataclass(frozen=True)
class Prompt:
    """What a request to vary a program shows."""

    parent: str
    partners: tuple[Partner, ...]
    mode: Mode
    fitness: float | None = None
    """Score of the parent as shown."""


def read(text: str) -> Prompt | None:
    """Return what a user message asks to vary; None if it asks for something else."""
    starts = list(_CURRENT.finditer(text))
    for start in reversed(starts):
        end = _END.search(text, start.end() - 1)
        if end is None:
            continue
        history, task = text[: start.start()], text[end.end() :]
        partners = tuple(
            Partner(match["code"], _number(match["score"])) for match in _PARTNER.finditer(history) if match["code"]
        )
        mode: Mode = "diff" if _DIFF_WORDS.search(task) else "rewrite"
        fitness = _FITNESS.search(history)
        shown = _number(fitness.group(1)) if fitness else None
        return Prompt(text[start.end() : end.start()], partners, mode, shown)
    return _read_any(text)


def _read_any(text: str) -> Prompt | None:
    """Return what the prompt of another engine asks to vary: programs are known by their EVOLVE-BLOCK."""
    found, rest = layouts.programs(text)
    if not found or _JUDGE_WORDS.search(rest):
        return None
    parent, *others = found
    mode: Mode = "diff" if _DIFF_WORDS.search(rest) else "rewrite"
    return Prompt(parent.source, tuple(Partner(other.source, other.score) for other in others), mode, parent.score)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def answer(prompt: Prompt, child: str, remark: str) -> str:
    """Return the reply that makes `child` of the prompt's parent.

    Raises:
        CannotAnswer: If the engine's format cannot carry the change.
    """
    if prompt.mode == "rewrite":
        if "```" in child:
            raise CannotAnswer("the program contains a code fence (```), which cuts a full rewrite short; remove it")
        return f"{remark}\n\n```python\n{child.rstrip()}\n```\n"
    search, replace = _hunk(prompt.parent, child)
    if _MARKER.search(search) or _MARKER.search(replace):
        raise CannotAnswer("the program contains a SEARCH/REPLACE marker line; remove it")
    return f"{remark}\n\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def _hunk(parent: str, child: str) -> tuple[str, str]:
    """Return the evolve blocks of both, or the whole files where the text around the blocks differs."""
    try:
        (head, old, tail), (new_head, new, new_tail) = split(parent), split(child)
    except NotAGenome:
        return _whole(parent, child)
    if (head, tail) != (new_head, new_tail) or not head:
        return _whole(parent, child)
    search, replace = old.rstrip(), new.rstrip()
    lines, wanted = parent.split("\n"), search.split("\n")
    first = next(i for i in range(len(lines)) if lines[i : i + len(wanted)] == wanted)
    if search and first == head.count("\n"):
        return search, replace
    marker = head.rstrip("\n").rpartition("\n")[2]
    return f"{marker}\n{search}".rstrip(), f"{marker}\n{replace}".rstrip()


def _whole(parent: str, child: str) -> tuple[str, str]:
    if not parent.strip():
        raise CannotAnswer("the program is empty")
    return parent.rstrip(), child.rstrip()


def other_answer(system: str, user: str) -> tuple[str, str]:
    """Return the kind of a request that is not about varying a program, and a harmless valid reply."""
    text = f"{system}\n{user}"
    if "NOT_NOVEL" in text:
        return "novelty", "NOVEL\nThe operator proposes no program twice; it does not compare programs otherwise."
    if "JSON object" in text and "evaluat" in text.lower():
        scores = {"readability": 0.5, "maintainability": 0.5, "efficiency": 0.5}
        reasoning = "The operator does not judge code; every score is the neutral 0.5."
        return "evaluation", "```json\n" + json.dumps({**scores, "reasoning": reasoning}) + "\n```"
    return "other", "This endpoint varies cache policies shown in an engine's prompt; it answers nothing else."
