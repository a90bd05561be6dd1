"""A summary as text for a terminal. Must not know how numbers are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.tables import table

if TYPE_CHECKING:
    from sim.history.lineage import Step
    from sim.history.summary import Summary

SHOWN = 10
"""Most rows of a table; JSON has all."""
STATES = {
    "finished": "finished",
    "ended": "the engine has ended, there is no report",
    "open": "still running, or killed",
}


def describe(found: Summary) -> str:
    """Return all of it, part by part."""
    parts = [_head(found), _curve(found), _proposals(found), _rejections(found), _operator(found), _makers(found)]
    parts += [_diversity(found), _lineage(found.steps), _damage(found)]
    return "\n\n".join(part for part in parts if part)


def _head(found: Summary) -> str:
    iterations, done, cost = found.iterations, found.evaluations, found.cost
    planned = f" of {iterations['planned']}" if iterations["planned"] else ""
    lines = [f"{found.run}: {STATES[found.state]}", f"panel {found.panel}" if found.panel else ""]
    sessions = f", {iterations['sessions']} sessions" if (iterations["sessions"] or 1) > 1 else ""
    lines.append(f"iterations{planned}: {iterations['stored']} stored, {iterations['lost']} lost{sessions}")
    per_s = f", {done['per_s']:.2f}/s over {done['duration_s']:,.0f} s" if done["per_s"] else ""
    lines.append(f"evaluations: {done['total']:,}, of them {done['tuning']:,} of tunings{per_s}")
    spent = [f"{cost['cpu_s']:,.1f} CPU-s"] if cost["cpu_s"] is not None else []
    spent += [f"{cost['refs']:,} block references"] if cost["refs"] is not None else []
    if cost["prompt_tokens"] is not None:
        spent.append(f"{cost['prompt_tokens']:,} tokens asked, {cost['completion_tokens'] or 0:,} answered")
    spent += [f"{cost['usd']:,.4f} USD"] if cost["usd"] is not None else []
    lines.append(f"cost: {', '.join(spent)}" if spent else "")
    return "\n".join(line for line in lines if line)


def _curve(found: Summary) -> str:
    if not found.curve:
        return "BEST SO FAR\nno valid program yet"
    rows = [
        [best.evaluations, "-" if best.time_s is None else f"{best.time_s:,.0f}", _number(best.iteration),
         f"{best.score:+.4f}", best.by]
        for best in found.curve
    ]  # fmt: skip
    return f"BEST SO FAR\n{table(['evaluations', 'seconds', 'iteration', 'score', 'made by'], rows, 'rrrrl')}"


def _proposals(found: Summary) -> str:
    total = sum(found.outcomes.values())
    shown = [f"{count} {name}" for name, count in found.outcomes.items() if count]
    rate = f"; {found.acceptance:.0%} of those decided are new programs, scored and kept" if found.acceptance else ""
    return f"PROPOSALS\n{total}: {', '.join(shown) or 'none'}{rate}"


def _rejections(found: Summary) -> str:
    if not found.rejections:
        return ""
    rows = [[count, stage, _cut(reason)] for stage, reason, count in found.rejections[:SHOWN]]
    more = len(found.rejections) - SHOWN
    return f"REASONS OF REJECTION\n{table(['count', 'stage', 'reason'], rows, 'rll')}" + (f"\n{more} more" * (more > 0))


def _operator(found: Summary) -> str:
    if not found.operator:
        return ""
    rows = [[name, f"{spent['count']:,.0f}", f"{spent['seconds']:.1f}"] for name, spent in found.operator.items()]
    return f"INSIDE THE OPERATOR, before it answered\n{table(['what', 'count', 'seconds'], rows)}"


def _makers(found: Summary) -> str:
    if not found.makers:
        return ""
    rows = [[m.name, m.proposals, m.stored, m.better, m.best] for m in found.makers]
    head = ["made by", "proposals", "stored", "better than parent", "new best"]
    return f"MOVES AND MODELS (a proposal counts for each of its moves)\n{table(head, rows)}"


def _diversity(found: Summary) -> str:
    kinds = found.diversity
    lines = [
        f"{kinds['evaluated']} programs evaluated: {kinds['programs']} distinct, {kinds['structures']} but for numbers,"
        f" {kinds['behaviours']} behaviours (hit tokens of every cell); {kinds['migrations']} migrations"
    ]
    if found.grid:
        grid = found.grid.to_dict()
        axes = " x ".join(f"{name} ({count} bins)" for name, count in zip(grid["features"], grid["bins"], strict=True))
        at = f"checkpoint {grid['checkpoint']}"
        lines.append(f"MAP-Elites cells filled at {at}: {grid['filled']} of {grid['cells']}; {axes}")
        rows = [
            [number, island["programs"], island["filled"], island["generation"], _score(island["best"])]
            for number, island in enumerate(grid["islands"])
        ]
        lines.append(table(["island", "programs", "cells", "generation", "best"], rows))
    return "\n".join(["DIVERSITY", *lines])


def _lineage(steps: list[Step]) -> str:
    if not steps:
        return ""
    count = len(steps) - 1
    return "\n\n".join([f"THE WAY TO THE WINNER, {count} step{'s' * (count != 1)}", *map(_step, steps)])


def _step(step: Step) -> str:
    place = "" if step.iteration is None else f"iteration {step.iteration}, "
    place += "" if step.island is None else f"island {step.island}, "
    gain = "" if step.gain is None else f" ({step.gain:+.4f})"
    moved = "" if step.base is None else f"; from iteration {step.base}, the nearest before"
    moved += f"; its parent had migrated to island {', '.join(map(str, step.migrated))}" if step.migrated else ""
    body = "\n".join(f"    {line}".rstrip() for line in step.diff.splitlines())
    return f"{place}{step.by}: {_score(step.score)}{gain}{moved}\n{body}"


def _damage(found: Summary) -> str:
    if not found.damage:
        return ""
    lines = [f"{log}, line {line}: {_cut(reason)}" for log, line, reason in found.damage[:SHOWN]]
    more = len(found.damage) - SHOWN
    return "\n".join(["NOT READ", *lines, *([f"{more} more"] if more > 0 else [])])


def _score(score: float | None) -> str:
    return "no score" if score is None else f"{score:+.4f}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _cut(text: str, most: int = 90) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
