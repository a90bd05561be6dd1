"""Where a policy can be varied: every expression in a function, with its type and where it hangs.

Knows the shape of the language; must not know chance or what replaces what.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sim.policy import language
from sim.search.genome import Genome, statements

Kind = Literal["number", "truth"]


@dataclass(frozen=True)
class Site:
    """One expression of a function.

    Attributes:
        function: Name of the function.
        holder: Node the expression hangs on.
        attribute: Attribute of the holder; a list if `index` is not None.
        index: Place in that list.
        kind: Type of the expression.
        root: Whether the expression is returned as it is.
    """

    function: str
    holder: ast.AST
    attribute: str
    index: int | None
    kind: Kind
    root: bool = False

    @property
    def node(self) -> ast.expr:
        """The expression now at this place."""
        value = getattr(self.holder, self.attribute)
        node: ast.expr = value if self.index is None else value[self.index]
        return node

    def replace(self, node: ast.expr) -> None:
        """Put another expression here."""
        if self.index is None:
            setattr(self.holder, self.attribute, node)
        else:
            getattr(self.holder, self.attribute)[self.index] = node


def records(function: str) -> tuple[str, ...]:
    """Return the records a function may read."""
    return language.SIGNATURES.get(function, ())


def sites(genome: Genome, kind: Kind | None = None, functions: tuple[str, ...] | None = None) -> list[Site]:
    """Return the expressions of a genome, of one type and of some functions if given."""
    found: list[Site] = []
    for name, function in genome.functions.items():
        if functions is None or name in functions:
            found.extend(site for site in walk(function) if kind in (None, site.kind))
    return found


def walk(function: ast.FunctionDef) -> Iterator[Site]:
    """Yield the expressions of one function, outer ones first."""
    truth = function.name == "admit"
    for statement in statements(function):
        yield from _statement(statement, function.name, truth)


def _statement(node: ast.stmt, name: str, truth: bool) -> Iterator[Site]:
    match node:
        case ast.Return(value=value) if value is not None and name not in language.HOOKS:
            yield from _below(Site(name, node, "value", None, "truth" if truth else "number", root=True))
        case ast.Assign(value=value):
            yield from _below(Site(name, node, "value", None, "truth" if is_truth(value) else "number"))
        case ast.AugAssign():
            yield from _below(Site(name, node, "value", None, "number"))
        case ast.If(body=body, orelse=orelse):
            yield from _below(Site(name, node, "test", None, "truth"))
            for child in [*body, *orelse]:
                yield from _statement(child, name, truth)
        case ast.For(body=body):
            for child in body:
                yield from _statement(child, name, truth)
        case _:
            return


def _below(site: Site) -> Iterator[Site]:
    yield site
    node, name = site.node, site.function
    match node:
        case ast.BinOp():
            yield from _below(Site(name, node, "left", None, "number"))
            yield from _below(Site(name, node, "right", None, "number"))
        case ast.UnaryOp(op=op) if language.literal(node) is None:
            yield from _below(Site(name, node, "operand", None, "truth" if isinstance(op, ast.Not) else "number"))
        case ast.BoolOp(values=values):
            for index in range(len(values)):
                yield from _below(Site(name, node, "values", index, "truth"))
        case ast.Compare(comparators=comparators):
            yield from _below(Site(name, node, "left", None, "number"))
            for index in range(len(comparators)):
                yield from _below(Site(name, node, "comparators", index, "number"))
        case ast.IfExp():
            yield from _below(Site(name, node, "test", None, "truth"))
            yield from _below(Site(name, node, "body", None, site.kind))
            yield from _below(Site(name, node, "orelse", None, site.kind))
        case ast.Call(args=arguments):
            for index in range(len(arguments)):
                yield from _below(Site(name, node, "args", index, "number"))
        case _:
            return


def is_truth(node: ast.expr) -> bool:
    """Return whether an expression is a truth value."""
    match node:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Constant(value=bool()):
            return True
        case ast.IfExp(body=body):
            return is_truth(body)
        case _:
            return False
