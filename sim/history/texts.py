"""What makes two texts the same: their bytes, what they compute as written, or that up to numbers.

Knows Python's syntax; must not know the store.
"""

from __future__ import annotations

import ast
import hashlib
import warnings

from sim.search.genome import fingerprint as written

_REFUSED = (SyntaxError, ValueError, RecursionError, MemoryError)


def sha(text: str) -> str:
    """Return SHA-256 (hex) of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(source: str) -> str | None:
    """Return what is equal for programs that differ in layout only; None if it is no program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return written(source)
    except _REFUSED:
        return None


def structure(source: str) -> str | None:
    """Return what is equal for programs that differ in layout and numbers only; None if it is no program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return written(ast.unparse(_Numberless().visit(ast.parse(source))))
    except _REFUSED:
        return None


class _Numberless(ast.NodeTransformer):
    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant) else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return ast.copy_location(ast.Constant(1), node)
        return node
