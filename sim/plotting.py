"""What all figures share: matplotlib, an extra that is loaded when first drawn, their files, and the colours of text.

Must not know what is drawn.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from workloads.atomic import atomic_write

INK, MUTED, GRID = "#222222", "#777777", "#e3e3e3"


def load(module: str) -> Any:
    """Import a module of matplotlib.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ModuleNotFoundError("figures need matplotlib; fix: pip install 'kvevolve[figures]'") from None


def new_figure(width: float, height: float, **options: Any) -> Any:
    """Return an empty figure, inches wide and high.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    return load("matplotlib.figure").Figure(figsize=(width, height), **options)


def check_format(path: Path) -> str:
    """Return the format that a file's suffix names.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the format is unknown.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in new_figure(1, 1).canvas.get_supported_filetypes():
        raise ValueError(f"{path}: no such figure format; name the file .png, .pdf or .svg")
    return kind


def save(figure: Any, path: Path, **options: Any) -> None:
    """Write a figure whole or not at all.

    Raises:
        ValueError: If the suffix names no format.
        OSError: If the file cannot be written.
    """
    kind = check_format(path)
    with atomic_write(path) as handle:
        figure.savefig(handle, format=kind, **options)


def thousands(value: float, _: object) -> str:
    """Return a number as axes show it."""
    return f"{value:,.10g}"
