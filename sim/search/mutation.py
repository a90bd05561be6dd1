"""Moves that change one policy: subtrees, fields, constants, terms, conditions, operators.

Every move takes a `Variation` and returns whether it changed something. Knows sites and the grammar; must not know
files, partners or scores.
"""

from __future__ import annotations

import ast
import math

from sim.policy import language
from sim.search import units
from sim.search.grammar import binary, call
from sim.search.safety import nonnegative, positive
from sim.search.sites import Site, records, sites, walk
from sim.search.units import FREE, LENGTHS
from sim.search.variation import Variation, node_count

_SPREAD = 0.6
_SWAPPED_CALLS = {"min": "max", "max": "min", "sqrt": "log1p", "log1p": "sqrt"}
_SWAPPED_ORDERS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.Gt, ast.LtE),
    ast.LtE: (ast.GtE, ast.Lt),
    ast.Gt: (ast.Lt, ast.GtE),
    ast.GtE: (ast.LtE, ast.Gt),
    ast.Eq: (ast.NotEq, ast.GtE),
    ast.NotEq: (ast.Eq, ast.Lt),
}


def in_contract(found: list[Site]) -> list[Site]:
    """Keep the sites whose function has records to read."""
    return [site for site in found if records(site.function)]


def constant(v: Variation) -> bool:
    """Multiply a literal by a log-normal number, or step a small whole one."""
    places: list[tuple[ast.AST, str, int | None]] = [
        (site.holder, site.attribute, site.index) for site in sites(v.genome, "number") if _literal(site.node)
    ]
    places += [(node, "value", None) for node in v.genome.constants.values()]
    if not places:
        return False
    holder, attribute, index = v.rng.choice(places)
    site = Site("", holder, attribute, index, "number")
    value = language.literal(site.node)
    assert value is not None
    site.replace(units.number(_perturbed(v, value), 3))
    return True


def _literal(node: ast.expr) -> bool:
    return language.literal(node) is not None


def _perturbed(v: Variation, value: float) -> float:
    draw = v.rng.random()
    if value == 0:
        return units.size(v.rng, FREE) * v.rng.choice((-1, 1))
    if draw < 0.04:
        return -value
    if value.is_integer() and abs(value) <= 8 and draw < 0.7:
        return value + v.rng.choice((-1, 1)) * (1 + int(v.rng.random() * v.size))
    return value * math.exp(v.rng.gauss(0.0, _SPREAD * v.size))


def subtree(v: Variation) -> bool:
    """Replace an expression by one the grammar draws, of the same type and unit."""
    site = v.pick(in_contract(sites(v.genome)))
    if site is None:
        return False
    grammar = v.grammar(site.function)
    if site.kind == "truth":
        site.replace(grammar.admission() if site.root else grammar.truth(2))
    elif site.root and v.rng.random() < 0.3:
        site.replace(grammar.score())
    else:
        unit = units.unit_of(site.node)
        if unit == FREE and v.rng.random() < 0.5:
            unit = v.rng.choice(("steps", "accesses", "blocks", "seconds", "tokens"))
        site.replace(grammar.number(unit))
    return True


def field(v: Variation) -> bool:
    """Replace a field by another, mostly of the same unit; time that counts from an origin only by such time."""
    found = [site for site in in_contract(sites(v.genome)) if units.field_of(site.node) in units.UNITS]
    site = v.pick([site for site in found if units.field_of(site.node) not in units.SLOTS])
    if site is None:
        return False
    old = units.field_of(site.node)
    assert old is not None
    unit = units.UNITS[old]
    allowed = records(site.function)
    every = [key for key in units.readable(allowed) if key != old]
    alike = [key for key in every if units.UNITS[key] == unit]
    if unit in LENGTHS:
        alike = [key for key in every if units.UNITS[key] in LENGTHS]
        every = alike
    keys = alike if alike and v.rng.random() < 0.65 else [key for key in every if units.UNITS[key] not in LENGTHS]
    still = [key for key in keys if key not in units.MOVING]
    keys = still if still and v.rng.random() < 0.7 else keys or alike
    if not keys:
        return False
    site.replace(units.attribute(v.rng.choice(keys)))
    return True


def insert_term(v: Variation) -> bool:
    """Add a term to a number, or multiply it by a factor."""
    found = [site for site in in_contract(sites(v.genome, "number")) if not _literal(site.node)]
    roots = [site for site in found if site.root]
    site = v.pick(roots if roots and v.rng.random() < 0.65 else found)
    if site is None:
        return False
    grammar, unit = v.grammar(site.function), units.unit_of(site.node)
    if unit not in LENGTHS and v.rng.random() < 0.3:
        factor = grammar.ratio() if v.rng.random() < 0.3 else grammar.pure()
        site.replace(binary(site.node, ast.Mult(), factor))
        return True
    op: ast.operator = ast.Add() if v.rng.random() < 0.7 else ast.Sub()
    site.replace(binary(site.node, op, grammar.bonus(unit)))
    return True


