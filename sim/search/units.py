"""What the fields of the contract measure, and numbers of a fitting size for each unit.

Knows the field table and plain chance; must not know expressions or policies.
"""

from __future__ import annotations

import ast
import math
import random

from sim.core import fields
from sim.policy import language

FREE = "free"
"""Unit of anything whose unit is unknown or mixed."""

INSTANTS = {
    ("block", "last_access"): "instant",
    ("block", "inserted"): "instant",
    ("cache", "now"): "instant",
    ("block", "last_access_s"): "instant_s",
    ("block", "inserted_s"): "instant_s",
    ("cache", "now_s"): "instant_s",
    ("block", "released"): "order",
}
"""Fields counted from an origin that means nothing: only their differences do."""

LENGTHS = {"instant": "steps", "instant_s": "seconds", "order": "releases"}
"""Unit of the difference of two instants."""

SIZES: dict[str, tuple[float, float]] = {
    "steps": (400.0, 1.4),
    "seconds": (120.0, 1.4),
    "releases": (8000.0, 1.4),
    "accesses": (2.0, 0.7),
    "blocks": (12.0, 1.0),
    "tokens": (4000.0, 1.2),
    "turns": (2.0, 0.6),
    "label": (1.0, 0.7),
    "0 or 1": (0.5, 0.1),
    "fraction": (0.3, 0.6),
    "first-token prefills": (800.0, 1.2),
    FREE: (1.0, 1.2),
}
"""Median and log standard deviation of a typical number of each unit."""

PER_BLOCK = {"releases": 0.4, "steps": 0.02, "seconds": 0.01}
"""Typical length of time per block of the cache: requests release a few dozen blocks each, some per second."""

COUNTS = ("accesses", "turns", "label", "0 or 1", "blocks")
"""Units whose typical numbers are whole."""

UNITS: dict[tuple[str, str], str] = {
    (record, field.name): INSTANTS.get((record, field.name), FREE if field.unit == "yours" else field.unit)
    for record, entries in fields.RECORDS.items()
    for field in entries
}
SLOTS = {
    (record, field.name) for record, entries in fields.RECORDS.items() for field in entries if field.unit == "yours"
}
MOVING = {(record, field.name) for record, entries in fields.RECORDS.items() for field in entries if field.moving}

_CONSTANT_PER_RUN = {("cache", "capacity_blocks"), ("cache", "block_tokens"), ("block", "tokens")}
_ALWAYS_ZERO = {("block", "children")}


def readable(records: tuple[str, ...], unit: str | None = None) -> list[tuple[str, str]]:
    """Return the informative public fields of some records, of one unit if given."""
    skipped = SLOTS | _CONSTANT_PER_RUN | _ALWAYS_ZERO | (fields.LATE if "request" in records else set())
    return [key for key in UNITS if key[0] in records and key not in skipped and unit in (None, UNITS[key])]


def attribute(key: tuple[str, str]) -> ast.Attribute:
    """Return the expression that reads a field."""
    return ast.Attribute(ast.Name(key[0], ast.Load()), key[1], ast.Load())


def field_of(node: ast.AST) -> tuple[str, str] | None:
    """Return the field an expression reads, if it is one."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in fields.RECORDS:
        return node.value.id, node.attr
    return None


def number(value: float, digits: int = 2) -> ast.expr:
    """Return a literal rounded to significant digits; whole numbers are written without a point."""
    rounded = tidy(value, digits)
    literal = ast.Constant(int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else abs(rounded))
    if rounded >= 0:
        return literal
    return ast.UnaryOp(ast.USub(), ast.Constant(abs(literal.value)))  # type: ignore[arg-type]


def tidy(value: float, digits: int) -> float:
    """Round to significant digits, within a range that arithmetic bears."""
    if not math.isfinite(value):
        return 0.0
    return float(f"{max(-1e15, min(1e15, value)):.{digits}g}")


def size(rng: random.Random, unit: str) -> float:
    """Return a typical number of a unit."""
    median, spread = SIZES.get(unit, SIZES[FREE])
    value = median * math.exp(rng.gauss(0.0, spread))
    if unit == "fraction":
        return min(value, 0.95)
    return max(1.0, round(value)) if unit in COUNTS and unit != "0 or 1" else value


def unit_of(node: ast.expr) -> str:
    """Return the unit of an expression, as far as it shows."""
    key = field_of(node)
    if key is not None:
        return UNITS.get(key, FREE)
    match node:
        case ast.UnaryOp(operand=operand):
            return unit_of(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            return _sum_unit(unit_of(left), unit_of(right), isinstance(op, ast.Sub))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            units = [unit_of(side) for side in (left, right) if language.literal(side) is None]
            return units[0] if len(units) == 1 and units[0] not in LENGTHS else FREE
        case ast.IfExp(body=body, orelse=orelse):
            return _joint([unit_of(body), unit_of(orelse)])
        case ast.Call(func=ast.Name(id="min" | "max"), args=arguments):
            return _joint([unit_of(argument) for argument in arguments])
        case _:
            return FREE


def _sum_unit(left: str, right: str, minus: bool) -> str:
    if minus and left == right and left in LENGTHS:
        return LENGTHS[left]
    for side in (left, right):
        if side in LENGTHS:
            return side
    return _joint([left, right])


def _joint(units: list[str]) -> str:
    known = {unit for unit in units if unit != FREE}
    return known.pop() if len(known) == 1 else FREE
