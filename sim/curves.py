"""Curves of hit rate against cache size: the points of a sweep, as table, JSON and CSV.

Knows numbers and names; must not know how points come about, nor files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from sim.tables import table

FORMAT = "kvevolve-sweep/1"
OPTIMUM, LRU_FLAT = "optimum", "lru-flat"
BOUNDLESS = (OPTIMUM, LRU_FLAT)
"""Columns that no engine replays: nothing is said about what they use of the cache."""


@dataclass(frozen=True)
class Point:
    """One policy at one capacity.

    Attributes:
        policy: Column.
        capacity_blocks: Size of the cache.
        replayed_blocks: Size that was simulated; smaller if the trace is a sample.
        hit_tokens: Of the counted requests.
        peak_used_blocks: Most blocks in use, the warm-up included; None for the optimum and lru-flat.
        unserved_requests: Counted requests with more blocks than the cache.
    """

    policy: str
    capacity_blocks: int
    replayed_blocks: int
    hit_tokens: int
    peak_used_blocks: int | None = None
    unserved_requests: int = 0

    @property
    def filled(self) -> bool:
        """Whether the cache was ever full; where it was not and no prompt was too large, more cache changes nothing."""
        return self.peak_used_blocks is None or self.peak_used_blocks >= self.replayed_blocks


@dataclass(frozen=True, eq=False)
class Sweep:
    """Policies at many capacities of one trace; a part of the points may be missing.

    Attributes:
        trace: Name.
        fingerprint: Of the whole trace, sampled or not.
        n_blocks: Distinct blocks of the whole trace.
        settings: What points depend on beside trace, policy and capacity.
        policies: SHA-256 of the source by column, "" for what has none; in the order of the columns.
        counted_requests: Requests after the warm-up.
        counted_tokens: Prompt tokens of these, the denominator of rates.
        ceiling_tokens: Hit tokens of these with an infinite cache.
        capacities: Ascending, in blocks.
        points: By (column, capacity).
    """

    trace: str
    fingerprint: str
    n_blocks: int
    settings: dict[str, Any]
    policies: dict[str, str]
    counted_requests: int
    counted_tokens: int
    ceiling_tokens: int
    capacities: tuple[int, ...]
    points: Mapping[tuple[str, int], Point] = field(default_factory=dict)

    def rate(self, policy: str, capacity_blocks: int) -> float | None:
        """Return hit tokens per counted prompt token, 0..1, or None where the point is missing."""
        point = self.points.get((policy, capacity_blocks))
        return self._share(point.hit_tokens) if point else None

    def curve(self, policy: str) -> dict[int, float]:
        """Return the hit rate by capacity, where it is known."""
        return {c: rate for c in self.capacities if (rate := self.rate(policy, c)) is not None}

    @cached_property
    def ceiling(self) -> float:
        """Hit rate of an infinite cache, 0..1."""
        return self._share(self.ceiling_tokens)

    @property
    def complete(self) -> bool:
        """Whether no point is missing."""
        return all((policy, c) in self.points for policy in self.policies for c in self.capacities)

    def with_points(self, points: Iterable[Point]) -> Sweep:
        """Return the sweep with more points."""
        return replace(self, points={**self.points, **{(p.policy, p.capacity_blocks): p for p in points}})

    def take_over(self, other: Sweep) -> Sweep:
        """Return this sweep with the points another has in common with it.

        Points of a policy whose source has changed since are left out.

        Raises:
            ValueError: If the other is of another trace or other settings.
        """
        mine, theirs = ({"trace": s.fingerprint, **s.settings} for s in (self, other))
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise ValueError(
                    f"cannot resume: {name} was {theirs.get(name)!r} and is {mine.get(name)!r} now; fix: give the "
                    "same trace and options, or another file to keep points in"
                )
        same = {label for label, digest in self.policies.items() if other.policies.get(label) == digest}
        return self.with_points(
            p for p in other.points.values() if p.policy in same and p.capacity_blocks in self.capacities
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, fit for JSON and for `from_dict`."""
        content = {name: getattr(self, name) for name in _PLAIN}
        points = [
            {**asdict(p), "hit_rate": self._share(p.hit_tokens), "filled": p.filled} for p in self._sorted_points()
        ]
        rates = {"ceiling_hit_rate": self.ceiling, "complete": self.complete}
        return {"format": FORMAT, **content, "capacities": list(self.capacities), **rates, "points": points}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Sweep:
        """Return what `to_dict` was made from.

        Raises:
            ValueError: If this is not a sweep of this version.
        """
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}: expected {FORMAT!r}")
            names = Point.__dataclass_fields__
            points = [Point(**{name: row[name] for name in names}) for row in content["points"]]
            plain = {name: content[name] for name in _PLAIN}
            return Sweep(**plain, capacities=tuple(content["capacities"])).with_points(points)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a sweep: {error!r}") from None

    def csv(self) -> str:
        """Return one line per point, with a head."""
        text = io.StringIO()
        names = [*Point.__dataclass_fields__, "capacity_share", "hit_rate", "ceiling_hit_rate", "filled"]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for p in self._sorted_points():
            share, rate = p.capacity_blocks / max(self.n_blocks, 1), self._share(p.hit_tokens)
            writer.writerow([*asdict(p).values(), f"{share:.6g}", f"{rate:.6g}", f"{self.ceiling:.6g}", int(p.filled)])
        return text.getvalue()

    def __str__(self) -> str:
        rows = []
        for c in self.capacities:
            cells = [self._cell(policy, c) for policy in self.policies]
            rows.append([c, f"{100 * c / max(self.n_blocks, 1):.3g}%", *cells])
        lines = [
            f"{self.trace} {self.fingerprint[:12]}: hit tokens in % of the prompt tokens of"
            f" {self.counted_requests:,} counted requests; infinite cache {100 * self.ceiling:.2f}",
            table(["blocks", "share", *(f"{name} " for name in self.policies)], rows, "r" * (2 + len(self.policies))),
        ]
        found = self.points.values()
        if any(_mark(p) == "~" for p in found):
            lines.append("~ the cache was never full: more of it changes nothing")
        if any(_mark(p) == "!" for p in found):
            lines.append("! some prompts are larger than the cache and were not run")
        if "sample" in self.settings:
            lines.append(f"an estimate: {self.settings['sample']:g} of the sessions or prefix families replayed")
        if not self.complete:
            lines.append("- not replayed yet")
        return "\n".join(lines)

    def _cell(self, policy: str, capacity_blocks: int) -> str:
        point = self.points.get((policy, capacity_blocks))
        if point is None:
            return "- "
        return f"{100 * self._share(point.hit_tokens):.2f}{_mark(point)}"

    def _share(self, tokens: int) -> float:
        return tokens / self.counted_tokens if self.counted_tokens else 0.0

    def _sorted_points(self) -> list[Point]:
        order = list(self.policies)
        return sorted(self.points.values(), key=lambda p: (order.index(p.policy), p.capacity_blocks))


def _mark(point: Point) -> str:
    return "!" if point.unserved_requests else " " if point.filled else "~"


_PLAIN = (
    "trace",
    "fingerprint",
    "n_blocks",
    "settings",
    "policies",
    "counted_requests",
    "counted_tokens",
    "ceiling_tokens",
)
