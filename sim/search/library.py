"""The shipped policies as donors: what is known to work somewhere is material for crossover and for a new start.

Knows the files of `sim.registry`; must not know chance or scores.
"""

from __future__ import annotations

import ast
from functools import cache

from sim.registry import load_policy, policies
from sim.search.genome import Genome, statements


@cache
def library() -> tuple[tuple[str, Genome], ...]:
    """Return every shipped policy by name, without its docstrings. They are shared: copy one before changing it."""
    found = []
    for name in policies():
        genome = Genome.parse(load_policy(name).source)
        genome.body = [node for node in genome.body if not isinstance(node, ast.Expr)]
        for function in genome.functions.values():
            function.body = statements(function)
        found.append((name, genome))
    return tuple(found)
