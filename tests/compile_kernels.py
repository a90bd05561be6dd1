"""Compiles the kernels, so that the processes of the tests, which begin together, do not each compile the same ones."""

from __future__ import annotations

import importlib
import multiprocessing
from pathlib import Path

from conftest import keep_apart

ROOT = Path(__file__).parents[1]
LONGEST = ("sim.core.sglang_user", "sim.core.engine", "sim.core.sglang_native", "sim.core.shadow", "sim.core.chunks")
"""The first to be compiled: what begins last should be short."""


def compile_module(name: str) -> None:
    """Compile the kernels of a module, as its import does."""
    importlib.import_module(name)


if __name__ == "__main__":
    keep_apart()
    paths = sorted((ROOT / "sim" / "core").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.stem != "__init__"]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(compile_module, [*LONGEST, *(name for name in names if name not in LONGEST)], chunksize=1)
