"""The shape of the code: short files, short functions, and a core that depends on arrays only."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "sim").rglob("*.py"), *(ROOT / "workloads").rglob("*.py"), ROOT / "evaluator.py"])
MOST_FILE_LINES, MOST_FUNCTION_LINES = 350, 50
CORE_MAY_IMPORT = {"numpy", "numba"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_sources_are_found():
    assert {"sim/core/engine.py", "workloads/trace.py", "evaluator.py"} <= {name_of(path) for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_FILE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {node.name: size for node in functions if (size := lines_but_docs(node)) > MOST_FUNCTION_LINES}


def lines_but_docs(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, signature included, without those that document its parameters."""
    documented = ast.get_docstring(node) is not None
    docs = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
    return node.end_lineno - node.lineno + 1 - docs


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted((ROOT / "sim" / "core").rglob("*.py")), ids=name_of)
def test_the_core_imports_arrays_and_itself_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top = name.split(".")[0]
            inside = name.startswith("sim.core")
            assert inside or top in CORE_MAY_IMPORT or top in sys.stdlib_module_names, name
