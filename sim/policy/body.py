"""Checks one function of a policy: statements, expressions, names defined on every path, bounded loops.

Reports through `refuse`; knows the language, not the rest of the file beyond its constants and helpers.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Mapping

from sim.core import fields
from sim.policy import language

Refuse = Callable[[ast.AST, str, str], None]
"""Called with the offending node, the problem and the fix."""


class Body:
    """One function under check."""

    def __init__(
        self,
        node: ast.FunctionDef,
        constants: Mapping[str, ast.expr],
        functions: Mapping[str, ast.FunctionDef],
        refuse: Refuse,
    ) -> None:
        """Check `node`, which may read `constants` and call the helpers among `functions`."""
        self.node, self.constants, self.functions, self.refuse = node, constants, functions, refuse
        self.contract = node.name in language.SIGNATURES
        self.records = language.SIGNATURES.get(node.name, ())
        self.hook = node.name in language.HOOKS
        self.steps = 1

    def read(self) -> None:
        """Report every breach of the language."""
        known: set[str] = set() if self.contract else {argument.arg for argument in self.node.args.args}
        body = self.node.body[1:] if language.is_docstring(self.node.body[0]) else self.node.body
        self._block(body, known)
        if not self.hook and not language.returns(body):
            fix = f"end `{self.node.name}` with a return on every path"
            self.refuse(self.node, f"`{self.node.name}` can end without returning a value", fix)

    def _block(self, body: list[ast.stmt], known: set[str]) -> set[str]:
        """Read statements; return the names certainly assigned after them."""
        for statement in body:
            known = self._statement(statement, known)
        return known

    def _statement(self, node: ast.stmt, known: set[str]) -> set[str]:
        match node:
            case ast.Assign(targets=[target], value=value):
                self._expression(value, known)
                return known | self._target(target)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._expression(value, known)
                return known | self._target(target)
            case ast.AugAssign(target=target, op=op, value=value):
                self._operator(node, op)
                self._expression(value, known)
                if isinstance(target, ast.Name):
                    self._name(target, known)
                return known | self._target(target)
            case ast.If(test=test, body=body, orelse=orelse):
                self._expression(test, known)
                then, other = self._block(body, set(known)), self._block(orelse, set(known))
                return other if language.returns(body) else then if language.returns(orelse) else then & other
            case ast.Return(value=value):
                self._return(node, value, known)
                return known
            case ast.For():
                return self._loop(node, known)
            case ast.Pass():
                return known
            case _:
                kind = type(node).__name__
                fix = "use assignments, if, return and for … in range(number)"
                self.refuse(node, f"{kind} is not allowed in a policy", fix)
                return known

    def _return(self, node: ast.Return, value: ast.expr | None, known: set[str]) -> None:
        if self.hook:
            if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
                self.refuse(node, f"hook `{self.node.name}` returns a value", "write a bare return")
        elif value is None:
            self.refuse(node, f"`{self.node.name}` returns nothing here", "return a number")
        else:
            self._expression(value, known)

    def _loop(self, node: ast.For, known: set[str]) -> set[str]:
        match node.iter:
            case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(steps))], keywords=[]):
                pass
            case _:
                steps = -1
        if not 0 <= steps <= language.MAX_LOOP_STEPS or node.orelse or not isinstance(node.target, ast.Name):
            self.refuse(
                node,
                "this loop is not bounded",
                f"write for i in range(n): with a literal n <= {language.MAX_LOOP_STEPS}",
            )
            return known
        self.steps *= max(steps, 1)
        if self.steps > language.MAX_LOOP_STEPS:
            self.refuse(node, f"nested loops exceed {language.MAX_LOOP_STEPS} steps", "use smaller ranges")
        self._block(node.body, known | self._target(node.target))
        self.steps //= max(steps, 1)
        return known

    def _target(self, target: ast.expr) -> set[str]:
        match target:
            case ast.Name(id=name):
                if language.reserved(name) or name in self.constants or name in self.functions:
                    self.refuse(target, f"`{name}` cannot be assigned", "use another local name")
                return {name}
            case ast.Attribute(value=ast.Name(id=record), attr=attribute) if record in self.records:
                private = record in ("block", "cache") and attribute in language.private_slots(record)
                if not (private and self.hook):
                    fix = f"write only {record}.s0, {record}.s1, … and only in on_hit, on_insert, on_evict"
                    self.refuse(target, f"`{record}.{attribute}` cannot be assigned in `{self.node.name}`", fix)
            case _:
                self.refuse(target, "this cannot be assigned", "assign a local name or a private slot")
        return set()

    def _operator(self, node: ast.AST, op: ast.operator) -> None:
        if not isinstance(op, language.OPERATORS):
            self.refuse(node, f"operator {type(op).__name__} is not allowed", "use + - * / ** and math.floor")

    def _name(self, node: ast.Name, known: set[str]) -> None:
        name = node.id
        if name in known or name in self.constants:
            return
        if name in self.records:
            self.refuse(node, f"`{name}` is used as a value", f"read one of its fields, {name}.…")
        else:
            near = difflib.get_close_matches(name, [*known, *self.constants, "block", "cache", "request"], 1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            self.refuse(node, f"`{name}` may be undefined here{hint}", "assign it on every path before it is read")

    def _expression(self, node: ast.expr, known: set[str]) -> None:
        match node:
            case ast.Constant():
                if language.literal(node) is None and not isinstance(node.value, bool):
                    self.refuse(node, f"{language.shown(node)} is not a number", "use a finite number")
            case ast.Name():
                self._name(node, known)
            case ast.Attribute():
                self._attribute(node)
            case ast.BinOp(left=left, op=op, right=right):
                self._operator(node, op)
                self._all((left, right), known)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
                self._expression(operand, known)
            case ast.BoolOp(values=values):
                self._all(values, known)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                if not all(isinstance(op, language.COMPARISONS) for op in ops):
                    self.refuse(node, "this comparison is not allowed", "use < <= > >= == !=")
                self._all((left, *comparators), known)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._all((test, body, orelse), known)
            case ast.Call():
                self._call(node, known)
            case _:
                fix = "use numbers, names, fields, arithmetic, comparisons, a if c else b, and calls of math functions"
                self.refuse(node, f"{type(node).__name__} is not allowed in a policy", fix)

    def _all(self, nodes: list[ast.expr] | tuple[ast.expr, ...], known: set[str]) -> None:
        for node in nodes:
            self._expression(node, known)

    def _attribute(self, node: ast.Attribute) -> None:
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if (owner, node.attr) in language.CONSTANTS:
            return
        if owner not in self.records:
            fix = f"read fields of {', '.join(self.records)} only" if self.records else "pass the value as a parameter"
            self.refuse(node, f"attribute `.{node.attr}` is outside the contract", fix)
            return
        names = [field.name for field in fields.RECORDS[owner]]
        if (owner, node.attr) in fields.LATE and "request" in self.records:
            fix = "read it in `priority` or `on_evict`"
            self.refuse(node, f"`{owner}.{node.attr}` is not known before the request has finished", fix)
        elif node.attr not in names:
            near = difflib.get_close_matches(node.attr, names, 1)
            fix = f"did you mean {owner}.{near[0]}?" if near else f"{owner} has: {', '.join(names)}"
            self.refuse(node, f"`{owner}.{node.attr}` does not exist", fix)

    def _call(self, node: ast.Call, known: set[str]) -> None:
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            self.refuse(node, "only plain positional arguments are allowed", "pass numbers by position")
            return
        self._all(node.args, known)
        match node.func:
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in language.MATH:
                wanted = (2, 2) if name == "pow" else (1, 1)
            case ast.Attribute(value=ast.Name(id="np"), attr=name) if name in language.NUMPY:
                wanted = (2, 2) if name in ("minimum", "maximum") else (1, 1)
            case ast.Name(id=name) if name in language.BUILTINS:
                wanted = language.BUILTINS[name]
            case ast.Name(id=name) if name in self.functions and name not in language.SIGNATURES:
                count = len(self.functions[name].args.args)
                wanted = (count, count)
            case _:
                called = ast.unparse(node.func)[:40]
                allowed = ", ".join([*language.BUILTINS, *(f"math.{name}" for name in language.MATH)])
                self.refuse(node, f"`{called}` cannot be called", f"call {allowed}, or a helper defined above")
                return
        if not wanted[0] <= len(node.args) <= wanted[1]:
            self.refuse(node, f"`{name}` gets {len(node.args)} arguments", f"give it {wanted[0]} to {wanted[1]}")
