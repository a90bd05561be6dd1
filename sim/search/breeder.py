"""Breeding: children whose behaviour is new, the best of them on the screen as the answer, a new lineage when stuck.

Around the operator, which knows only texts. Knows memory, lineages, probes and the screen; must not know prompts or
the engine.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.score import REJECTED
from sim.search.genome import NotAGenome, fingerprint, split
from sim.search.ledger import Ledger
from sim.search.library import library
from sim.search.lineage import Lineages
from sim.search.memory import Known, Memory
from sim.search.operator import NoChild, Operator, Partner, Proposal
from sim.search.probe import Behaviour, Unsound, behaviour
from sim.search.settings import Settings
from sim.search.tuning import Tuning

ENGINE_SHARE = 0.35
"""How often the engine's parent is varied although the memory holds better ones: its niches are worth visiting."""
POOL, DONORS = 24, 8
"""Best programs of a lineage that are varied, and best programs of the run that are donors."""
LIBRARY_START = 0.3
"""How often a lineage starts from a shipped policy, else from a draw."""
_TRIES = 60


class Screened(Protocol):
    """What a screen says of a policy."""

    @property
    def score(self) -> float:
        """Score on the screen."""
        ...

    @property
    def stage(self) -> str:
        """Where it ended."""
        ...

    @property
    def refs(self) -> int:
        """Block references replayed."""
        ...


class Screen(Protocol):
    """Scores the text of a policy cheaply, isolated from this process."""

    def measure(self, source: str) -> Screened:
        """Return the outcome; never raises for anything the text contains."""
        ...


@dataclass(frozen=True)
class Child:
    """An answer and how it came about."""

    policy: Policy
    moves: tuple[str, ...]
    lineage: int
    screened: float | None


