"""What OpenEvolve 0.4.0 says in its text log: which children it stored, which iterations it lost and why, migrations.

The only record of children whose parent was dropped meanwhile, of lost iterations and of migrations. Knows the texts of
that version; must not know the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) - (?:[\w.]+ - )?[A-Z]+ - (.*)")
_TOKENS = re.compile(r" \| tokens: \d+ \(prompt: (\d+), completion: (\d+)\)$")
_ID = r"([0-9a-f]{8}-[0-9a-f-]{27})"
_STORED = re.compile(rf"Iteration (\d+): Program {_ID} \(parent: {_ID}\) completed in ([\d.]+)s$")
_EVALUATED = re.compile(rf"Evaluated program {_ID} in ([\d.]+)s: (.*)")
_LOST = (
    re.compile(r"Iteration (\d+) error: (.*)"),
    re.compile(r"Error processing result from iteration (\d+): (.*)"),
    re.compile(r"\W*Iteration (\d+) (timed out after .*)"),
)
_MIGRATION = re.compile(r"Performing migration at iteration (\d+)$")
_MIGRATED = re.compile(r"Program ([0-9a-f]{8}) migrated to island (\d+)$")
_START = re.compile(r"Starting process-based evolution from iteration (\d+) for")
_METRIC = re.compile(r"(\w+)=(-?[\d.]+(?:e[+-]?\d+)?)(?:, |$)")


@dataclass(frozen=True)
class Event:
    """Something the engine did.

    Attributes:
        event: "start", "evaluated", "stored", "error", "migration", "migrated" or "end".
        time: Seconds since 1970 if the log's local time were UTC.
        iteration: Of the engine.
        child_id: The program; of "migrated", the first 8 characters of the copy's id.
        parent_id: Its parent.
        island: Where a copy went.
        seconds: An iteration or evaluation took.
        reason: Why an iteration was lost.
        prompt_tokens: Of the answer.
        completion_tokens: Of the answer.
        metrics: With 4 decimals.
    """

    event: str
    time: float
    iteration: int | None = None
    child_id: str | None = None
    parent_id: str | None = None
    island: int | None = None
    seconds: float | None = None
    reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def parse(line: str) -> Event | None:
    """Return the event that a line of the log tells, if it tells one."""
    found = _LINE.match(line.rstrip("\r\n"))
    if found is None:
        return None
    try:
        time = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() + int(found[2]) / 1000
    except ValueError:
        return None
    said = found[3]
    tokens = _TOKENS.search(said)
    if tokens is None:
        return _event(said, time)
    event = _event(said[: tokens.start()], time)
    spent = {"prompt_tokens": int(tokens[1]), "completion_tokens": int(tokens[2])}
    return None if event is None else replace(event, **spent)  # type: ignore[arg-type]


def _event(said: str, time: float) -> Event | None:
    if match := _STORED.match(said):
        iteration, child, parent, seconds = match.groups()
        return Event("stored", time, int(iteration), child, parent, seconds=float(seconds))
    if match := _EVALUATED.match(said):
        metrics = {name: float(value) for name, value in _METRIC.findall(match[3])}
        return Event("evaluated", time, child_id=match[1], seconds=float(match[2]), metrics=metrics)
    for pattern in _LOST:
        if match := pattern.match(said):
            return Event("error", time, int(match[1]), reason=match[2])
    if match := _MIGRATION.match(said):
        return Event("migration", time, int(match[1]))
    if match := _MIGRATED.match(said):
        return Event("migrated", time, child_id=match[1], island=int(match[2]))
    if match := _START.match(said):
        return Event("start", time, int(match[1]))
    return Event("end", time) if said.startswith("Evolution complete.") else None
