"""Moves that put in a useful part whole: dimensionless features, state a session hands on, regimes, log sums.

Small steps seldom find these, since half of one is worth nothing. Knows the grammar and the contract; must not know
partners or scores.
"""

from __future__ import annotations

import ast
import math
import random

from sim.policy import language
from sim.search import units
from sim.search.features import log_age, own_time, parse, regime, share, signed_feature, turnover, weight
from sim.search.genome import Genome, function
from sim.search.grammar import binary, call
from sim.search.safety import nonnegative
from sim.search.sites import Site, sites
from sim.search.variation import Variation

SHARED = 0.35
"""How often a term of a log sum counts in one kind of traffic more than in the other."""
TERMS = (1, 4)
"""Fewest and most terms of a log sum, its age aside."""
_CARRIED = ("turn count", "gap", "accesses", "hit fraction", "new blocks", "blocks behind")


def log_sum(v: Variation) -> bool:
    """Let `priority` be a weighted sum of features on a log scale, beginning with the age of the block."""
    total = log_age(v.rng)
    for _ in range(v.rng.randint(*TERMS)):
        node, wanted = signed_feature(v.rng)
        total = binary(total, ast.Add() if wanted else ast.Sub(), _weighted(v.rng, node))
    v.genome.set_scoring("evict")
    v.genome.put(function("priority", [ast.Return(total)]))
    return True


def log_term(v: Variation) -> bool:
    """Add a weighted feature on a log scale to `priority`."""
    root = _root(v)
    return root is not None and _add(v, root, *signed_feature(v.rng))


def dimensionless(v: Variation) -> bool:
    """Put an age, gap or residence in proportion to a time of the traffic's own."""
    found = [
        site
        for site in sites(v.genome, "number", ("priority", "admit", "on_hit"))
        if units.field_of(site.node) in (("block", "age"), ("block", "gap"), ("block", "residence"))
    ]
    if not found:
        return False
    site = v.rng.choice(found)
    part = binary(site.node, ast.Div(), own_time(v.rng))
    site.replace(call("log1p", part) if v.rng.random() < 0.5 else part)
    return True


def regime_switch(v: Variation) -> bool:
    """Let a term, an admission rule or a number hold in one regime of the cache only."""
    if "admit" in v.genome.functions and v.rng.random() < 0.3:
        root = next((site for site in sites(v.genome, "truth", ("admit",)) if site.root), None)
        if root is not None:
            root.replace(ast.BoolOp(ast.Or(), [regime(v.rng), root.node]))
            return True
    terms = [site for site in sites(v.genome, "number", ("priority",)) if _is_term(site)]
    if not terms:
        return False
    site = v.rng.choice(terms)
    kept: ast.expr = ast.Constant(0)
    if v.rng.random() < 0.4:
        kept = binary(units.number(v.rng.choice((0.1, 0.3, 3.0, 10.0))), ast.Mult(), site.node)
    site.replace(ast.IfExp(regime(v.rng), site.node, kept))
    return True


def by_share(v: Variation) -> bool:
    """Let a term count the more, the more the traffic is of one kind."""
    terms = [site for site in sites(v.genome, "number", ("priority",)) if _is_term(site)]
    if not terms:
        return False
    site = v.rng.choice(terms)
    site.replace(binary(share(v.rng), ast.Mult(), site.node))
    return True


def _is_term(site: Site) -> bool:
    """Return whether an expression is a summand that is no time counted from an origin."""
    holder = site.holder
    summand = isinstance(holder, ast.BinOp) and isinstance(holder.op, ast.Add | ast.Sub)
    return summand and units.unit_of(site.node) not in units.LENGTHS


