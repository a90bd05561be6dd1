"""Static arithmetic: which expressions cannot be negative, and how many operations of a policy might not be finite.

Knows fields and syntax; must not know how expressions are made.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from sim.policy import language
from sim.search import units

_POSITIVE = {
    *(("block", name) for name in ("seen", "tokens", "prefix_tokens", "recompute_cost")),
    *(("cache", name) for name in ("block_tokens", "capacity_blocks")),
}
_GROWING = ("log1p", "sqrt", "abs", "fabs")
_ROOTS = ("sqrt", "log1p")
_LOGS = ("log", "log2", "log10")


def nonnegative(node: ast.expr) -> bool:
    """Return whether an expression is certainly >= 0."""
    key = units.field_of(node)
    if key is not None:
        return key not in units.SLOTS and units.UNITS.get(key) not in units.LENGTHS and key[1] != "priority"
    value = language.literal(node)
    if value is not None:
        return value >= 0
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() | ast.Div(), right=right):
            return nonnegative(left) and nonnegative(right)
        case ast.IfExp(body=body, orelse=orelse):
            return nonnegative(body) and nonnegative(orelse)
        case ast.Call(args=arguments):
            name = _called(node)
            if name in ("exp", "abs", "fabs"):
                return True
            if name == "max":
                return any(nonnegative(argument) for argument in arguments)
            return name in ("min", *_GROWING) and all(nonnegative(argument) for argument in arguments)
        case _:
            return False


def positive(node: ast.expr) -> bool:
    """Return whether an expression is certainly > 0."""
    value = language.literal(node)
    if value is not None:
        return value > 0
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = (left, right)
            return all(nonnegative(side) for side in sides) and any(positive(side) for side in sides)
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            return positive(left) and positive(right)
        case ast.Call(args=arguments):
            name = _called(node)
            if name == "max":
                return any(positive(argument) for argument in arguments)
            return name in ("min", *_GROWING) and all(positive(argument) for argument in arguments)
        case _:
            return units.field_of(node) in _POSITIVE


def hazards(nodes: Iterable[ast.AST]) -> int:
    """Return how many operations below some nodes might divide by zero, overflow or leave their domain."""
    return sum(_hazard(node) for root in nodes for node in ast.walk(root))


def _hazard(node: ast.AST) -> bool:
    match node:
        case ast.BinOp(op=ast.Div(), right=right):
            return not (positive(right) or _nonzero(right))
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            power = language.literal(right)
            return power is None or abs(power) > 4 or (power != int(power) and not positive(left))
        case ast.AugAssign(op=ast.Div(), value=value):
            return not (positive(value) or _nonzero(value))
        case ast.Call(args=[argument]):
            name = _called(node)
            if name in _ROOTS:
                return not nonnegative(argument)
            if name in _LOGS:
                return not positive(argument)
            return name in ("exp", "expm1") and not _nonpositive(argument)
        case ast.Call():
            return _called(node) == "pow"
        case _:
            return False


def _nonzero(node: ast.expr) -> bool:
    value = language.literal(node)
    return value is not None and value != 0


def _nonpositive(node: ast.expr) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return nonnegative(operand)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return (_nonpositive(left) and nonnegative(right)) or (nonnegative(left) and _nonpositive(right))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _nonpositive(left) and positive(right)
        case _:
            value = language.literal(node)
            return value is not None and value <= 0


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
