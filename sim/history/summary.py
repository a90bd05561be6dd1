"""A run in numbers: best so far, what came of the proposals, diversity, costs, the way to the winner.

Knows the tables; must not know how it is shown.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.history.grid import Grid, last_grid
from sim.history.lineage import KNOWN, Step, lineage, made_by, winner

OUTCOMES = ("stored", "duplicate", "rejected", "no valid diff", "error", "lost", "pending", "other")
DECIDED = OUTCOMES[:6]
"""Outcomes that the acceptance rate is over."""
TUNING = "constants tuned"
_NUMBERS = re.compile(r"\d[\d.,e+-]*")


@dataclass(frozen=True)
class Best:
    """A new best score.

    Attributes:
        evaluations: Spent until then, tunings included.
        time_s: Since the first proposal or evaluation.
        score: On the training panel.
        iteration: Of the engine; None for the seed and the final tuning.
        by: What made it.
    """

    evaluations: int
    time_s: float | None
    score: float
    iteration: int | None
    by: str


@dataclass(frozen=True)
class Maker:
    """A move of the operator, or a model.

    Attributes:
        name: The move or model.
        proposals: It made, alone or with others.
        stored: Of them.
        better: Of them, better than their parent.
        best: Of them, new best of the run.
    """

    name: str
    proposals: int
    stored: int
    better: int
    best: int


@dataclass(frozen=True, eq=False)
class Summary:
    """All that `kvevolve history` shows.

    Attributes:
        run: The folder.
        state: "finished" (with a report), "ended" (the engine is done), or "open" (running, or killed).
        panel: Name and fingerprint, None if unknown.
        iterations: The engine's: "planned", "stored", "lost", "sessions".
        evaluations: "total" without those the journal answered ("cached"), of them of "tuning"; "duration_s", "per_s".
        cost: "cpu_s", "evaluation_s", "refs", "prompt_tokens", "completion_tokens", "usd", "model_s"; None: unknown.
        curve: Every new best.
        trials: (evaluations spent until then, score) of every program that ran on all cells.
        outcomes: Of proposals: `OUTCOMES`.
        operator: What the keyless operator refused before it answered, and what else it counts: name to count, seconds.
        rejections: (stage, reason, count), most frequent first.
        makers: Of proposals.
        diversity: Distinct "texts", "programs" (layout aside), "structures" (numbers aside), "behaviours" (hits in all
            cells), of "evaluated" children; "migrations".
        grid: MAP-Elites, None without a checkpoint.
        steps: To the winner.
        damage: (log, line, reason).
    """

    run: str
    state: str
    panel: str | None
    iterations: dict[str, int | None]
    evaluations: dict[str, float | int | None]
    cost: dict[str, float | int | None]
    curve: list[Best]
    trials: list[tuple[int, float]]
    outcomes: dict[str, int]
    operator: dict[str, dict[str, float]]
    rejections: list[tuple[str, str, int]]
    makers: list[Maker]
    diversity: dict[str, int]
    grid: Grid | None
    steps: list[Step]
    damage: list[tuple[str, int, str]]

    @property
    def acceptance(self) -> float | None:
        """Share of the decided proposals that were stored as new programs; None without any."""
        decided = sum(self.outcomes[name] for name in DECIDED)
        return self.outcomes["stored"] / decided if decided else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return {
            "run": self.run,
            "state": self.state,
            "panel": self.panel,
            "iterations": self.iterations,
            "evaluations": self.evaluations,
            "cost": self.cost,
            "best_so_far": [vars(best) for best in self.curve],
            "proposals": self.outcomes,
            "acceptance_rate": self.acceptance,
            "operator": self.operator,
            "rejections": [{"stage": stage, "reason": why, "count": count} for stage, why, count in self.rejections],
            "makers": [vars(maker) for maker in self.makers],
            "diversity": self.diversity,
            "grid": self.grid.to_dict() if self.grid else None,
            "lineage": [step.to_dict() for step in self.steps],
            "damage": [{"log": log, "line": line, "reason": reason} for log, line, reason in self.damage],
        }

    def __str__(self) -> str:
        from sim.history.summary_text import describe

        return describe(self)


def summarise(connection: sqlite3.Connection, run: Path) -> Summary:
    """Return the numbers of a store.

    Args:
        connection: Of the store.
        run: Shown as the name of the run.
    """
    child, final = winner(connection)
    steps = [*(lineage(connection, child) if child else []), *([final] if final else [])]
    curve, trials, evaluations = _curve(connection, final)
    found = connection.execute("SELECT outcome, count(*) FROM proposals GROUP BY outcome").fetchall()
    outcomes = dict.fromkeys(OUTCOMES, 0) | dict(found)
    return Summary(
        run=str(run),
        state=_state(connection),
        panel=_panel(connection),
        iterations=_iterations(connection),
        evaluations=evaluations,
        cost=_cost(connection),
        curve=curve,
        trials=trials,
        outcomes=outcomes,
        operator=_operator(connection),
        rejections=_rejections(connection),
        makers=_makers(connection),
        diversity=_diversity(connection),
        grid=last_grid(connection),
        steps=steps,
        damage=connection.execute("SELECT log, line, reason FROM damage ORDER BY log, line").fetchall(),
    )


def _one(connection: sqlite3.Connection, sql: str, *values: Any) -> Any:
    found = connection.execute(sql, values).fetchone()
    return found[0] if found else None


def _fact(connection: sqlite3.Connection, name: str) -> Any:
    found = _one(connection, "SELECT value FROM facts WHERE name = ?", name)
    return json.loads(found) if found else None


def _state(connection: sqlite3.Connection) -> str:
    if _fact(connection, "provenance"):
        return "finished"
    last = _one(
        connection, "SELECT event FROM engine_events WHERE event IN ('start', 'end') ORDER BY time DESC, place DESC"
    )
    return "ended" if last == "end" else "open"


def _panel(connection: sqlite3.Connection) -> str | None:
    panel = _fact(connection, "panel") or {}
    return f"{panel.get('name')}, fingerprint {str(panel.get('fingerprint'))[:12]}" if panel else None


def _iterations(connection: sqlite3.Connection) -> dict[str, int | None]:
    counts = dict(connection.execute("SELECT event, count(*) FROM engine_events GROUP BY event").fetchall())
    stored = _one(connection, "SELECT count(*) FROM children WHERE NOT migrant AND parent_id NOT NULL")
    return {
        "planned": (_fact(connection, "config") or {}).get("max_iterations"),
        "stored": stored,
        "lost": counts.get("error", 0),
        "sessions": counts.get("start"),
    }


def _curve(
    connection: sqlite3.Connection, final: Step | None
) -> tuple[list[Best], list[tuple[int, float]], dict[str, float | int | None]]:
    """Return every new best, every score, and how many evaluations there were."""
    wanted = (_fact(connection, "panel") or {}).get("fingerprint")
    done = connection.execute(
        "SELECT time, NOT coalesce(cached, 0), iif(valid AND stage = 'panel', score, NULL), id FROM evaluations"
        " WHERE panel IS NULL OR ?1 IS NULL OR panel = ?1 UNION ALL"
        " SELECT time, evaluations, NULL, NULL FROM tunings WHERE time NOT NULL ORDER BY 1 NULLS LAST, 4",
        (wanted,),
    ).fetchall()
    first = min((row[0] for row in done if row[0] is not None), default=None)
    began = _one(connection, "SELECT min(time) FROM proposals")
    begin = min((time for time in (first, began) if time is not None), default=None)
    best: list[Best] = []
    trials: list[tuple[int, float]] = []
    spent = tuned = 0
    last = begin
    for time, count, score, number in done:
        spent += count
        tuned += 0 if number is not None else count
        last = time if time is not None else last
        trials += [(spent, score)] if score is not None else []
        if score is not None and (not best or score > best[-1].score):
            iteration, by = _evaluated(connection, number)
            since = None if time is None or begin is None else time - begin
            best.append(Best(spent, since, score, iteration, by))
    if final is not None:
        used = _one(connection, "SELECT evaluations FROM tunings WHERE of = 'final'") or 0
        spent, tuned = spent + used, tuned + used
        if final.score is not None and (not best or final.score > best[-1].score):
            best.append(Best(spent, None, final.score, None, final.by))
    duration = None if begin is None or last is None else last - begin
    counts: dict[str, float | int | None] = {"total": spent, "tuning": tuned, "duration_s": duration}
    counts["cached"] = _one(connection, "SELECT count(*) FROM evaluations WHERE cached")
    counts["per_s"] = spent / duration if duration else None
    return best, trials, counts


def _evaluated(connection: sqlite3.Connection, evaluation: int) -> tuple[int | None, str]:
    """Return the iteration of an evaluated child, and what made it."""
    child = _one(connection, "SELECT id FROM children WHERE evaluation_id = ? ORDER BY time", evaluation)
    if child is None:
        return None, "not stored"
    last = lineage(connection, child)[-1]
    return last.iteration, last.by


def _cost(connection: sqlite3.Connection) -> dict[str, float | int | None]:
    names = ("cpu_s", "evaluation_s", "refs")
    journal = connection.execute("SELECT sum(cpu_seconds), sum(seconds), sum(refs) FROM evaluations").fetchone()
    spent = connection.execute(
        "SELECT sum(prompt_tokens), sum(completion_tokens), sum(cost_usd), sum(seconds) FROM proposals"
    ).fetchone()
    return dict(zip(names, journal, strict=True)) | dict(
        zip(("prompt_tokens", "completion_tokens", "usd", "model_s"), spent, strict=True)
    )


def _rejections(connection: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """Count reasons; those that differ in numbers only count as one."""
    counts: Counter[tuple[str, str]] = Counter()
    for stage, outcome, reason in connection.execute(
        "SELECT stage, outcome, reason FROM proposals WHERE outcome IN ('rejected', 'no valid diff', 'error', 'lost')"
    ):
        counts[stage if outcome == "rejected" and stage else outcome, _NUMBERS.sub("#", reason or "")] += 1
    return [(stage, reason, count) for (stage, reason), count in counts.most_common()]


def _operator(connection: sqlite3.Connection) -> dict[str, dict[str, float]]:
    """Add up the operator's ledgers."""
    total: dict[str, dict[str, float]] = {}
    for (ends,) in connection.execute(
        "SELECT json_extract(details, '$.ends') FROM proposals"
        " WHERE log = 'operator' AND json_type(details, '$.ends') = 'object'"
    ):
        for name, spent in json.loads(ends).items():
            known = total.setdefault(name, {"count": 0, "seconds": 0.0})
            for key in known:
                value = spent.get(key) if isinstance(spent, dict) else None
                known[key] += value if isinstance(value, int | float) else 0
    return total


