"""Features of blocks and of the cache that scores are made of: times in a unit of the traffic's own, logs, regimes.

Knows fields, units and chance; must not know policies or how they are varied.
"""

from __future__ import annotations

import ast
import math
import random

from sim.search import units
from sim.search.grammar import binary, call

FEATURES = (
    ("block", "age"),
    ("block", "gap"),
    ("block", "turn_gap"),
    ("block", "seen"),
    ("block", "seen"),
    ("block", "hits"),
    ("block", "depth"),
    ("block", "residence"),
    ("block", "recompute_cost"),
    ("block", "inferred_turn"),
    ("block", "turn"),
    ("block", "prompt_blocks"),
    ("block", "output_tokens"),
)
SENTINELS = {("block", "gap"), ("block", "turn_gap")}
"""Times that are a billion if nothing is remembered."""
GROWING = {("block", "seen"), ("block", "hits"), ("block", "inferred_turn"), ("block", "turn"), *SENTINELS}
"""Of which more mostly means that a block is asked for again."""
OWN_UNIT = 0.85
"""How often a time is measured in a unit that the traffic gives, else in requests."""


def parse(text: str) -> ast.expr:
    """Return an expression."""
    return ast.parse(text, mode="eval").body


def turnover() -> ast.expr:
    """Return the characteristic time of the cache: requests until as many blocks are evicted as it holds."""
    return parse("cache.capacity_blocks / max(cache.pressure, 0.1)")


def beat() -> ast.expr:
    """Return the characteristic time of the traffic: requests between two turns of a conversation, usually."""
    return parse("max(cache.usual_gap, 1)")


def weight(rng: random.Random, spread: float = 0.9) -> ast.expr:
    """Return a positive number about 1."""
    return units.number(math.exp(rng.gauss(0.0, spread)))


def own_time(rng: random.Random) -> ast.expr:
    """Return a multiple of a characteristic time."""
    if rng.random() < 0.6:
        return binary(weight(rng, 1.2), ast.Mult(), beat())
    return binary(weight(rng, 1.5), ast.Mult(), turnover())


def signed_feature(rng: random.Random) -> tuple[ast.expr, bool]:
    """Return a feature that varies by about 1, and whether it is to count for a block.

    A count or an age on a log scale; a gap as 1 if short, 0 if unknown.
    """
    key = rng.choice(FEATURES)
    return _feature(key, rng), rng.random() < (0.85 if key in GROWING else 0.5)


def _feature(key: tuple[str, str], rng: random.Random) -> ast.expr:
    node: ast.expr = units.attribute(key)
    unit = units.UNITS[key]
    if unit == "steps":
        time = own_time(rng) if rng.random() < OWN_UNIT else _typical(rng, unit)
        if key in SENTINELS:
            return binary(time, ast.Div(), binary(time, ast.Add(), node))
        node = binary(node, ast.Div(), time)
    elif unit == "tokens":
        node = binary(node, ast.Div(), _typical(rng, unit))
    return call("log1p", node)


def _typical(rng: random.Random, unit: str) -> ast.expr:
    return units.number(units.size(rng, unit))


def log_age(rng: random.Random) -> ast.expr:
    """Return what age takes from a block, on a log scale; mostly with a hump: it returns after a while, not at once.

    log1p(a / i) - w log1p(a / j) is highest at a = (j - w i) / (w - 1); the top and i are drawn, j follows.
    """
    unit = beat() if rng.random() < 0.7 else turnover()
    if rng.random() < 0.25:
        return ast.UnaryOp(ast.USub(), _log_share(unit, math.exp(rng.gauss(0.0, 1.0))))
    top, early = 0.35 * math.exp(rng.gauss(0.0, 0.5)), 0.3 * math.exp(rng.gauss(0.0, 0.5))
    steep = rng.uniform(1.4, 2.4)
    late = _log_share(unit, top * (steep - 1.0) + steep * early)
    return binary(_log_share(unit, early), ast.Sub(), binary(units.number(steep), ast.Mult(), late))


def _log_share(unit: ast.expr, scale: float) -> ast.expr:
    scaled = binary(units.number(scale), ast.Mult(), unit)
    return call("log1p", binary(units.attribute(("block", "age")), ast.Div(), scaled))


def share(rng: random.Random) -> ast.expr:
    """Return what kind of traffic it is, from 0 to 1: do requests continue others, do they hit."""
    texts = ("cache.continued", "1 - cache.continued", "1 - cache.continued", "1 - cache.recent_hit_rate")
    return parse(rng.choice(texts))


def regime(rng: random.Random) -> ast.expr:
    """Return a condition on the cache alone: how well it does, and how large it is for its traffic."""
    draw = rng.random()
    if draw < 0.2:
        return parse(f"cache.continued {rng.choice('<>')} {rng.uniform(0.2, 0.9):.2g}")
    if draw < 0.4:
        return parse(f"cache.recent_hit_rate {rng.choice('<>')} {rng.uniform(0.08, 0.9):.2g}")
    if draw < 0.7:  # turnover in requests
        times = math.exp(rng.uniform(math.log(15), math.log(2000)))
        return parse(f"cache.capacity_blocks {rng.choice('<>')} {times:.2g} * cache.pressure")
    if draw < 0.87:  # prompts that fit
        times = math.exp(rng.uniform(math.log(8), math.log(800)))
        return parse(f"cache.capacity_blocks {rng.choice('<>')} {times:.2g} * cache.request_blocks")
    blocks = math.exp(rng.uniform(math.log(20), math.log(300)))
    return parse(f"cache.request_blocks {rng.choice('<>')} {blocks:.2g}")