def delete_term(v: Variation) -> bool:
    """Replace an operation by one of its operands, or drop a hook's statement."""
    found = [site for site in sites(v.genome) if _parts(site.node)]
    writes = [
        (function, node)
        for function in v.genome.functions.values()
        for node in function.body
        if function.name in language.HOOKS and isinstance(node, ast.Assign | ast.AugAssign)
    ]
    if writes and (not found or v.rng.random() < 0.15):
        function, node = v.rng.choice(writes)
        function.body = [item for item in function.body if item is not node] or [ast.Pass()]
        return True
    site = v.pick(found)
    if site is None:
        return False
    site.replace(v.rng.choice(_parts(site.node)))
    return True


def _parts(node: ast.expr) -> list[ast.expr]:
    """Return the operands that could stand for the whole."""
    match node:
        case ast.BinOp(left=left, right=right):
            return [left, right]
        case ast.BoolOp(values=values):
            return list(values)
        case ast.IfExp(body=body, orelse=orelse):
            return [body, orelse]
        case ast.Call(args=arguments):
            return [argument for argument in arguments if language.literal(argument) is None]
        case ast.UnaryOp(operand=operand) if language.literal(node) is None:
            return [operand]
        case _:
            return []


def condition(v: Variation) -> bool:
    """Let an expression hold under a condition only."""
    site = v.pick(in_contract(sites(v.genome)))
    if site is None:
        return False
    grammar, node = v.grammar(site.function), site.node
    if site.kind == "truth":
        op: ast.boolop = ast.And() if v.rng.random() < 0.5 else ast.Or()
        site.replace(ast.BoolOp(op, [node, grammar.truth(1)]))
        return True
    unit = units.unit_of(node)
    draw = v.rng.random()
    if draw < 0.4:
        other: ast.expr = binary(node, ast.Add(), grammar.bonus(unit))
    elif draw < 0.7 and unit not in LENGTHS:
        other = binary(grammar.constant(FREE), ast.Mult(), node)
    else:
        other = grammar.number(unit, 1)
    site.replace(ast.IfExp(grammar.truth(1), node, other))
    return True


def wrap(v: Variation) -> bool:
    """Put a number into `min`, `max`, a logarithm or a root."""
    found = [
        site
        for site in in_contract(sites(v.genome, "number"))
        if not _literal(site.node) and units.unit_of(site.node) not in LENGTHS
    ]
    site = v.pick(found)
    if site is None:
        return False
    grammar, node = v.grammar(site.function), site.node
    if nonnegative(node) and v.rng.random() < 0.5:
        site.replace(call(v.rng.choice(("log1p", "sqrt")), node))
    else:
        limit = grammar.constant(units.unit_of(node))
        site.replace(call(v.rng.choice(("min", "min", "max")), node, limit))
    return True


def operator(v: Variation) -> bool:
    """Exchange an operator, a comparison or a function for its neighbour."""
    found = [site for site in sites(v.genome) if isinstance(site.node, ast.BinOp | ast.Compare | ast.BoolOp | ast.Call)]
    site = v.pick(found)
    if site is None:
        return False
    node = site.node
    if isinstance(node, ast.BinOp):
        return _swap_arithmetic(v, site, node)
    if isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return True
    if isinstance(node, ast.Compare):
        node.ops[0] = v.rng.choice(_SWAPPED_ORDERS[type(node.ops[0])])()
        return True
    assert isinstance(node, ast.Call)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in _SWAPPED_CALLS:
        return False
    node.func = call(_SWAPPED_CALLS[name]).func
    return True


def _swap_arithmetic(v: Variation, site: Site, node: ast.BinOp) -> bool:
    match node.op:
        case ast.Add():
            node.op = ast.Sub()
        case ast.Sub():
            node.op = ast.Add()
        case ast.Mult():
            bottom = node.right if positive(node.right) else binary(node.right, ast.Add(), ast.Constant(1))
            site.replace(binary(node.left, ast.Div(), bottom))
        case _:
            node.op = ast.Mult()
    return True


def move_part(v: Variation) -> bool:
    """Exchange two expressions of one type within a function."""
    names = [name for name in v.genome.functions if records(name)]
    if not names:
        return False
    found = list(walk(v.genome.functions[v.rng.choice(names)]))
    first = v.pick(found)
    if first is None:
        return False
    inside = {id(child) for child in ast.walk(first.node)}
    others = [
        site
        for site in found
        if site.kind == first.kind
        and id(site.node) not in inside
        and first.node not in list(ast.walk(site.node))
        and node_count(site.node) < 40
    ]
    second = v.pick(others)
    if second is None:
        return False
    one, two = first.node, second.node
    first.replace(two)
    second.replace(one)
    return True
