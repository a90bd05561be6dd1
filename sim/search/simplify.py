"""Removes what changes nothing: neutral arithmetic, decided conditions, dead slots and constants, terms no rank sees.

Knows the meaning of the language; must not know chance or scores. A simplified policy ranks and admits as before.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from sim.policy import language
from sim.search import units
from sim.search.fold import Fold, same
from sim.search.genome import Genome, statements
from sim.search.safety import positive

_ROUNDS = 6


def simplify(genome: Genome) -> Genome:
    """Return an equal, smaller genome."""
    result = genome.copy()
    for _ in range(_ROUNDS):
        before = ast.dump(ast.Module(result.body, []))
        result.body = [Fold().visit(node) for node in result.body]
        for function in result.functions.values():
            _flatten(function)
        _rank(result)
        _dead_slots(result)
        _dead_functions(result)
        _dead_constants(result)
        if ast.dump(ast.Module(result.body, [])) == before:
            break
    return result


def _flatten(function: ast.FunctionDef) -> None:
    """Drop statements after a return, unused locals and empty branches."""
    docstring = function.body[: len(function.body) - len(statements(function))]
    body = _straight(statements(function))
    read = {node.id for item in body for node in ast.walk(item) if _loads(node)}  # type: ignore[attr-defined]
    changed = [node.target for item in body for node in ast.walk(item) if isinstance(node, ast.AugAssign)]
    read |= {target.id for target in changed if isinstance(target, ast.Name)}
    kept = [item for item in body if not (_local(item) and _local(item) not in read)]
    function.body = [*docstring, *kept] or [ast.Pass()]


def _straight(body: list[ast.stmt]) -> list[ast.stmt]:
    out: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Pass):
            continue
        if isinstance(node, ast.If):
            node.body, node.orelse = _straight(node.body) or [ast.Pass()], _straight(node.orelse)
            decided = node.test.value if isinstance(node.test, ast.Constant) else None
            if decided is not None:
                out.extend(node.body if decided else node.orelse)
            elif isinstance(node.body[0], ast.Pass) and not node.orelse:
                continue
            else:
                out.append(node)
        else:
            out.append(node)
        if language.returns(out):
            break
    return out


def _loads(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _local(node: ast.stmt) -> str:
    """Return the name a statement assigns if it is a local variable."""
    return node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ""


def _rank(genome: Genome) -> None:
    """Drop what shifts or scales every score alike from a `priority` that is one expression."""
    function = genome.functions.get("priority")
    body = statements(function) if function else []
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        return
    node = body[0].value
    common = _common_exact if genome.scoring == "evict" else _common_always
    kept = [(sign, term) for sign, term in terms(node) if not common(term)]
    if kept and len(kept) < len(list(terms(node))):
        node = join(kept)
    while isinstance(node, ast.BinOp):
        left, right = node.left, node.right
        if isinstance(node.op, ast.Mult) and _scale(left):
            node = right
        elif isinstance(node.op, ast.Mult | ast.Div) and _scale(right):
            node = left
        else:
            break
    body[0].value = node


def _scale(node: ast.expr) -> bool:
    return language.literal(node) is not None and positive(node)


def terms(node: ast.expr, sign: int = 1) -> Iterator[tuple[int, ast.expr]]:
    """Yield the signed terms of a sum, first to last."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield from terms(node.left, sign)
        yield from terms(node.right, sign if isinstance(node.op, ast.Add) else -sign)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from terms(node.operand, -sign)
    else:
        yield sign, node


def join(parts: list[tuple[int, ast.expr]]) -> ast.expr:
    """Return the sum of signed terms."""
    sign, node = parts[0]
    total: ast.expr = node if sign > 0 else ast.UnaryOp(ast.USub(), node)
    for sign, node in parts[1:]:
        total = ast.BinOp(total, ast.Add() if sign > 0 else ast.Sub(), node)
    return total


def _common_always(node: ast.expr) -> bool:
    return language.literal(node) is not None


def _common_exact(node: ast.expr) -> bool:
    """Return whether a term is equal for all blocks at one moment: it reads the cache and constants only."""
    return not any(isinstance(child, ast.Name) and child.id not in ("cache", "math", "np") for child in ast.walk(node))


