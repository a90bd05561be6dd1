"""Neutral arithmetic folded away, one expression at a time: x + 0, 1 * x, min(a, a), not not c, a if True else b.

Knows the arithmetic of the language; must not know policies.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from sim.policy import language
from sim.search import units

_DIGITS = 12
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
}
_ORDER: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


def same(left: ast.expr, right: ast.expr) -> bool:
    """Return whether two expressions are written alike."""
    return _dump(left) == _dump(right)


def _dump(node: ast.expr) -> str:
    return ast.dump(node).replace("Store()", "Load()")


def _truth(node: ast.expr) -> bool | None:
    if isinstance(node, ast.Constant):
        return bool(node.value)
    return None


class Fold(ast.NodeTransformer):
    """Folds from the leaves up."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Fold arithmetic."""
        self.generic_visit(node)
        left, right = language.literal(node.left), language.literal(node.right)
        if left is not None and right is not None:
            rule = _ARITHMETIC.get(type(node.op))
            return units.number(rule(left, right), _DIGITS) if rule else node
        match node.op:
            case ast.Add() | ast.Sub():
                return self._sum(node, left, right)
            case ast.Mult():
                return self._product(node, left, right)
            case ast.Div():
                return node.left if right == 1 or left == 0 else node
            case _:
                return node.left if right == 1 else node

    def _sum(self, node: ast.BinOp, left: float | None, right: float | None) -> ast.expr:
        plus = isinstance(node.op, ast.Add)
        if right == 0:
            return node.left
        if left == 0:
            return node.right if plus else ast.UnaryOp(ast.USub(), node.right)
        if not plus and same(node.left, node.right):
            return ast.Constant(0)
        turned = _negated(node.right)
        if turned is not None:
            return ast.BinOp(node.left, ast.Sub() if plus else ast.Add(), turned)
        inner = node.left
        if right is not None and isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Add | ast.Sub):
            constant = language.literal(inner.right)
            if constant is not None:
                total = (constant if isinstance(inner.op, ast.Add) else -constant) + (right if plus else -right)
                return ast.BinOp(inner.left, ast.Add(), units.number(total, _DIGITS))
        return node

    def _product(self, node: ast.BinOp, left: float | None, right: float | None) -> ast.expr:
        if left == 0 or right == 0:
            return ast.Constant(0)
        if left == 1:
            return node.right
        if right == 1:
            return node.left
        if left == -1:
            return ast.UnaryOp(ast.USub(), node.right)
        if left is not None and isinstance(node.right, ast.BinOp) and isinstance(node.right.op, ast.Mult):
            constant = language.literal(node.right.left)
            if constant is not None:
                return ast.BinOp(units.number(left * constant, _DIGITS), ast.Mult(), node.right.right)
        if left is None and right is not None:
            return ast.BinOp(node.right, ast.Mult(), node.left)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """Fold signs and negations."""
        self.generic_visit(node)
        inner = node.operand
        if isinstance(node.op, ast.Not):
            decided = _truth(inner)
            if decided is not None:
                return ast.Constant(not decided)
            if isinstance(inner, ast.Compare) and len(inner.ops) == 1:
                return ast.Compare(inner.left, [_OPPOSITE[type(inner.ops[0])]()], inner.comparators)
            return inner.operand if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not) else node
        if isinstance(node.op, ast.UAdd):
            return inner
        if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub):
            return inner.operand
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
            return ast.BinOp(inner.right, ast.Sub(), inner.left)
        return ast.Constant(0) if language.literal(inner) == 0 else node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """Decide comparisons of literals and of equal sides."""
        self.generic_visit(node)
        if len(node.ops) != 1:
            return node
        left, right = language.literal(node.left), language.literal(node.comparators[0])
        if same(node.left, node.comparators[0]):
            left = right = 0.0
        return node if left is None or right is None else ast.Constant(_ORDER[type(node.ops[0])](left, right))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Flatten, drop repeated and decided operands."""
        self.generic_visit(node)
        every = isinstance(node.op, ast.And)
        kept: dict[str, ast.expr] = {}
        for value in node.values:
            nested = isinstance(value, ast.BoolOp) and type(value.op) is type(node.op)
            for item in value.values if nested else [value]:  # type: ignore[attr-defined]
                decided = _truth(item)
                if decided is None:
                    kept.setdefault(ast.dump(item), item)
                elif decided is not every:
                    return ast.Constant(decided)
        values = list(kept.values())
        if not values:
            return ast.Constant(every)
        return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """Take the branch that is decided, or common."""
        self.generic_visit(node)
        decided = _truth(node.test)
        if decided is not None:
            return node.body if decided else node.orelse
        return node.body if same(node.body, node.orelse) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Fold `min`, `max` and roots of literals."""
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("min", "max"):
            return self._extreme(node, name)
        if name == "abs" and len(node.args) == 1 and language.literal(node.args[0]) is not None:
            return units.number(abs(language.literal(node.args[0]) or 0.0), _DIGITS)
        return node

    def _extreme(self, node: ast.Call, name: str) -> ast.expr:
        best = min if name == "min" else max
        literals: list[float] = []
        others: dict[str, ast.expr] = {}
        for argument in node.args:
            nested = isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name) and argument.func.id == name
            for item in argument.args if nested else [argument]:  # type: ignore[attr-defined]
                value = language.literal(item)
                if value is None:
                    others.setdefault(ast.dump(item), item)
                else:
                    literals.append(value)
        arguments = [*others.values(), *([units.number(best(literals), _DIGITS)] if literals else [])]
        if len(arguments) > language.BUILTINS[name][1]:
            return node
        return arguments[0] if len(arguments) == 1 else ast.Call(node.func, arguments, [])


def _negated(node: ast.expr) -> ast.expr | None:
    """Return what an expression is minus of, if it is written so."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        value = language.literal(node.left)
        if value is not None and value < 0:
            return ast.BinOp(units.number(-value, _DIGITS), node.op, node.right)
    return None
