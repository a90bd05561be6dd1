"""The setting of one variation: the genome being changed, its partners, chance, and how far to go.

Knows genomes; must not know which moves there are.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim.search.genome import Genome
from sim.search.grammar import Grammar
from sim.search.sites import Site, records


@dataclass
class Variation:
    """What a move works on; moves change `genome` in place.

    Attributes:
        genome: The child so far.
        partners: Other policies with their weight as donors.
        rng: The only source of chance.
        size: 1 for ordinary steps, more for larger ones.
    """

    genome: Genome
    partners: Sequence[tuple[Genome, float]]
    rng: random.Random
    size: float = 1.0

    def grammar(self, function: str) -> Grammar:
        """Return a grammar for one function."""
        touch = self.genome.scoring == "touch" and function == "priority"
        return Grammar(self.rng, records(function), touch)

    def pick(self, found: Sequence[Site]) -> Site | None:
        """Draw a site, one in `priority` or `admit` rather than in a hook or helper; None without any."""
        if not found:
            return None
        weights = [3.0 if site.function in ("priority", "admit") else 1.0 for site in found]
        return self.rng.choices(found, weights)[0]

    def donor(self) -> Genome | None:
        """Draw a partner; None without any."""
        if not self.partners:
            return None
        genomes, weights = zip(*self.partners, strict=True)
        drawn: Genome = self.rng.choices(genomes, weights)[0]
        return drawn.copy()


Move = Callable[[Variation], bool]
"""Changes the genome in place; returns whether it did."""


def node_count(node: ast.AST) -> int:
    """Return the number of syntax nodes below a node."""
    return sum(1 for _ in ast.walk(node))
