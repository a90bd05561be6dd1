"""Who is compared: the engine's LRU, SGLang's own policies, the classics, the nearest peer, what was evolved.

Knows names, files and pools. Must not know what they hit, but picks the best of a pool by scores it is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim import engines, zoo
from sim.registry import load_policy, policies
from sim.results.replays import Runner

PEER = "prefix_cache_evolve"
"""The shipped file that re-expresses the nearest peer's production policy."""
SGLANG = "sglang"
INCUMBENTS = Path(__file__).parent.parent / "incumbents"


@dataclass(frozen=True)
class Evolved:
    """A policy under discussion: an incumbent or a file."""

    name: str
    source: str
    nodes: int

    @property
    def sha256(self) -> str:
        """Hash of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def runner(self) -> Runner:
        """What replays it."""
        return Runner(self.name, self.source)


def classics() -> list[Runner]:
    """Return all classics that run under vLLM's accounting: the zoo and the shipped files, the peer left out."""
    native = [Runner(zoo.PREFIX + name) for name in zoo.NAMES if name not in zoo.OFFLINE]
    files = [Runner(name, load_policy(name).source) for name in policies() if name != PEER]
    return native + files


def sglang() -> list[Runner]:
    """Return SGLang's own policies, under SGLang's accounting: a radix tree from which whole segments leave."""
    return [Runner(name, engine=SGLANG) for name in engines.find(SGLANG)[0].policies]


def peer() -> Runner:
    """Return the nearest peer's production policy."""
    return Runner(PEER, load_policy(PEER).source)


def evolved(files: Sequence[str | Path]) -> list[Evolved]:
    """Return the policies in files; without files, the incumbents.

    Raises:
        ValueError: If a file is not there, two policies have one name, or there is no policy at all.
        PolicyRejected: If one breaks the contract.
    """
    paths = [Path(file) for file in files] or sorted(INCUMBENTS.glob("[!._]*/policy.py"))
    found = []
    for path in paths:
        policy = load_policy(path)
        name = path.parent.name if path.name == "policy.py" else policy.name
        found.append(Evolved(name, policy.source, policy.nodes))
    names = [each.name for each in found]
    if not found:
        raise ValueError(
            f"no policy to report: there is no incumbent in {INCUMBENTS}; fix: name a file, --policies FILE"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"--policies: two policies are called {max(names, key=names.count)!r}; fix: rename a file")
    return found
