"""Moves on the shape of a policy: admission, hooks with private slots, scoring; and whole policies drawn anew.

Knows the grammar and the contract's functions; must not know partners or scores.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable

from sim.policy import language
from sim.search import units
from sim.search.genome import DOCSTRINGS, Genome, function, statements
from sim.search.grammar import Grammar, binary, call
from sim.search.motifs import log_sum
from sim.search.simplify import simplify
from sim.search.sites import records, sites
from sim.search.variation import Variation

LOG_SUMS = 0.6
"""How many of the policies drawn anew score by a sum of features on a log scale."""


def admission(v: Variation) -> bool:
    """Add an `admit`, replace it, or remove it."""
    if "admit" in v.genome.functions and v.rng.random() < 0.5:
        v.genome.drop("admit")
        return True
    rule = Grammar(v.rng, records("admit")).admission()
    v.genome.put(function("admit", [ast.Return(rule)]))
    return True


def add_hooks(v: Variation) -> bool:
    """Let hooks keep a private number per block, and let `priority` use it."""
    slot = _free_slot(v.genome, "block", v.rng)
    ageing = _free_slot(v.genome, "cache", v.rng)
    root = next((site for site in sites(v.genome, "number", ("priority",)) if site.root), None)
    if slot is None or ageing is None or root is None:
        return False
    motif: Callable[[Variation, str, str], ast.expr] = v.rng.choice((_stamp, _decay, _ageing, _ageing))
    reading = motif(v, slot, ageing)
    if v.rng.random() < 0.4:
        root.replace(reading)
    else:
        unit = units.unit_of(root.node)
        weight = units.number(units.size(v.rng, units.LENGTHS.get(unit, unit)))
        root.replace(binary(root.node, ast.Add(), binary(weight, ast.Mult(), reading)))
    return True


def _free_slot(genome: Genome, record: str, rng: random.Random) -> str | None:
    used = {units.field_of(node) for item in genome.body for node in ast.walk(item)}
    free = sorted(name for name in language.private_slots(record) if (record, name) not in used)
    return free[0] if free and rng.random() < 0.9 else free[-1] if free else None


def _write(record: str, slot: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Attribute(ast.Name(record, ast.Load()), slot, ast.Store())], value)


def _extend(genome: Genome, name: str, statement: ast.stmt) -> None:
    existing = genome.functions.get(name)
    if existing is None:
        genome.put(function(name, [statement]))
    else:
        existing.body = [*existing.body, statement]


def _stamp(v: Variation, slot: str, _: str) -> ast.expr:
    """Remember something of the request, or of the moment, at every use."""
    grammar = Grammar(v.rng, ("request", "cache"))
    unit = v.rng.choice(("tokens", "blocks", "fraction", "turns", "label"))
    value = grammar.field(unit) or units.attribute(("request", "input_tokens"))
    if v.rng.random() < 0.5:
        value = call("log1p", value)
    for name in ("on_insert", "on_hit"):
        _extend(v.genome, name, _write("block", slot, ast.parse(ast.unparse(value), mode="eval").body))
    return units.attribute(("block", slot))


def _decay(v: Variation, slot: str, _: str) -> ast.expr:
    """Count hits so that old ones fade with the gap between accesses."""
    length = v.rng.choice(("gap", "gap_s"))
    unit = units.UNITS["block", length]
    faded = ast.UnaryOp(ast.USub(), units.attribute(("block", length)))
    scale = units.number(units.size(v.rng, unit))
    fading: ast.expr = call("exp", binary(faded, ast.Div(), scale))
    if v.rng.random() < 0.4:
        fading = units.number(v.rng.uniform(0.3, 0.98))
    old = units.attribute(("block", slot))
    _extend(
        v.genome, "on_hit", _write("block", slot, binary(ast.Constant(1), ast.Add(), binary(old, ast.Mult(), fading)))
    )
    return units.attribute(("block", slot))


def _ageing(v: Variation, slot: str, clock: str) -> ast.expr:
    """Add the worth of the last victim, a clock that runs with evictions, to the worth at every use."""
    grammar = Grammar(v.rng, ("block",))
    worth = units.attribute(("block", "seen")) if v.rng.random() < 0.4 else grammar.pure()
    if v.rng.random() < 0.4:
        worth = binary(worth, ast.Mult(), grammar.pure())
    if v.rng.random() < 0.4:
        worth = binary(units.number(units.size(v.rng, units.FREE)), ast.Mult(), worth)
    ticks = units.attribute(("cache", clock))
    for name in ("on_insert", "on_hit"):
        fresh = ast.parse(ast.unparse(binary(ticks, ast.Add(), worth)), mode="eval").body
        _extend(v.genome, name, _write("block", slot, fresh))
    later = call("max", ticks, units.attribute(("block", slot)))
    _extend(v.genome, "on_evict", _write("cache", clock, later))
    reading = units.attribute(("block", slot))
    return reading


def remove_hooks(v: Variation) -> bool:
    """Remove a hook, or all of them."""
    names = [name for name in language.HOOKS if name in v.genome.functions]
    if not names:
        return False
    for name in names if v.rng.random() < 0.4 else [v.rng.choice(names)]:
        v.genome.drop(name)
    return True


def scoring(v: Variation) -> bool:
    """Toggle between scores at eviction and scores at release."""
    v.genome.set_scoring("evict" if v.genome.scoring == "touch" else "touch")
    return True


def neutral(v: Variation) -> bool:
    """Remove what changes nothing."""
    before = ast.dump(ast.Module(v.genome.body, []))
    v.genome.body = simplify(v.genome).body
    return ast.dump(ast.Module(v.genome.body, [])) != before


def redraw(v: Variation) -> bool:
    """Draw `priority` anew; hooks and admission stay."""
    v.genome.put(function("priority", [ast.Return(v.grammar("priority").score())]))
    return True


def draw_policy(rng: random.Random, frame: Genome) -> Genome:
    """Return a whole policy from the grammar in the frame of another."""
    genome = Genome(frame.head, [], frame.tail)
    v = Variation(genome, (), rng)
    if rng.random() < LOG_SUMS:
        log_sum(v)
        return genome
    redraw(v)
    if rng.random() < 0.3:
        add_hooks(v)
    if rng.random() < 0.25:
        admission(v)
    return genome


def describe(genome: Genome) -> None:
    """Give every contract function its plain docstring, since another may have become untrue."""
    for name, node in genome.functions.items():
        if name in DOCSTRINGS:
            node.body = [ast.Expr(ast.Constant(DOCSTRINGS[name])), *statements(node)]
