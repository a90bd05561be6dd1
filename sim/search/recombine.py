"""Moves between policies: subtrees and whole functions of a partner.

Knows sites; must not know files or scores.
"""

from __future__ import annotations

import ast
import copy

from sim.policy import language
from sim.search import units
from sim.search.genome import Genome, statements
from sim.search.mutation import in_contract
from sim.search.sites import Site, records, sites
from sim.search.variation import Variation, node_count

_MAX_GRAFT = 60


def crossover_subtree(v: Variation) -> bool:
    """Replace an expression by one of a partner's, of the same type, mostly of the same unit."""
    donor = v.donor()
    target = v.pick(in_contract(sites(v.genome)))
    if donor is None or target is None:
        return False
    grafts = [(node, unit) for node, unit in _grafts(donor, target) if ast.dump(node) != ast.dump(target.node)]
    unit = units.unit_of(target.node)
    alike = [node for node, other in grafts if other == unit]
    nodes = alike if alike and v.rng.random() < 0.7 else [node for node, _ in grafts]
    if not nodes:
        return False
    target.replace(v.rng.choice(nodes))
    return True


def crossover_term(v: Variation) -> bool:
    """Add a partner's term to a number of the same unit, or its condition to a condition."""
    donor = v.donor()
    target = v.pick([site for site in in_contract(sites(v.genome)) if language.literal(site.node) is None])
    if donor is None or target is None:
        return False
    grafts = _grafts(donor, target)
    if target.kind == "truth":
        if not grafts:
            return False
        op: ast.boolop = ast.And() if v.rng.random() < 0.5 else ast.Or()
        target.replace(ast.BoolOp(op, [target.node, v.rng.choice(grafts)[0]]))
        return True
    unit = units.unit_of(target.node)
    length = units.LENGTHS.get(unit, unit)
    nodes = [
        node
        for node, other in grafts
        if other in (length, units.FREE) and language.literal(node) is None and not isinstance(node, ast.Attribute)
    ]
    if not nodes:
        return False
    op2: ast.operator = ast.Add() if v.rng.random() < 0.7 else ast.Sub()
    target.replace(ast.BinOp(target.node, op2, v.rng.choice(nodes)))
    return True


def _grafts(donor: Genome, target: Site) -> list[tuple[ast.expr, str]]:
    """Return copies of a donor's expressions that may stand at a target, with their units."""
    found: list[tuple[ast.expr, str]] = []
    allowed = set(records(target.function)) | {"math", "np", *language.BUILTINS}
    for site in sites(donor, target.kind):
        graft = closed(donor, site)
        if graft is None or node_count(graft) > _MAX_GRAFT:
            continue
        names = {node.id for node in ast.walk(graft) if isinstance(node, ast.Name)}
        if names <= allowed:
            found.append((graft, units.unit_of(graft)))
    return found


def closed(donor: Genome, site: Site) -> ast.expr | None:
    """Return an expression with local names and module constants put in; None if a local changes on the way."""
    function = donor.functions[site.function]
    bindings: dict[str, ast.expr] = {name: node.value for name, node in donor.constants.items()}
    for node in statements(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in bindings:
                return None
            bindings[name] = _Bind(bindings).visit(copy.deepcopy(node.value))
    changed = {
        node.target.id
        for node in ast.walk(function)
        if isinstance(node, ast.AugAssign | ast.For) and isinstance(node.target, ast.Name)
    }
    if changed & {node.id for node in ast.walk(site.node) if isinstance(node, ast.Name)}:
        return None
    bound: ast.expr = _Bind(bindings).visit(copy.deepcopy(site.node))
    return bound


class _Bind(ast.NodeTransformer):
    def __init__(self, bindings: dict[str, ast.expr]) -> None:
        self.bindings = bindings

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.bindings.get(node.id, node))


def crossover_function(v: Variation) -> bool:
    """Take a partner's `admit`, or its `priority` together with the hooks it lives on."""
    donor = v.donor()
    if donor is None:
        return False
    names = [name for name in donor.functions if name in ("admit", "priority")]
    if not names:
        return False
    name = v.rng.choice(names)
    taken = [name]
    if _reads_slots(donor.functions[name]):
        taken += [hook for hook in language.HOOKS if hook in donor.functions]
        for hook in language.HOOKS:
            v.genome.drop(hook)
    if not bring_names(v.genome, donor):
        return False
    for item in taken:
        v.genome.put(donor.functions[item])
    if name == "priority":
        v.genome.set_scoring(donor.scoring)
    return True


def _reads_slots(function: ast.FunctionDef) -> bool:
    return any(units.field_of(node) in units.SLOTS for node in ast.walk(function))


def bring_names(genome: Genome, donor: Genome) -> bool:
    """Bring a donor's constants and helpers along; False if a name means something else here."""
    for name, node in donor.constants.items():
        if name in genome.functions or (name in genome.constants and _differ(genome.constants[name], node)):
            return False
        if name not in genome.constants:
            genome.body.insert(_top(genome), node)
    for name, function in donor.functions.items():
        if name in language.SIGNATURES:
            continue
        if name in genome.constants or (name in genome.functions and _differ(genome.functions[name], function)):
            return False
        if name not in genome.functions:
            first = next((i for i, node in enumerate(genome.body) if _is_contract(node)), len(genome.body))
            genome.body.insert(first, function)
    return True


def _differ(one: ast.AST, two: ast.AST) -> bool:
    return ast.dump(one) != ast.dump(two)


def _top(genome: Genome) -> int:
    return 1 if genome.body and language.is_docstring(genome.body[0]) else 0


def _is_contract(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in language.SIGNATURES