class Breeder:
    """Proposes children for a run; safe to use from several threads, whose screening overlaps."""

    def __init__(self, settings: Settings, tuning: Tuning | None = None) -> None:
        """Breed as `settings` say; `tuning` fits the constants of what was screened."""
        self.settings, self.tuning = settings, tuning or Tuning(settings)
        self.memory = Memory()
        self.lineages = Lineages(settings.restart_after, settings.taboo_distance)
        self.seen: set[str] = set()
        self._moves: dict[str, tuple[str, ...]] = {}
        self._busy: set[str] = set()
        """Children other threads are about to choose from."""
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._screen: Screen | None = None

    def see(self, source: str) -> None:
        """Never propose the text of a program again."""
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError), self._lock:
            self.seen.add(fingerprint(source))

    def note(self, source: str, score: float | None, screened: float | None = None) -> None:
        """Remember a program that a prompt shows, with its score, or that a tuner made, with what it scored there."""
        try:
            mark = fingerprint(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return  # no program, hence no child either
        with self._lock:
            self.seen.add(mark)
            known = self.memory.known.get(mark)
            if known is None:
                known = self.memory.add(Known(source, mark, _behaviour(source), lineage=self.lineages.current & ~1))
            known.sent = True
            known.score = known.score if score is None else score
            known.screened = known.screened if screened is None else screened

    def breed(self, parent: str, partners: Sequence[Partner], rng: random.Random, size: float, ledger: Ledger) -> Child:
        """Return a child of the engine's parent, or of a better program, that does what none did before.

        Args:
            parent: Source the engine wants varied; what stands outside its block is kept.
            partners: Donors the prompt shows.
            rng: The only source of chance.
            size: Scale of the steps.
            ledger: Where counts and seconds of what was refused go.

        Raises:
            NoChild: If no policy fits the text around the block.
        """
        with self._lock:
            restarted = self.lineages.step(self.memory)
            candidates = [
                self._novel(parent, partners, rng, size, ledger) for _ in range(max(1, self.settings.screen_children))
            ]
            self._busy |= {item.mark for item in candidates}
            if restarted:
                ledger.add("restart")
        if self.settings.screen_children > 0:
            for item in candidates:
                self._screened(item, ledger)
        with self._lock:
            chosen = self._choose(candidates, rng)
            chosen.sent = True
            self._busy -= {item.mark for item in candidates}
            ledger.add("screened out", sum(item is not chosen for item in candidates))
        chosen = self._settled(chosen, rng, ledger)
        policy = Policy.from_source(_framed(chosen.source, parent))
        return Child(policy, self._moves[chosen.mark], chosen.lineage, chosen.screened)

    def _loaded_screen(self) -> Screen:
        with self._loading:
            if self._screen is None:
                module, _, name = self.settings.screen.partition(":")
                factory: Callable[[], Screen] = getattr(importlib.import_module(module), name)
                self._screen = factory()
            return self._screen

    def _novel(
        self, parent: str, partners: Sequence[Partner], rng: random.Random, size: float, ledger: Ledger
    ) -> Known:
        """Return a child of new behaviour; of any behaviour after many tries."""
        operator = Operator(
            self.settings.max_nodes, self.seen, library=[genome for _, genome in library()], ledger=ledger
        )
        donors = [*partners, *(Partner(item.source, self.memory.estimate(item)) for item in self._top(DONORS))]
        for attempt in range(1, _TRIES + 1):
            proposal, base = self._propose(operator, parent, donors, rng, size)
            started = time.perf_counter()
            try:
                found = behaviour(proposal.policy)
            except Unsound:
                ledger.add("unsound", seconds=time.perf_counter() - started)
                continue
            child = Known(proposal.source, proposal.fingerprint, found, lineage=self.lineages.current, parent=base)
            old = found.mark in self.memory.behaviours
            if (old or self.lineages.forbids(child)) and attempt < _TRIES:
                ledger.add("duplicate behaviour" if old else "taboo", seconds=time.perf_counter() - started)
                continue
            ledger.add("probed", seconds=time.perf_counter() - started)
            self._moves[child.mark] = proposal.moves
            return self.memory.add(child)
        raise NoChild("every policy drawn gives scores that are not finite; repair the text outside the EVOLVE-BLOCK")

    def _propose(
        self, operator: Operator, parent: str, donors: Sequence[Partner], rng: random.Random, size: float
    ) -> tuple[Proposal, str | None]:
        """Vary the engine's parent, a good program of the lineage, or what a lineage or the run starts from.

        Returns:
            The child, and what it was varied from.
        """
        if len(self.memory.known) <= self.settings.opening * max(1, self.settings.screen_children):
            return self._start(operator, parent, rng), None
        members = [item for item in self.lineages.members(self.memory)[:POOL] if not self.lineages.forbids(item)]
        if self.lineages.fresh and not members:
            return self._start(operator, parent, rng), None
        engines = not members or (not self.lineages.fresh and rng.random() < ENGINE_SHARE)
        base = parent if engines else _framed(_drawn(members, rng).source, parent)
        return operator.propose(base, donors, rng, size), base

    def _start(self, operator: Operator, parent: str, rng: random.Random) -> Proposal:
        """Return a program that owes nothing to those before."""
        if rng.random() < LIBRARY_START:
            _, genome = rng.choice(library())
            proposal = operator.propose(_framed(genome.source(), parent), (), rng)
            return replace(proposal, moves=("library", *proposal.moves))
        return operator.draw(parent, rng)

    def _top(self, count: int) -> list[Known]:
        return self.memory.ranked()[:count]

    def _screened(self, item: Known, ledger: Ledger) -> None:
        screen = self._loaded_screen()
        with ledger.timed("screened"):
            found = screen.measure(item.source)
        ledger.add("screened")
        ledger.add("refs screened", found.refs)
        item.screened = found.score

    def _settled(self, item: Known, rng: random.Random, ledger: Ledger) -> Known:
        """Return a screened child with constants that fit; itself if there are none, or none better."""
        if not self.settings.settle_passes or item.screened is None or item.screened <= REJECTED:
            return item
        spent = self.tuning.settle(Policy.from_source(item.source), _admitted(item.parent), rng.getrandbits(31))
        ledger.add("settled", seconds=spent.cpu_s)
        ledger.add("refs settled", spent.refs)
        if spent.result is None or spent.result.score <= item.screened:
            return item
        source = spent.result.policy.source
        mark, found = fingerprint(source), _behaviour(source)
        with self._lock:
            if found is None or mark in self.seen:
                return item
            self.seen.add(mark)
            self._moves[mark] = (*self._moves[item.mark], "settled")
            score = spent.result.score
            return self.memory.replace(item, Known(source, mark, found, None, score, True, item.lineage, item.parent))

    def _choose(self, candidates: list[Known], rng: random.Random) -> Known:
        """Return the best on the screen of these and of those that waited; now and then any of these."""
        if self.settings.screen_children <= 0 or rng.random() < self.settings.explore:
            return rng.choice(candidates)
        waiting = [item for item in self.lineages.members(self.memory) if not item.sent and item.mark not in self._busy]
        every = [item for item in (*candidates, *waiting) if item.screened is not None]
        return max(every, key=lambda item: item.screened or 0.0)


def _drawn(members: Sequence[Known], rng: random.Random) -> Known:
    """Draw a program; the n-th best has weight 1 / n."""
    return rng.choices(members, [1.0 / rank for rank in range(1, len(members) + 1)])[0]


def _framed(source: str, frame: str) -> str:
    """Return the block of a program in the text around the block of another."""
    try:
        head, _, tail = split(frame)
        _, block, _ = split(source)
    except NotAGenome as error:
        raise NoChild(str(error)) from None
    return f"{head}{block}{tail}"


def _admitted(source: str | None) -> Policy | None:
    with contextlib.suppress(PolicyRejected):
        return Policy.from_source(source) if source is not None else None
    return None


def _behaviour(source: str) -> Behaviour | None:
    try:
        return behaviour(Policy.from_source(source))
    except (PolicyRejected, Unsound):
        return None
