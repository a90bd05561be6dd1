"""Policies with something taken away: a field replaced by a constant, admission dropped, eviction made LRU.

Knows syntax trees of policies. Must not know traces or scores.
"""

from __future__ import annotations

import ast

from sim.core import fields
from sim.policy.program import Policy


def fields_read(policy: Policy) -> list[tuple[str, str]]:
    """Return what a policy reads, as (record, field), in the order of the contract."""
    tree = _Plain().visit(ast.parse(policy.source))
    read = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return [(record, field.name) for record, known in fields.RECORDS.items() for field in known
            if (record, field.name) in read]  # fmt: skip


def without_field(policy: Policy, record: str, field: str, constant: float) -> Policy:
    """Return a policy that reads a constant in the place of a field; a private number is still written."""
    tree = _Replaced(record, field, constant).visit(_Plain().visit(ast.parse(policy.source)))
    return _policy(tree, f"{policy.name} - {record}.{field}")


def without_admission(policy: Policy) -> Policy | None:
    """Return a policy that lets everything in; None if it did before."""
    tree = ast.parse(policy.source)
    kept = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "admit")]
    if len(kept) == len(tree.body):
        return None
    tree.body = kept
    return _policy(tree, f"{policy.name} - admit")


def with_lru_eviction(policy: Policy) -> Policy:
    """Return a policy that evicts as LRU does; admission and hooks stay."""
    tree = ast.parse(policy.source)
    lru = ast.parse("def priority(block, cache):\n    return block.released").body[0]
    tree.body = [
        lru if isinstance(node, ast.FunctionDef) and node.name == "priority" else node
        for node in tree.body
        if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCORING")
    ]
    return _policy(tree, f"{policy.name} - priority")


class _Plain(ast.NodeTransformer):
    """Writes `a.b += c` as `a.b = a.b + c`, so that what is read is seen."""

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        read = ast.parse(ast.unparse(node.target), mode="eval").body
        return ast.Assign([node.target], ast.BinOp(read, node.op, node.value))


class _Replaced(ast.NodeTransformer):
    def __init__(self, record: str, field: str, constant: float) -> None:
        self.record, self.field, self.constant = record, field, constant

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        named = isinstance(node.value, ast.Name) and node.value.id == self.record and node.attr == self.field
        return ast.Constant(self.constant) if named and isinstance(node.ctx, ast.Load) else node


def _policy(tree: ast.Module, name: str) -> Policy:
    return Policy.from_source(ast.unparse(ast.fix_missing_locations(tree)) + "\n", name)
