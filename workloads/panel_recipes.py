"""What each panel is made of.

Knows, per panel and split, which traces belong to it and how each is cut from its source. Must not know capacities,
caches or scores. Recipes of one split never reach data of another, except that a file two splits share is read whole
and cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from workloads import locate, synthetic
from workloads.loading import load
from workloads.materialise import materialise
from workloads.panel_cache import cached
from workloads.readers import kvsess1, mooncake
from workloads.trace import Trace

CONVERSATION_PARTS = (0.4, 0.2, 0.4)  # of the arrival span: train, validation, test
WEKA_PARTS = (0.5, 0.2, 0.3)  # of the sessions, by SHA-256 of the session name
WEKA_WINDOW_H = 4.0  # for all sessions; a part gets its share, so concurrency is the same in every split


@dataclass(frozen=True)
class Recipe:
    """One trace of one split.

    Attributes:
        name: Name of the trace in the panel.
        source: Short name of the known trace it is made from; empty for synthetic traces.
        steps: What is done to the source, JSON-able; goes into provenance and the cache key.
        make: Makes the trace from the source file (ignored for synthetic traces).
    """

    name: str
    source: str
    steps: dict[str, object]
    make: Callable[[Path], Trace]

    def trace(self) -> Trace:
        """Return the trace, from the cache where it is made from a file."""
        if not self.source:
            return self.make(Path())
        path = locate.require(self.source)
        return cached(self.name, path, self.steps, lambda: self.make(path))


def _whole(source: str) -> Recipe:
    """A known trace as its short name loads it."""
    options = dict(locate.KNOWN_TRACES[source].options)
    return Recipe(source, source, {"load": source, **options}, lambda _path: load(source))


def _conversation(split: str, number: int) -> Recipe:
    name = f"mooncake_conversation_{split}"

    def make(path: Path) -> Trace:
        part = mooncake.read(path, name="mooncake_conversation").split_time(CONVERSATION_PARTS)[number]
        return part.renamed(name)

    return Recipe(name, "mooncake_conversation", {"split_time": list(CONVERSATION_PARTS), "part": number}, make)


def _weka(split: str, number: int) -> Recipe:
    name = f"cc_weka_v8_{split}"
    low, high = round(sum(WEKA_PARTS[:number]), 6), round(sum(WEKA_PARTS[: number + 1]), 6)
    window_s = round(WEKA_WINDOW_H * 3600 * WEKA_PARTS[number], 6)
    steps: dict[str, object] = {
        "sessions_with_name_hash_in": [low, high],
        "window_s": window_s,
        "window_rule": f"{WEKA_WINDOW_H:g} h x share of the sessions, so that concurrency equals W4's",
        "max_gap_s": 300.0,
        "shared_prefix": True,
        "block_tokens": 512,
        "seed": 0,
    }

    def make(path: Path) -> Trace:
        sessions = kvsess1.read(path, name="cc_weka_v8").hash_split(low, high, name)
        trace = materialise(sessions, window_s, 300.0, seed=0, shared_prefix=True, block_tokens=512)
        return trace.renamed(name, {"panel": steps})

    return Recipe(name, "cc_weka_v8", steps, make)


def _generated(split: str, generator: str, **options: int | float) -> Recipe:
    """A synthetic trace; the seed depends on the split only, so the splits are disjoint."""
    seed = {"train": 101, "validation": 202, "test": 303}[split]
    name = f"{generator}_{split}"

    def make(_path: Path) -> Trace:
        return synthetic.generator(generator)(seed, **options).renamed(name)

    return Recipe(name, "", {"generator": generator, "seed": seed, **options}, make)


def _synthetic(split: str) -> tuple[Recipe, ...]:
    return (
        _generated(split, "chat", requests=2_200, block_tokens=64),
        _generated(split, "shared_system", requests=3_000, block_tokens=64),
        _generated(split, "rag", requests=2_400, block_tokens=64),
        _generated(split, "agent", requests=800, block_tokens=128, context_limit=24_000),
        _generated(split, "scan", requests=1_500, block_tokens=64),
        _generated(split, "phase_shift", requests=1_400, block_tokens=64),
        _generated(split, "multi_tenant", requests=1_300, block_tokens=64),
    )


PANELS: Mapping[str, Mapping[str, tuple[Recipe, ...]]] = MappingProxyType(
    {
        "real-v1": {
            "train": (_whole("mooncake_synthetic"), _conversation("train", 0), _weka("train", 0)),
            "validation": (
                _conversation("validation", 1),
                _weka("validation", 1),
                _whole("mooncake_toolagent_1000"),
                _whole("lmcache_agent"),
                _whole("taubench_airline"),
            ),
            "test": (_conversation("test", 2), _weka("test", 2), _whole("ragpulse")),
        },
        "mooncake-v1": {
            "train": (_whole("mooncake_synthetic"), _conversation("train", 0)),
            "validation": (_conversation("validation", 1),),
            "test": (_conversation("test", 2),),
        },
        "synthetic-v1": {split: _synthetic(split) for split in ("train", "validation", "test")},
    }
)


def sources(panel: str) -> list[str]:
    """Return the short names of the known traces a panel is made from, over all its splits."""
    return sorted({recipe.source for recipes in PANELS[panel].values() for recipe in recipes if recipe.source})
