"""A report: tables as Markdown, numbers as JSON, figures; written to a directory, each file whole or not at all.

Knows how results are laid out. Must not know what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.results.means import LOWEST
from workloads.atomic import atomic_write


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"### {self.title}", "", _row(self.head), _row(["---"] + ["---:"] * (len(self.head) - 1))]
        lines += [_row(row) for row in self.rows]
        return "\n".join(lines + ["", self.note] * bool(self.note)) + "\n"


@dataclass(frozen=True)
class Report:
    """What one part of the results found.

    Attributes:
        name: Stem of the files.
        title: Heading.
        reading: How the numbers are to be read, one sentence.
        text: What was done, in words.
        tables: In order.
        data: Plain numbers and text, fit for JSON.
        figures: Drawers by file stem; each is given the path to write.
    """

    name: str
    title: str
    reading: str
    text: str
    tables: Sequence[Table]
    data: Mapping[str, Any]
    figures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return text and tables in Markdown, figures linked."""
        parts = [f"## {self.title}", "", f"*{self.reading}*", "", self.text, ""]
        parts += [f"![{stem}]({stem}.png)\n" for stem in self.figures]
        parts += [table.markdown() for table in self.tables]
        return "\n".join(parts)

    def write(self, directory: Path, figures: bool = True, subject: str = "") -> list[Path]:
        """Write NAME.md, NAME.json and a PNG per figure; return the files.

        Args:
            directory: Where to.
            figures: Whether to draw; figures drawn before stay.
            subject: What the report is about, see `sim.results.page`.

        Raises:
            ModuleNotFoundError: If there are figures to draw and matplotlib is not installed.
            OSError: If a file cannot be written.
        """
        files = [directory / f"{self.name}.md", directory / f"{self.name}.json"]
        texts = [self.markdown(), json.dumps({"subject": subject, **self.data}, indent=1) + "\n"]
        for path, text in zip(files, texts, strict=True):
            with atomic_write(path) as handle:
                handle.write(text.encode())
        for stem, draw in self.figures.items() if figures else ():
            files.append(directory / f"{stem}.png")
            draw(files[-1])
        return files


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def percent(share: float) -> str:
    """Return a share in percent, two digits."""
    return f"{100.0 * share:.2f}"


def gap(value: float) -> str:
    """Return a gap closed, signed, three digits; far below LRU it says no more than that."""
    return f"{value:+.3f}" if value >= LOWEST else f"below {LOWEST:g}"


def ranged(value: float, ends: tuple[float, float]) -> str:
    """Return a gap closed with its interval."""
    return f"{gap(value)} [{ends[0]:+.2f}, {ends[1]:+.2f}]" if value >= LOWEST else gap(value)
