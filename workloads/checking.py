"""Everything that is wrong with a trace file, and what is odd though it can be read.

Readers refuse a file at its first fault. Here it is read again and again, each time as if the faulty line were not
there, or with the repair that the refusal offers, until it can be read: so every fault is found, each with its place,
in formats of text lines. Of a binary format the first fault is all that is found. Knows refusals and traces; must not
know formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from workloads import progress
from workloads.errors import TraceError
from workloads.loading import load
from workloads.readers.lines import passing_over
from workloads.statistics import extends
from workloads.trace import Trace

MOST_FAULTS = 20
_LINE = re.compile(r"^.+?:(\d+): ")
_REPAIR = re.compile(r"repair='(\w+)'")
_FAST_PER_S, _EPOCH_S = 10_000, 1e8


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        spec: What was read.
        problems: Faults, each with its place and fix; the file is refused.
        repairs: By repair that would make the file readable: how many requests (or ids) it would change.
        oddities: What can be read but is seldom meant.
        more: Whether there were more faults than were looked for.
        trace: One line about what is left if the faulty lines go and the repairs are made; "" if nothing can be read.
    """

    spec: str
    problems: tuple[str, ...]
    repairs: dict[str, int] = field(default_factory=dict)
    oddities: tuple[str, ...] = ()
    more: bool = False
    trace: str = ""

    @property
    def sound(self) -> bool:
        """Whether the file can be read as it is."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return names and values, fit for JSON."""
        return {**asdict(self), "sound": self.sound}

    def __str__(self) -> str:
        lines = [*self.problems, *(["... and more"] if self.more else [])]
        for name, count in self.repairs.items():
            lines.append(f"repair={name} would change {count:,}")
        lines += [f"odd: {text}" for text in self.oddities]
        left = "what is left: " if self.problems else ""
        lines.append(f"{left}{self.trace}" if self.trace else "nothing can be read")
        counted = f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)}"
        return "\n".join([*lines, f"{self.spec}: {counted if self.problems else 'ok'}"])


def check(spec: str, most: int = MOST_FAULTS) -> Report:
    """Read a trace and find what is wrong with it.

    Args:
        spec: As for `workloads.load`.
        most: Stop after so many problems.
    """
    problems: list[str] = []
    repairs: list[str] = []
    skipped: set[int] = set()
    while len(problems) < most:
        try:
            with passing_over(skipped):
                trace = load(_with_repairs(spec, repairs))
        except TraceError as error:
            problems.append(error.message)
            progress.tell(f"checking {spec}, problems", len(problems))
            if not _go_on(error.message, repairs, skipped):
                return Report(spec, tuple(problems))
            continue
        made = trace.provenance.get("repairs", {})
        changed = {name: made[name] for name in repairs if isinstance(made, dict) and name in made}
        return Report(spec, tuple(problems), changed, tuple(oddities(trace, changed)), trace=repr(trace))
    return Report(spec, tuple(problems), more=True)


def _go_on(message: str, repairs: list[str], skipped: set[int]) -> bool:
    """Choose what to leave out or repair so that reading gets past a fault; return whether there is anything."""
    offered = _REPAIR.search(message)
    if offered and offered[1] not in repairs:
        repairs.append(offered[1])
        return True
    place = _LINE.match(message)
    if place is None or int(place[1]) in skipped or "data ends or breaks" in message:
        return False
    skipped.add(int(place[1]))
    return True


def _with_repairs(spec: str, repairs: list[str]) -> str:
    """Return the specification with more repairs."""
    if not repairs:
        return spec
    target, _, query = spec.partition("?")
    options = [part for part in query.split("&") if part]
    given = [part.removeprefix("repair=") for part in options if part.startswith("repair=")]
    others = [part for part in options if not part.startswith("repair=")]
    return f"{target}?{'&'.join([*others, 'repair=' + ','.join(dict.fromkeys([*given, *repairs]))])}"


def oddities(trace: Trace, repairs: dict[str, int] | None = None) -> list[str]:
    """Return what is seldom meant in a trace that obeys every rule.

    Args:
        trace: The trace.
        repairs: Repairs made while reading, with their counts.
    """
    moved = (repairs or {}).get("sort_time", 0)
    found = []
    if trace.n_requests > 2 and moved >= 0.9 * (trace.n_requests - 1):
        found.append(f"{moved:,} of {trace.n_requests:,} requests run backwards in time: the log is newest first")
    for look in _LOOKS:
        if text := look(trace):
            found.append(text)
    return found


def _all_unique(trace: Trace) -> str:
    if trace.n_requests < 10 or trace.n_blocks < trace.n_refs or not trace.n_refs:
        return ""
    return "no block is ever used again: ids may be random, salted per request, or of each block on its own"


def _no_blocks(trace: Trace) -> str:
    return "" if trace.n_refs else "no request has a full block: is the block size right?"


def _one_time(trace: Trace) -> str:
    return "all requests arrive at the same time" if trace.n_requests > 1 and trace.span_s == 0 else ""


def _pace(trace: Trace) -> str:
    if trace.span_s <= 0 or trace.n_requests < 100:
        return ""
    rate = trace.n_requests / trace.span_s
    if rate > _FAST_PER_S:
        return f"{rate:,.0f} requests per second: is the unit of time right?"
    if rate < 1 / 3600:
        return f"a request every {1 / rate / 3600:,.1f} hours: is the unit of time right?"
    return ""


def _epoch(trace: Trace) -> str:
    first = float(trace.arrival_s[0])
    return (
        f"the first request arrives at {first:,.0f} s: times are a date, not since a start" if first > _EPOCH_S else ""
    )


def _twice(trace: Trace) -> str:
    """Requests equal to the one before in everything: a log written twice."""
    earlier = np.arange(trace.n_requests - 1, dtype=np.int64)
    later = earlier + 1
    same = trace.full_blocks[1:] == trace.full_blocks[:-1]
    for column in (trace.arrival_s, trace.input_tokens, trace.output_tokens, trace.session):
        if column is not None:
            same &= column[1:] == column[:-1]
    same &= trace.input_tokens[1:] > 0
    same[same] = extends(trace, earlier[same], later[same])
    count = int(np.count_nonzero(same))
    return f"{count:,} requests equal the one before them, time included: recorded twice?" if count else ""


def _nothing_generated(trace: Trace) -> str:
    count = int(np.count_nonzero(trace.output_tokens == 0))
    if count < 0.1 * trace.n_requests:
        return ""
    return f"{count:,} of {trace.n_requests:,} requests generate nothing: failed requests?"


def _one_length(trace: Trace) -> str:
    if trace.n_requests < 10 or int(np.ptp(trace.input_tokens)):
        return ""
    return f"every prompt has {int(trace.input_tokens[0]):,} tokens"


def _turns(trace: Trace) -> str:
    if trace.session is None or trace.turn is None:
        return ""
    order = np.argsort(trace.session, kind="stable")
    session, turn = trace.session[order], trace.turn[order]
    back = (session[1:] == session[:-1]) & (session[1:] >= 0) & (turn[1:] >= 0) & (turn[1:] <= turn[:-1])
    count = int(np.count_nonzero(back))
    return f"{count:,} requests have no later turn than the one before in their session" if count else ""


_LOOKS: tuple[Callable[[Trace], str], ...] = (
    _no_blocks,
    _all_unique,
    _one_time,
    _pace,
    _epoch,
    _twice,
    _nothing_generated,
    _one_length,
    _turns,
)
