"""The operator: a child policy from a parent and partners by typed genetic programming; or drawn at random.

A child passes the gate, differs from its parent, keeps within a size and the text outside the EVOLVE-BLOCK, and is
not one of the children proposed before while that can be avoided. Knows sources; must not know prompts or scores
beyond their order.
"""

from __future__ import annotations

import ast
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.search import merging, motifs, mutation, recombine, structure, units
from sim.search.genome import Genome, NotAGenome, fingerprint, split
from sim.search.ledger import Ledger
from sim.search.safety import hazards
from sim.search.simplify import simplify
from sim.search.variation import Move, Variation

Moves = Mapping[str, tuple[Move, float]]

PLAIN_MOVES: Moves = {
    "constant": (mutation.constant, 0.17),
    "insert_term": (mutation.insert_term, 0.16),
    "subtree": (mutation.subtree, 0.11),
    "field": (mutation.field, 0.10),
    "delete_term": (mutation.delete_term, 0.08),
    "condition": (mutation.condition, 0.06),
    "wrap": (mutation.wrap, 0.04),
    "operator": (mutation.operator, 0.03),
    "move_part": (mutation.move_part, 0.01),
    "crossover_subtree": (recombine.crossover_subtree, 0.07),
    "crossover_term": (recombine.crossover_term, 0.05),
    "crossover_function": (recombine.crossover_function, 0.03),
    "admission": (structure.admission, 0.04),
    "add_hooks": (structure.add_hooks, 0.03),
    "remove_hooks": (structure.remove_hooks, 0.02),
    "scoring": (structure.scoring, 0.01),
    "neutral": (structure.neutral, 0.02),
    "redraw": (structure.redraw, 0.02),
}
"""Moves of plain genetic programming with their probabilities; a move that does not apply is drawn again."""

_MOTIFS: Moves = {
    "log_sum": (motifs.log_sum, 0.06),
    "log_term": (motifs.log_term, 0.15),
    "by_share": (motifs.by_share, 0.04),
    "dimensionless": (motifs.dimensionless, 0.05),
    "damp": (motifs.damp, 0.03),
    "regime_switch": (motifs.regime_switch, 0.07),
    "session_state": (motifs.session_state, 0.09),
    "switch": (merging.switch, 0.06),
    "blend": (merging.blend, 0.03),
    "adopt_admission": (merging.adopt_admission, 0.03),
}
MOVES: Moves = {**{name: move for name, move in PLAIN_MOVES.items() if name != "neutral"}, **_MOTIFS}
"""All moves that can change what a policy does."""

DEFAULT_MAX_NODES = 160
LEADER_SHARE = 0.5
"""How often a better partner is varied in the place of the parent."""
_ATTEMPTS = 200
_NOVEL_ATTEMPTS = 150
_MAX_MOVES = 4
_FURTHER_MOVE = 0.3


class NoChild(RuntimeError):
    """No policy could be put into the text: it is refused because of what stands outside the block."""