def session_state(v: Variation) -> bool:
    """Let a request carry a number along its prefix, from the blocks it hits to those it inserts, and score by it.

    Hooks are called first to last, hits before insertions, so a cache slot written at the last hit is read at the
    first insertion.
    """
    slot, courier, root = _free(v.genome, "block"), _free(v.genome, "cache"), _root(v)
    if slot is None or courier is None or root is None:
        return False
    kind = v.rng.choice(_CARRIED)
    here, carried = f"block.{slot}", f"cache.{courier}"
    at_hit, at_insert = _carrying(kind, here, carried)
    for name, lines in (("on_hit", at_hit), ("on_insert", at_insert)):
        _extend(v.genome, name, [line for text in lines for line in ast.parse(text).body])
    reading = parse(f"math.log1p(max({here}, 0))") if kind != "hit fraction" else parse(here)
    return _add(v, root, reading, v.rng.random() < 0.6)


def _carrying(kind: str, here: str, carried: str) -> tuple[list[str], list[str]]:
    """Return what `on_hit` and `on_insert` do; nothing is carried where nothing was hit."""
    handed = f"({carried} if request.hit_blocks > 0 else 0)"
    match kind:
        case "turn count":
            return [f"{carried} = {here}"], [f"{here} = {handed} + 1"]
        case "gap":
            return [f"{here} = min(block.gap, 100000)", f"{carried} = {here}"], [f"{here} = {handed}"]
        case "accesses":
            return [f"{here} = {here} + 1", f"{carried} = {here}"], [f"{here} = {handed}"]
        case "hit fraction":
            line = f"{here} = request.hit_blocks / max(request.blocks, 1)"
        case "new blocks":
            line = f"{here} = request.blocks - request.known_blocks"
        case _:
            line = f"{here} = request.blocks - block.depth"
    return [line], [line]


def _root(v: Variation) -> Site | None:
    return next((site for site in sites(v.genome, "number", ("priority",)) if site.root), None)


def _add(v: Variation, root: Site, part: ast.expr, wanted: bool) -> bool:
    """Add a feature about 1 to a score, weighted in the score's own unit."""
    unit = units.unit_of(root.node)
    factor: ast.expr
    if unit in ("instant", "instant_s", "order"):
        length = units.LENGTHS[unit]
        factor = units.number(units.size(v.rng, length))
        if unit == "instant" and v.genome.scoring == "evict" and v.rng.random() < 0.6:
            factor = binary(weight(v.rng), ast.Mult(), turnover())
    else:
        factor = _light(v.rng)
    term = binary(factor, ast.Mult(), part)
    if v.rng.random() < SHARED:
        term = binary(share(v.rng), ast.Mult(), term)
    root.replace(binary(root.node, ast.Add() if wanted else ast.Sub(), term))
    return True


def _light(rng: random.Random) -> ast.expr:
    """Return a number about a sixth: what corrects the age should not outweigh it."""
    return units.number(0.15 * math.exp(rng.gauss(0.0, 0.8)))


def _weighted(rng: random.Random, node: ast.expr) -> ast.expr:
    term = binary(_light(rng), ast.Mult(), node)
    return binary(share(rng), ast.Mult(), term) if rng.random() < SHARED else term


def damp(v: Variation) -> bool:
    """Put a feature that cannot be negative on a log scale."""
    found = [
        site
        for site in sites(v.genome, "number", ("priority",))
        if language.literal(site.node) is None
        and nonnegative(site.node)
        and not isinstance(site.node, ast.Call)
        and units.unit_of(site.node) not in units.LENGTHS
    ]
    if not found:
        return False
    site = v.rng.choice(found)
    site.replace(binary(weight(v.rng), ast.Mult(), call("log1p", site.node)))
    return True


def _free(genome: Genome, record: str) -> str | None:
    used = {units.field_of(node) for item in genome.body for node in ast.walk(item)}
    return next((name for name in sorted(language.private_slots(record)) if (record, name) not in used), None)


def _extend(genome: Genome, name: str, lines: list[ast.stmt]) -> None:
    existing = genome.functions.get(name)
    if existing is None:
        genome.put(function(name, lines))
    else:
        existing.body = [*existing.body, *lines]
