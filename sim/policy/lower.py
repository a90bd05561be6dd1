"""Lowers checked policy functions to plain arithmetic on record fields, for numba and for the pure-Python twin.

Derived fields become their expressions, literals become floats (or hidden cache fields when lifted for tuning), calls
become private names that each back end defines. Knows syntax only; must not know how either back end runs the result.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping

from sim.core import fields
from sim.policy import language

_DERIVED = {
    (record, field.name): ast.parse(field.expression, mode="eval").body
    for record, entries in fields.RECORDS.items()
    for field in entries
    if field.expression
}
_RENAMED = {"abs": "fabs", "fabs": "fabs", "minimum": "min", "maximum": "max", "round": "rint", "int": "trunc"}


def lower(
    function: ast.FunctionDef, constants: Mapping[str, ast.expr], lifted: Mapping[tuple[int, int], int]
) -> ast.FunctionDef:
    """Return the lowered copy of a checked function.

    Args:
        function: A function the gate let through.
        constants: What replaces each module constant.
        lifted: Position (line, column) of a literal to the index of the hidden cache field that replaces it.
    """
    lowered = copy.deepcopy(function)
    lowered.decorator_list, lowered.returns = [], None
    for argument in lowered.args.args:
        argument.annotation = None
    if language.is_docstring(lowered.body[0]):
        lowered.body = lowered.body[1:] or [ast.Pass()]
    contract = function.name in language.SIGNATURES
    hook = function.name in language.HOOKS
    lowered = _Lowering(constants, lifted if contract else {}, function.name == "admit", hook).visit(lowered)
    if hook:
        lowered.body.append(ast.Return(ast.Constant(0.0)))
    fixed: ast.FunctionDef = ast.fix_missing_locations(lowered)
    return fixed


def constant(value: float, node: ast.expr, lifted: Mapping[tuple[int, int], int]) -> ast.expr:
    """Return a literal, or the hidden field it was lifted to."""
    index = lifted.get((node.lineno, node.col_offset))
    if index is None:
        return ast.Constant(float(value))
    return ast.Attribute(ast.Name("cache", ast.Load()), f"k{index}", ast.Load())


def lower_value(value: ast.expr, lifted: Mapping[tuple[int, int], int]) -> ast.expr:
    """Return the lowered literal of a module constant."""
    lowered: ast.expr = _Lowering({}, lifted, False, False).visit(copy.deepcopy(value))
    return lowered


class _Lowering(ast.NodeTransformer):
    def __init__(
        self, constants: Mapping[str, ast.expr], lifted: Mapping[tuple[int, int], int], truth: bool, hook: bool
    ) -> None:
        self.constants, self.lifted, self.truth, self.hook = constants, lifted, truth, hook

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return node
        return constant(node.value, node, self.lifted)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.constants.get(node.id, node)) if isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        assert isinstance(node.value, ast.Name)
        if node.value.id in ("math", "np"):
            return ast.Name(f"_{node.attr}", ast.Load())
        return copy.deepcopy(_DERIVED.get((node.value.id, node.attr), node))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id  # type: ignore[attr-defined]
        known = isinstance(node.func, ast.Attribute) or name in language.BUILTINS
        called = f"_{_RENAMED.get(name, name)}" if known else name
        return ast.Call(ast.Name(called, ast.Load()), [self.visit(argument) for argument in node.args], [])

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        if self.hook:
            return ast.Return(ast.Constant(0.0))
        assert node.value is not None
        value = self.visit(node.value)
        return ast.Return(ast.IfExp(value, ast.Constant(1.0), ast.Constant(0.0)) if self.truth else value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        assert node.value is not None
        return ast.Assign([self.visit(node.target)], self.visit(node.value))

    def visit_For(self, node: ast.For) -> ast.stmt:
        assert isinstance(node.target, ast.Name)
        counter = f"_{node.target.id}"
        number = ast.Call(ast.Name("_float", ast.Load()), [ast.Name(counter, ast.Load())], [])
        body = [ast.Assign([node.target], number), *(self.visit(statement) for statement in node.body)]
        return ast.For(ast.Name(counter, ast.Store()), node.iter, body, [])
