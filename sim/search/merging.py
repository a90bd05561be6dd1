"""Moves that join two whole policies: each keeps its hooks and private slots, and the score is chosen or summed.

Knows sites, slots and the recombination of parts; must not know files or scores.
"""

from __future__ import annotations

import ast

from sim.policy import language
from sim.search import units
from sim.search.features import regime, weight
from sim.search.genome import Genome, function, statements
from sim.search.recombine import bring_names, closed
from sim.search.sites import Site, sites
from sim.search.variation import Variation


def switch(v: Variation) -> bool:
    """Score by a partner's whole `priority` in one regime of the cache; its hooks come along."""
    joined = _joined(v)
    if joined is None:
        return False
    own, other = joined
    v.genome.put(function("priority", [ast.Return(ast.IfExp(regime(v.rng), own, other))]))
    return True


def blend(v: Variation) -> bool:
    """Add a partner's whole `priority`, weighted, where both measure the same; its hooks come along."""
    joined = _joined(v)
    if joined is None or not _alike(*joined):
        return False
    own, other = joined
    total = ast.BinOp(own, ast.Add(), ast.BinOp(weight(v.rng), ast.Mult(), other))
    v.genome.put(function("priority", [ast.Return(total)]))
    return True


def _alike(one: ast.expr, two: ast.expr) -> bool:
    return units.unit_of(one) == units.unit_of(two) and ast.dump(one) != ast.dump(two)


def adopt_admission(v: Variation) -> bool:
    """Take a partner's `admit` with the hooks it lives on, in slots of their own."""
    refusing = [(genome, share) for genome, share in v.partners if "admit" in genome.functions]
    donor = Variation(v.genome, refusing, v.rng).donor()
    if donor is None:
        return False
    trial = v.genome.copy()
    if not _renamed(trial, donor) or not bring_names(trial, donor):
        return False
    trial.put(donor.functions["admit"])
    if _reads_slots(donor.functions["admit"]):
        _add_hooks(trial, donor)
    v.genome.body = trial.body
    return True


def _joined(v: Variation) -> tuple[ast.expr, ast.expr] | None:
    """Return both scores as expressions, with the partner's hooks added to the genome; None if they do not fit."""
    donor = v.donor()
    if donor is None or "touch" in (donor.scoring, v.genome.scoring):
        return None
    trial = v.genome.copy()
    if not _renamed(trial, donor) or not bring_names(trial, donor):
        return None
    pair = [_whole(genome) for genome in (trial, donor)]
    if None in pair or ast.dump(pair[0]) == ast.dump(pair[1]):  # type: ignore[arg-type]
        return None
    if _reads_slots(donor.functions["priority"]):
        _add_hooks(trial, donor)
    v.genome.body = trial.body
    own, other = pair
    assert own is not None
    assert other is not None
    return own, other


def _whole(genome: Genome) -> ast.expr | None:
    """Return `priority` as one expression, if it is one after its locals are put in."""
    roots: list[Site] = [site for site in sites(genome, "number", ("priority",)) if site.root]
    straight = all(isinstance(node, ast.Assign | ast.Return) for node in statements(genome.functions["priority"]))
    return closed(genome, roots[0]) if len(roots) == 1 and straight else None


def _renamed(genome: Genome, donor: Genome) -> bool:
    """Move a donor's private slots to ones that are free in a genome; False if there are too few."""
    names: dict[tuple[str, str], str] = {}
    for record in ("block", "cache"):
        taken, wanted = _used(genome, record), sorted(_used(donor, record))
        free = sorted(language.private_slots(record) - taken)
        if len(free) < len(wanted):
            return False
        names |= {(record, old): new for old, new in zip(wanted, free, strict=False)}
    for item in donor.body:
        for node in ast.walk(item):
            key = units.field_of(node)
            if key in names and isinstance(node, ast.Attribute):
                node.attr = names[key]
    return True


def _used(genome: Genome, record: str) -> set[str]:
    keys = {units.field_of(node) for item in genome.body for node in ast.walk(item)}
    return {key[1] for key in keys if key in units.SLOTS and key[0] == record}


def _reads_slots(node: ast.FunctionDef) -> bool:
    return any(units.field_of(child) in units.SLOTS for child in ast.walk(node))


def _add_hooks(genome: Genome, donor: Genome) -> None:
    """Append a donor's hooks to those of the genome; local names of the two are told apart."""
    for name in language.HOOKS:
        theirs = donor.functions.get(name)
        if theirs is None:
            continue
        mine = genome.functions.get(name)
        added = [_Locals().visit(node) for node in statements(theirs)]
        genome.put(function(name, [*(statements(mine) if mine else []), *added]))


class _Locals(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Name:
        local = node.id not in {*language.BUILTINS, "block", "request", "cache", "math", "np", "range"}
        if local and (node.id.islower() and not node.id.endswith("_b")):
            node.id += "_b"
        return node