def _slots(genome: Genome, context: type[ast.expr_context]) -> set[tuple[str, str]]:
    found = (units.field_of(node) for item in genome.body for node in ast.walk(item) if _in(node, context))
    return {key for key in found if key in units.SLOTS}


def _in(node: ast.AST, context: type[ast.expr_context]) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, context)


def _dead_slots(genome: Genome) -> None:
    """Read slots nobody writes as 0; drop writes of slots that only their own updates read."""
    if any(word in genome.head + genome.tail for word in language.HOOKS):
        return
    written = _slots(genome, ast.Store)
    genome.body = [_Unwritten(written).visit(node) for node in genome.body]
    useful = _useful(genome)
    for name in language.HOOKS:
        function = genome.functions.get(name)
        if function is not None:
            function.body = _drop_writes(function.body, useful) or [ast.Pass()]


def _useful(genome: Genome) -> set[tuple[str, str]]:
    """Return the slots that reach a score, an admission or a condition."""
    useful: set[tuple[str, str]] = set()
    while True:
        found = set(useful)
        for function in genome.functions.values():
            for node in ast.walk(function):
                target = _slot_written(node)
                if isinstance(node, ast.stmt) and (target is None or target in useful):
                    found |= _read_by(node)
        if found == useful:
            return useful
        useful = found


def _read_by(node: ast.AST) -> set[tuple[str, str]]:
    """Return the slots a statement reads itself, not through the statements it contains."""
    heads = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    found = {units.field_of(child) for head in heads for child in ast.walk(head) if _in(child, ast.Load)}
    return {key for key in found if key is not None and key in units.SLOTS}


def _slot_written(node: ast.AST) -> tuple[str, str] | None:
    if isinstance(node, ast.Assign):
        return units.field_of(node.targets[0])
    return units.field_of(node.target) if isinstance(node, ast.AugAssign | ast.AnnAssign) else None


def _drop_writes(body: list[ast.stmt], useful: set[tuple[str, str]]) -> list[ast.stmt]:
    kept: list[ast.stmt] = []
    for node in body:
        target = _slot_written(node)
        if target is not None and target not in useful:
            continue
        if isinstance(node, ast.Assign) and same(node.targets[0], node.value):
            continue
        if isinstance(node, ast.If | ast.For):
            node.body = _drop_writes(node.body, useful) or [ast.Pass()]
            node.orelse = _drop_writes(node.orelse, useful)
        kept.append(node)
    return kept


class _Unwritten(ast.NodeTransformer):
    def __init__(self, written: set[tuple[str, str]]) -> None:
        self.written = written

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        key = units.field_of(node)
        dead = key in units.SLOTS and key not in self.written and isinstance(node.ctx, ast.Load)
        return ast.Constant(0) if dead else node


def _dead_functions(genome: Genome) -> None:
    """Drop hooks that do nothing, an `admit` that is always true, and helpers nobody calls."""
    called = {node.id for item in genome.body for node in ast.walk(item) if _loads(node)}  # type: ignore[attr-defined]
    for name, function in genome.functions.items():
        body = statements(function)
        if name in language.HOOKS:
            idle = all(isinstance(node, ast.Pass | ast.For) and not _writes(node) for node in body)
        elif name == "admit":
            idle = len(body) == 1 and isinstance(body[0], ast.Return) and _always(body[0].value)
        else:
            idle = name not in language.SIGNATURES and name not in called and name not in genome.head + genome.tail
        if idle:
            genome.drop(name)


def _writes(node: ast.stmt) -> bool:
    return any(_slot_written(child) for child in ast.walk(node))


def _always(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Constant):
        return bool(node.value)
    return node is not None and units.field_of(node) == ("block", "seen")


def _dead_constants(genome: Genome) -> None:
    read = {node.id for item in genome.body for node in ast.walk(item) if _loads(node)}  # type: ignore[attr-defined]
    for name in genome.constants:
        if name not in read and name not in genome.head + genome.tail:
            genome.drop(name)