@dataclass(frozen=True)
class Partner:
    """Another policy, with its score if known."""

    source: str
    score: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A child and how it came about."""

    policy: Policy
    moves: tuple[str, ...]
    fingerprint: str
    attempts: int
    novel: bool

    @property
    def source(self) -> str:
        """The whole file."""
        return self.policy.source


@dataclass
class Operator:
    """Proposes children and remembers them.

    Attributes:
        max_nodes: Size limit in syntax nodes; a larger parent's size is the limit of its children.
        seen: Fingerprints not to be proposed again.
        moves: What children are made with.
        library: Donors beside the partners; together they are drawn as often as the partners.
        ledger: Where children that came to nothing are counted: "gate" and "duplicate text".
    """

    max_nodes: int = DEFAULT_MAX_NODES
    seen: set[str] = field(default_factory=set)
    moves: Moves = field(default_factory=lambda: MOVES)
    library: Sequence[Genome] = ()
    ledger: Ledger = field(default_factory=Ledger)

    def propose(
        self,
        parent: str,
        partners: Sequence[Partner],
        rng: random.Random,
        size: float = 1.0,
        score: float | None = None,
    ) -> Proposal:
        """Return a variation of `parent`, or sometimes of a partner with a higher score in its place.

        The engine draws most parents of a short run without regard to their scores; half the time a partner that
        is known to be better takes the place, and `moves` starts with "leader". A parent that is refused is replaced
        by its best valid partner, else by a random draw; `moves` starts with "restart" then.

        Args:
            parent: Source of the parent.
            partners: Donors for crossover.
            rng: The only source of chance.
            size: Scale of the steps, 1 for ordinary ones.
            score: Score of the parent, if known.

        Raises:
            NoChild: If nothing passes the gate within the parent's frame.
        """
        base, restarted = self._base(parent, partners)
        if base is None:
            frame = _frame(parent)
            return self._search(parent, lambda: (structure.draw_policy(rng, frame), ("restart", "draw")))
        donors = self._with_library(_donors(partners))
        better = [partner for partner in partners if score is not None and _order(partner.score) > score]
        leaders = [] if restarted else _donors(better)
        limit = max(self.max_nodes, Policy.from_source(base.source()).nodes)

        def vary() -> tuple[Genome, tuple[str, ...]]:
            leader = _leader(base, leaders, rng)
            variation = Variation(leader or base.copy(), donors, rng, size)
            moves = [*restarted, *(["leader"] if leader else []), *_apply(variation, self.moves)]
            return variation.genome, tuple(moves)

        hazard = max(hazards(genome.body) for genome in (base, *(genome for genome, _ in leaders)))
        return self._search(parent, vary, limit, hazard, fingerprint(simplify(base).source()))

    def draw(self, frame: str, rng: random.Random) -> Proposal:
        """Return a policy drawn from the grammar, in the frame of `frame` but independent of its block.

        Raises:
            NoChild: If nothing passes the gate within that frame.
        """
        empty = _frame(frame)
        return self._search(frame, lambda: (structure.draw_policy(rng, empty), ("draw",)))

    def _with_library(self, donors: list[tuple[Genome, float]]) -> list[tuple[Genome, float]]:
        if not self.library:
            return donors
        share = sum(weight for _, weight in donors) or 1.0
        return [*donors, *((genome, share / len(self.library)) for genome in self.library)]

    def _base(self, parent: str, partners: Sequence[Partner]) -> tuple[Genome | None, tuple[str, ...]]:
        """Return what to vary: the parent, or in its frame the block of the best partner that is valid there."""
        genome = _valid(parent)
        if genome is not None:
            return genome, ()
        frame = _frame(parent)
        for partner in sorted(partners, key=lambda item: -_order(item.score)):
            donor = _valid(partner.source)
            if donor is not None:
                moved = _valid(Genome(frame.head, donor.body, frame.tail).source())
                if moved is not None:
                    return moved, ("restart",)
        return None, ("restart",)

    def _search(
        self,
        parent: str,
        make: Callable[[], tuple[Genome, tuple[str, ...]]],
        limit: int | None = None,
        hazard: int = 0,
        base: str = "",
    ) -> Proposal:
        """Return the first acceptable genome that `make` gives."""
        limit = limit or self.max_nodes
        same = _fingerprint(parent)
        for attempt in range(1, _ATTEMPTS + 1):
            started = time.perf_counter()
            genome, moves = make()
            policy = _admitted(genome, limit, hazard)
            if policy is None:
                self.ledger.add("gate", seconds=time.perf_counter() - started)
                continue
            mark = fingerprint(policy.source)
            novel = mark not in self.seen
            if mark == same or (mark == base and moves != ("neutral",)) or not (novel or attempt > _NOVEL_ATTEMPTS):
                self.ledger.add("duplicate text", seconds=time.perf_counter() - started)
                continue
            self.seen.add(mark)
            return Proposal(policy, moves, mark, attempt, novel)
        raise NoChild("no policy passes the gate here; repair the text outside the EVOLVE-BLOCK")


def _leader(base: Genome, leaders: Sequence[tuple[Genome, float]], rng: random.Random) -> Genome | None:
    """Return a better policy to vary in the place of `base`; None for `base` itself."""
    if not leaders or rng.random() > LEADER_SHARE:
        return None
    genomes, weights = zip(*leaders, strict=True)
    drawn: Genome = rng.choices(genomes, weights)[0].copy()
    return Genome(base.head, drawn.body, base.tail)


def _apply(variation: Variation, moves: Moves) -> list[str]:
    """Apply one move, sometimes a few; return their names."""
    names, weights = list(moves), [weight for _, weight in moves.values()]
    applied: list[str] = []
    for _ in range(40):
        name = variation.rng.choices(names, weights)[0]
        if moves[name][0](variation):
            applied.append(name)
            if len(applied) >= _MAX_MOVES or variation.rng.random() > _FURTHER_MOVE * variation.size:
                break
    return applied


def _admitted(genome: Genome, limit: int, hazard: int) -> Policy | None:
    """Return a genome's policy, simplified, if it is allowed, small, useful and no more hazardous than its parent."""
    child = simplify(genome)
    structure.describe(child)
    try:
        policy = Policy.from_source(child.source())
    except PolicyRejected:
        return None
    if policy.nodes > limit or hazards(child.body) > hazard or not _reads_block(policy.functions["priority"]):
        return None
    return policy


def _reads_block(function: ast.FunctionDef) -> bool:
    """Return whether a score can differ between blocks."""
    fields = {units.field_of(node) for node in ast.walk(function)}
    return any(key is not None and key[0] == "block" and key[1] not in ("children", "tokens") for key in fields)


@lru_cache(512)
def _valid(source: str) -> Genome | None:
    """Return the genome of a source that passes the gate. It is shared: copy it before changing it."""
    try:
        Policy.from_source(source)
        return Genome.parse(source)
    except (PolicyRejected, NotAGenome):
        return None


def _frame(source: str) -> Genome:
    try:
        head, _, tail = split(source)
    except NotAGenome as error:
        raise NoChild(str(error)) from None
    return Genome(head, [], tail)


@lru_cache(512)
def _fingerprint(source: str) -> str:
    try:
        return fingerprint(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def _order(score: float | None) -> float:
    return score if score is not None and math.isfinite(score) else -math.inf


def _donors(partners: Sequence[Partner]) -> list[tuple[Genome, float]]:
    """Return the valid partners, each once; the n-th best has weight 1 / n."""
    ranked = sorted(partners, key=lambda item: -_order(item.score))
    found: dict[str, Genome] = {}
    for partner in ranked:
        genome = _valid(partner.source)
        if genome is not None:
            found.setdefault(_fingerprint(partner.source), genome)
    return [(genome, 1.0 / rank) for rank, genome in enumerate(found.values(), 1)]


def temperature_size(temperature: float | None) -> float:
    """Return the scale of steps for a sampling temperature; 1 for the customary 0.7."""
    if temperature is None or not math.isfinite(temperature):
        return 1.0
    return min(3.0, max(0.25, temperature / 0.7))