def _makers(connection: sqlite3.Connection) -> list[Maker]:
    top = _one(connection, "SELECT max(score) FROM children WHERE parent_id IS NULL")
    counts: dict[str, list[int]] = {}
    cursor = connection.execute(
        f"SELECT a.model, a.moves, t.of, t.evaluations, a.outcome, c.parent_id, c.score, p.score AS before, {KNOWN}"
        " FROM proposals a LEFT JOIN children c ON c.id = a.child_id"
        " LEFT JOIN tunings t ON t.proposal_id = a.id AND t.evaluations > 0 LEFT JOIN programs g ON g.sha = c.sha"
        " LEFT JOIN children p ON p.id = c.parent_id"
        " WHERE a.kind = 'policy' ORDER BY coalesce(c.time, a.time), a.id"
    )
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        tuned = row["of"] is not None and made_by(row).startswith(TUNING)
        moves = json.loads(row["moves"] or "null") or [row["model"] or "unknown"]
        score = row["score"] if row["outcome"] == "stored" else None
        better = score is not None and row["before"] is not None and score > row["before"]
        leads = score is not None and (top is None or score > top)
        top = score if leads else top
        for name in {TUNING} if tuned else set(map(str, moves)) | ({TUNING} if row["of"] == "child" else set()):
            entry = counts.setdefault(name, [0, 0, 0, 0])
            for place, hit in enumerate((True, row["outcome"] == "stored", better, leads)):
                entry[place] += hit
    return sorted((Maker(name, *entry) for name, entry in counts.items()), key=lambda m: (-m.proposals, m.name))


def _diversity(connection: sqlite3.Connection) -> dict[str, int]:
    row = connection.execute(
        "SELECT count(*), count(DISTINCT c.sha), count(DISTINCT p.fingerprint), count(DISTINCT p.structure)"
        " FROM children c LEFT JOIN programs p USING (sha) WHERE NOT c.migrant"
    ).fetchone()
    found = dict(zip(("evaluated", "texts", "programs", "structures"), row, strict=True))
    found["behaviours"] = _one(connection, "SELECT count(DISTINCT behaviour) FROM evaluations")
    found["migrations"] = _one(connection, "SELECT count(*) FROM migrations")
    return found
