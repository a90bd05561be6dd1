"""The grammar: draws typed expressions of the policy language, from a number of some unit to a whole score.

Everything drawn is finite by construction: logarithms and roots of what cannot be negative, division by what cannot be
zero. Knows fields, units and chance; must not know parents, scores or files.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable

from sim.search import units
from sim.search.units import LENGTHS

FREQUENCY = (("block", "seen"), ("block", "seen"), ("block", "hits"))
WORTH = (("block", "recompute_cost"), ("block", "prefix_tokens"), ("block", "depth"), ("block", "turn"))
STILL_ANCHORS = (("block", "last_access"), ("block", "last_access"), ("block", "released"), ("block", "last_access_s"))
MOVING_SHARE = 0.3
"""Chance to consider fields that move by themselves: scores that read one cost more to evaluate."""
SCALED_SHARE = 0.35
"""Chance that a length of time is a multiple of the size of the cache."""
LABEL_SHARE = 0.2
"""Chance to consider labels and turns among all fields: most traces leave them 0."""


def binary(left: ast.expr, op: ast.operator, right: ast.expr) -> ast.BinOp:
    """Return an operation."""
    return ast.BinOp(left, op, right)


def call(name: str, *arguments: ast.expr) -> ast.Call:
    """Return a call of a builtin, or of a function of `math`."""
    builtin = name in ("min", "max", "abs")
    called: ast.expr = ast.Name(name, ast.Load())
    if not builtin:
        called = ast.Attribute(ast.Name("math", ast.Load()), name, ast.Load())
    return ast.Call(called, list(arguments), [])


class Grammar:
    """Draws expressions for one function."""

    def __init__(self, rng: random.Random, records: tuple[str, ...], touch: bool = False) -> None:
        """Draw with `rng`, reading `records`; with `touch`, no field that is meaningless at touch time."""
        self.rng, self.records = rng, records
        self.touch = touch

    def constant(self, unit: str) -> ast.expr:
        """Return a typical number of a unit; a length of time sometimes as a share of the time the cache turns over.

        A block nobody uses lives for about `capacity_blocks` releases, so that share suits every cache size.
        """
        unit = LENGTHS.get(unit, unit)
        if unit in units.PER_BLOCK and "cache" in self.records and self.rng.random() < SCALED_SHARE:
            share = units.PER_BLOCK[unit] * math.exp(self.rng.gauss(0.0, 1.3))
            return binary(units.number(share), ast.Mult(), units.attribute(("cache", "capacity_blocks")))
        return units.number(units.size(self.rng, unit))

    def field(self, unit: str | None = None) -> ast.expr | None:
        """Return a field, of one unit if given; None if the records have none."""
        keys = units.readable(self.records, unit)
        if self.touch:
            keys = [key for key in keys if key not in units.MOVING]
        if not keys:
            return None
        if self.rng.random() > MOVING_SHARE:
            keys = [key for key in keys if key not in units.MOVING] or keys
        if unit is None and self.rng.random() > LABEL_SHARE:
            keys = [key for key in keys if units.UNITS[key] not in ("label", "turns")] or keys
        return units.attribute(self.rng.choice(keys))

    def count(self) -> ast.expr:
        """Return a small number that cannot be negative: a frequency, a turn, a depth."""
        if self.rng.random() < 0.6:
            return units.attribute(self.rng.choice(FREQUENCY))
        unit = self.rng.choice(("accesses", "blocks", "turns", "0 or 1", "label", "first-token prefills", "tokens"))
        return self.field(unit) or units.attribute(("block", "seen"))

    def damped(self, node: ast.expr, unit: str) -> ast.expr:
        """Return a number that grows slower than one which cannot be negative."""
        draw = self.rng.random()
        if draw < 0.4:
            limit = self.rng.randint(1, 8) if unit in units.COUNTS else units.size(self.rng, unit)
            return call("min", node, units.number(limit))
        if draw < 0.6:
            return call("log1p", node)
        if draw < 0.75:
            return call("sqrt", node)
        if draw < 0.85:
            return binary(node, ast.Div(), binary(node, ast.Add(), self.constant(unit)))
        return node

    def pure(self) -> ast.expr:
        """Return a number without unit, about 1, that cannot be negative."""
        draw = self.rng.random()
        node = self.count()
        unit = units.unit_of(node)
        if draw < 0.7:
            return self.damped(node, unit)
        if draw < 0.85:
            return self.ratio(node)
        length = self.rng.choice(("steps", "seconds"))
        aged = self.field(length)
        if aged is None:
            return self.damped(node, unit)
        return call("exp", binary(ast.UnaryOp(ast.USub(), aged), ast.Div(), self.constant(length)))

    def ratio(self, top: ast.expr | None = None) -> ast.expr:
        """Return one number that cannot be negative over another that is positive."""
        top = self.count() if top is None else top
        unit = self.rng.choice(("steps", "seconds", "blocks", "accesses", "tokens"))
        bottom = self.field(unit)
        if bottom is None:
            return top
        return binary(top, ast.Div(), binary(bottom, ast.Add(), self.constant(unit)))

    def bonus(self, unit: str) -> ast.expr:
        """Return a term of a unit, to be added to something of that unit or measured from it."""
        length = LENGTHS.get(unit, unit)
        draw = self.rng.random()
        if draw < 0.25:
            times = units.attribute(self.rng.choice(FREQUENCY))
            bounded = call("min", times, units.number(self.rng.randint(1, 6)))
            return binary(
                self.constant(length), ast.Mult(), bounded if self.rng.random() < 0.7 else call("log1p", times)
            )
        if draw < 0.5:
            return binary(self.constant(length), ast.Mult(), self.pure())
        if draw < 0.72:
            return ast.IfExp(self.truth(1), self.constant(length), ast.Constant(0))
        same = self.field(length)
        if draw < 0.85 and same is not None:
            term = call("min", same, self.constant(length))
            return term if self.rng.random() < 0.4 else binary(units.number(self.rng.uniform(0.1, 2)), ast.Mult(), term)
        return binary(self.constant(length), ast.Mult(), self.count())

    def number(self, unit: str, depth: int = 2) -> ast.expr:
        """Return an expression of a unit."""
        draw = self.rng.random()
        plain = self.field(unit)
        if unit in LENGTHS:
            anchor = plain or self.constant(unit)
            return self._signed(anchor, self.bonus(unit)) if depth > 0 and draw < 0.5 else anchor
        if depth <= 0 or draw < 0.35:
            return plain if plain is not None and self.rng.random() < 0.75 else self.constant(unit)
        if draw < 0.55:
            return self._signed(plain or self.constant(unit), self.bonus(unit))
        if draw < 0.7:
            return ast.IfExp(self.truth(depth - 1), self.number(unit, depth - 1), self.number(unit, depth - 1))
        if draw < 0.85:
            return call(self.rng.choice(("min", "max")), plain or self.bonus(unit), self.constant(unit))
        return binary(self.constant(unit), ast.Mult(), self.pure())

    def _signed(self, left: ast.expr, right: ast.expr) -> ast.expr:
        return binary(left, ast.Add() if self.rng.random() < 0.75 else ast.Sub(), right)

    def truth(self, depth: int = 1) -> ast.expr:
        """Return a condition."""
        draw = self.rng.random()
        if "cache" in self.records and draw > 0.95:
            size = units.number(math.exp(self.rng.uniform(math.log(500), math.log(50_000))))
            order = self.rng.choice((ast.Gt(), ast.Lt()))
            return ast.Compare(units.attribute(("cache", "capacity_blocks")), [order], [size])
        if depth > 0 and draw < 0.2:
            op: ast.boolop = ast.And() if self.rng.random() < 0.5 else ast.Or()
            return ast.BoolOp(op, [self.truth(depth - 1), self.truth(depth - 1)])
        field = self.field() if self.rng.random() < 0.6 else self.count()
        left = field if field is not None else self.count()
        unit = units.unit_of(left)
        if unit in LENGTHS or draw > 0.84:
            return self._compare_two(unit if unit in LENGTHS else None, left)
        return ast.Compare(left, [self._order(unit)], [self.constant(unit)])

    def _compare_two(self, instant: str | None, left: ast.expr) -> ast.expr:
        """Compare two fields of one unit, or a field with a multiple of another."""
        unit = instant or units.unit_of(left)
        other = self.field(unit)
        if other is None or ast.dump(other) == ast.dump(left):
            fallback = units.attribute(self.rng.choice(FREQUENCY))
            return ast.Compare(fallback, [self._order("accesses")], [self.constant("accesses")])
        right = self._signed(other, self.constant(unit)) if instant else other
        return ast.Compare(left, [self._order(unit)], [right])

    def _order(self, unit: str) -> ast.cmpop:
        if unit in ("label", "0 or 1") and self.rng.random() < 0.5:
            return ast.Eq() if unit == "label" else ast.Gt()
        return self.rng.choice((ast.Gt(), ast.GtE(), ast.Lt(), ast.LtE()))

    def score(self) -> ast.expr:
        """Return a whole `priority`: recency with bonus terms, or the worth of a block."""
        shapes: tuple[Callable[[], ast.expr], ...] = (self._recency, self._recency, self._worth, self._classes)
        return self.rng.choice(shapes)()

    def _recency(self) -> ast.expr:
        anchor = self.rng.choice(STILL_ANCHORS)
        node: ast.expr = units.attribute(anchor)
        for _ in range(self.rng.choice((0, 1, 1, 2, 2, 3))):
            node = self._signed(node, self.bonus(units.UNITS[anchor]))
        return node

    def _worth(self) -> ast.expr:
        node: ast.expr = units.attribute(self.rng.choice(FREQUENCY))
        draw = self.rng.random()
        if draw < 0.4:
            node = binary(node, ast.Mult(), units.attribute(self.rng.choice(WORTH)))
        if self.rng.random() < 0.7:
            node = self.ratio(node)
        if self.rng.random() < 0.5:
            anchor = self.rng.choice(STILL_ANCHORS)
            share = units.number(1.0 / units.size(self.rng, LENGTHS[units.UNITS[anchor]]))
            node = binary(node, ast.Add(), binary(share, ast.Mult(), units.attribute(anchor)))
        return node

    def _classes(self) -> ast.expr:
        anchor = self.rng.choice(STILL_ANCHORS)
        unit = units.UNITS[anchor]
        high = binary(units.attribute(anchor), ast.Add(), self.constant(unit))
        return ast.IfExp(self.truth(1), high, units.attribute(anchor))

    def admission(self) -> ast.expr:
        """Return a whole `admit`."""
        draw = self.rng.random()
        seen = ast.Compare(units.attribute(("block", "seen")), [ast.Gt()], [units.number(self.rng.randint(1, 3))])
        if draw < 0.4:
            return ast.BoolOp(ast.Or(), [seen, self.truth(1)])
        return seen if draw < 0.5 else self.truth(2)
