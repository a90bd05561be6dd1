"""The policy language: which names, calls and statements exist. A definition, not a check.

Knows Python syntax nodes and the names of the contract; must not know numba or the simulator.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from sim.core import fields

MAX_SOURCE_BYTES = 20_000
MAX_NODES = 500
MAX_LOOP_STEPS = 64
MAX_DEPTH = 100
"""Most levels of nesting; Python's and numba's own compilers give up somewhere above."""

SIGNATURES: dict[str, tuple[str, ...]] = {
    "priority": ("block", "cache"),
    "admit": ("block", "request", "cache"),
    "on_hit": ("block", "request", "cache"),
    "on_insert": ("block", "request", "cache"),
    "on_evict": ("block", "cache"),
}
"""Contract functions and their parameters; only `priority` is required."""

HOOKS = ("on_hit", "on_insert", "on_evict")
SCORING = ("evict", "touch")

MATH = ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "pow", "floor", "ceil", "fabs", "tanh", "atan")
NUMPY = ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "floor", "ceil", "abs", "tanh", "minimum", "maximum")
BUILTINS = {"min": (2, 8), "max": (2, 8), "abs": (1, 1), "float": (1, 1), "int": (1, 1), "round": (1, 1)}
CONSTANTS = {("math", "pi"), ("math", "e"), ("np", "pi"), ("np", "e")}

OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


@dataclass(frozen=True)
class Finding:
    """One reason why a policy is refused."""

    line: int
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}. Fix: {self.fix}"


class PolicyRejected(ValueError):
    """A policy broke the contract; `findings` says where, why and what to do."""

    def __init__(self, name: str, findings: list[Finding]) -> None:
        self.name, self.findings = name, findings
        super().__init__(f"{name}: " + "; ".join(str(finding) for finding in findings))

    def __reduce__(self) -> tuple[type, tuple[str, list[Finding]]]:
        return type(self), (self.name, self.findings)  # the default would call it with the message alone


def is_docstring(node: ast.stmt) -> bool:
    """Return whether a statement is a bare string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def literal(node: ast.expr | None) -> float | None:
    """Return the number a literal stands for, or None if it is not a finite one."""
    sign = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = (-1.0 if isinstance(node.op, ast.USub) else 1.0), node.operand
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        return None
    return sign * float(node.value) if abs(node.value) < 1e300 else None


def private_slots(record: str) -> set[str]:
    """Return the writable fields of a record."""
    return {field.name for field in fields.RECORDS[record] if field.unit == "yours"}


def shown(node: ast.Constant) -> str:
    """Return a literal for a message, however long it is."""
    try:
        return repr(node.value)[:40]
    except ValueError:
        return "a number with thousands of digits"


def reserved(name: str) -> bool:
    """Return whether a name belongs to the contract."""
    contract = {*SIGNATURES, *fields.RECORDS, *BUILTINS, "math", "np", "range", "SCORING"}
    return name in contract or name.startswith("_")


def returns(body: list[ast.stmt]) -> bool:
    """Return whether a block certainly ends in a return."""
    if not body:
        return False
    last = body[-1]
    return isinstance(last, ast.Return) or (isinstance(last, ast.If) and returns(last.body) and returns(last.orelse))


def complexity(function: ast.FunctionDef) -> int:
    """Return the size of a function: its nodes without docstring, annotations, contexts and operator tokens."""
    skip = (ast.expr_context, ast.operator, ast.cmpop, ast.unaryop, ast.boolop)
    body = function.body[1:] if is_docstring(function.body[0]) else function.body
    nodes = [node for statement in body for node in ast.walk(statement)]
    notes = [child for node in nodes if isinstance(node, ast.AnnAssign) for child in ast.walk(node.annotation)]
    return 1 + sum(not isinstance(node, skip) for node in nodes) - sum(not isinstance(note, skip) for note in notes)


def depth(tree: ast.AST) -> int:
    """Return the levels of nesting of a syntax tree."""
    level, nodes = 0, [tree]
    while nodes:
        level += 1
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node)]
    return level
