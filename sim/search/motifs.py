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
from sim.search.genome import Genome, function
from sim.search.grammar import binary, call
from sim.search.safety import nonnegative
from sim.search.sites import Site, sites
from sim.search.variation import Variation

_FEATURES = (
    ("block", "age"),
    ("block", "gap"),
    ("block", "gap"),
    ("block", "seen"),
    ("block", "seen"),
    ("block", "hits"),
    ("block", "depth"),
    ("block", "residence"),
    ("block", "recompute_cost"),
    ("block", "turn"),
)
_CARRIED = ("turn count", "gap", "accesses", "hit fraction", "prompt blocks", "blocks behind")


def parse(text: str) -> ast.expr:
    """Return an expression."""
    return ast.parse(text, mode="eval").body


def turnover() -> ast.expr:
    """Return the characteristic time of the cache: requests until as many blocks are evicted as it holds."""
    return parse("cache.capacity_blocks / max(cache.pressure, 0.1)")


def weight(rng: random.Random, spread: float = 0.9) -> ast.expr:
    """Return a positive number about 1."""
    return units.number(math.exp(rng.gauss(0.0, spread)))


def log_feature(rng: random.Random) -> ast.expr:
    """Return a feature on a log scale; times are measured in turnovers of the cache, or in requests."""
    key = rng.choice(_FEATURES)
    node: ast.expr = units.attribute(key)
    if units.UNITS[key] == "steps":
        share = weight(rng, 1.5)
        unit = binary(share, ast.Mult(), turnover()) if rng.random() < 0.6 else units.number(units.size(rng, "steps"))
        node = binary(node, ast.Div(), unit)
    return call("log1p", node)


def log_sum(v: Variation) -> bool:
    """Let `priority` be a weighted sum of features on a log scale, beginning with the age of the block."""
    aged = binary(units.attribute(("block", "age")), ast.Div(), binary(weight(v.rng, 1.2), ast.Mult(), turnover()))
    total: ast.expr = ast.UnaryOp(ast.USub(), call("log1p", aged))
    for _ in range(v.rng.randint(1, 4)):
        total = _plus(v.rng, total, binary(weight(v.rng), ast.Mult(), log_feature(v.rng)))
    v.genome.set_scoring("evict")
    v.genome.put(function("priority", [ast.Return(total)]))
    return True


def log_term(v: Variation) -> bool:
    """Add a weighted feature on a log scale to `priority`."""
    root = _root(v)
    return root is not None and _add(v, root, log_feature(v.rng))


def dimensionless(v: Variation) -> bool:
    """Put an age, gap or residence in proportion to the turnover of the cache."""
    found = [
        site
        for site in sites(v.genome, "number", ("priority", "admit", "on_hit"))
        if units.field_of(site.node) in (("block", "age"), ("block", "gap"), ("block", "residence"))
    ]
    if not found:
        return False
    site = v.rng.choice(found)
    share = binary(site.node, ast.Div(), binary(weight(v.rng, 1.2), ast.Mult(), turnover()))
    site.replace(call("log1p", share) if v.rng.random() < 0.5 else share)
    return True


def regime(rng: random.Random) -> ast.expr:
    """Return a condition on the cache alone: how well it does, and how large it is for its traffic."""
    draw = rng.random()
    if draw < 0.3:
        return parse(f"cache.recent_hit_rate {rng.choice('<>')} {rng.uniform(0.08, 0.9):.2g}")
    if draw < 0.65:  # turnover in requests
        times = math.exp(rng.uniform(math.log(15), math.log(2000)))
        return parse(f"cache.capacity_blocks {rng.choice('<>')} {times:.2g} * cache.pressure")
    if draw < 0.85:  # prompts that fit
        times = math.exp(rng.uniform(math.log(8), math.log(800)))
        return parse(f"cache.capacity_blocks {rng.choice('<>')} {times:.2g} * cache.request_blocks")
    blocks = math.exp(rng.uniform(math.log(20), math.log(300)))
    return parse(f"cache.request_blocks {rng.choice('<>')} {blocks:.2g}")


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
    return _add(v, root, reading)


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
            share = f"{here} = request.hit_blocks / max(request.blocks, 1)"
        case "prompt blocks":
            share = f"{here} = request.blocks"
        case _:
            share = f"{here} = request.blocks - block.depth"
    return [share], [share]


def _root(v: Variation) -> Site | None:
    return next((site for site in sites(v.genome, "number", ("priority",)) if site.root), None)


def _add(v: Variation, root: Site, feature: ast.expr) -> bool:
    """Add a feature about 1 to a score, weighted in the score's own unit."""
    unit = units.unit_of(root.node)
    factor: ast.expr
    if unit in ("instant", "instant_s", "order"):
        length = units.LENGTHS[unit]
        factor = units.number(units.size(v.rng, length))
        if unit == "instant" and v.genome.scoring == "evict" and v.rng.random() < 0.6:
            factor = binary(weight(v.rng), ast.Mult(), turnover())
    else:
        factor = weight(v.rng)
    root.replace(_plus(v.rng, root.node, binary(factor, ast.Mult(), feature)))
    return True


def _plus(rng: random.Random, left: ast.expr, right: ast.expr) -> ast.expr:
    return binary(left, ast.Add() if rng.random() < 0.6 else ast.Sub(), right)


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
