"""An `Explanation` as text for a terminal. Knows what it says; must not know how it was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sim.core.fields import NEVER
from sim.groups import Group
from sim.tables import table

if TYPE_CHECKING:
    from sim.decisions import Costly, Decisions, Separation
    from sim.explanation import Explanation

TELLING = 0.02
"""Fields whose AUC is nearer to 0.5 than this are not shown."""

SHOWN_FIELDS = 8

TITLES = {
    "evictions": ("Evictions", "wrong", "costly", "another candidate was asked for later"),
    "admitted": ("Admitted blocks", "in vain", "in vain", "nobody hits it before it leaves, nor would the optimum"),
    "bypassed": ("Bypassed blocks", "missed", "missed", "the optimum hits it when it is asked for next"),
}
"""Per kind of decision: heading, what a mistake is called, what a costly one is called, what a mistake is."""


def describe(found: Explanation) -> str:
    """Return the whole report."""
    head = (
        f"{found.policy} on {found.trace}: {found.capacity_blocks:,} blocks of {found.block_tokens} tokens, "
        f"{found.requests:,} requests, one at a time"
    )
    parts = [head, _replays(found), _account(found)]
    parts += [_decisions(getattr(found, kind), *TITLES[kind]) for kind in TITLES]
    return "\n\n".join(parts)


def _replays(found: Explanation) -> str:
    hits, looked_up = found.hits, found.looked_up_blocks

    def shown(name: str) -> str:
        return f"{hits[name]:,} ({_percent(hits[name], looked_up)})"

    rows = [
        ("the policy admits", shown("policy"), shown("oracle_eviction"), f"{found.eviction_regret:+,} eviction regret"),
        ("the oracle admits", shown("oracle_admission"), shown("oracle_both"), ""),
        ("", f"{found.admission_regret:+,} admission regret", f"{hits['optimum']:,} the optimum", ""),
    ]
    return table(("Hit blocks", "the policy evicts", "the oracle evicts", ""), rows, "lrrl")


def _account(found: Explanation) -> str:
    account = found.account
    text = (
        f"{found.hits['optimum']:,} hits of the optimum - {found.hits['policy']:,} of the policy = "
        f"{account['lost_to_evictions']:,} lost to evictions + {account['lost_to_bypasses']:,} lost to bypasses - "
        f"{account['hit_by_policy_alone']:,} hit by the policy alone"
    )
    if found.no_better_victim:
        text += f"\n{found.no_better_victim:,} of the evictions had no better candidate"
    return text


def _decisions(kind: Decisions, title: str, mistake: str, costly: str, meaning: str) -> str:
    if not kind.decisions:
        return f"{title}: none"
    lines = [
        f"{title}: {kind.decisions:,}; {mistake}: {kind.mistakes:,} ({_percent(kind.mistakes, kind.decisions)}), "
        f"{meaning}" + (f"; hit blocks lost: {kind.hit_blocks_lost:,}" if kind.hit_blocks_lost else "")
    ]
    if kind.mistakes:
        lines += [_groups(kind.groups, mistake, kind.hit_blocks_lost > 0), ""]
        lines += [_separations(telling(kind.separations), costly, kind.sampled_every), ""]
        lines += [f"Costliest, {mistake}:", *(_costly(item, kind.hit_blocks_lost > 0) for item in kind.costliest)]
    return "\n".join(lines)


def _groups(groups: Mapping[str, tuple[Group, ...]], mistake: str, costs: bool) -> str:
    rows = []
    for name, members in groups.items():
        for i, group in enumerate(members):
            row = ["" if i else name, group.label, f"{group.decisions:,}", _percent(group.mistakes, group.decisions)]
            rows.append([*row, f"{group.hit_blocks_lost:,}"] if costs else row)
    return table(
        ("by", "value", "decisions", mistake, "hits lost")[: 5 if costs else 4], rows, "llrrr"[: 5 if costs else 4]
    )


def telling(separations: Iterable[Separation]) -> list[Separation]:
    """Return the most telling fields; of those that are one number on different scales, the first."""
    by_auc = {round(one.auc, 6): one for one in [*separations][::-1] if abs(one.auc - 0.5) >= TELLING}
    return [*by_auc.values()][::-1][:SHOWN_FIELDS]


def _separations(shown: Iterable[Separation], costly: str, every: int) -> str:
    rows = []
    for one in shown:
        row = [one.field, f"{one.auc:.3f}", _number(one.costly), _number(one.others)]
        rows.append(row if one.instead_higher is None else [*row, f"{one.instead_higher:.0%}"])
    if not rows:
        return f"No field tells the {costly} from the others."
    head = ["field", "AUC", f"median, {costly}", "others", "higher in the oracle's choice"][: len(rows[0])]
    sample = f", every {every}th decision" if every > 1 else ""
    return f"What tells the {costly} from the others (AUC 0.5: nothing{sample})\n{table(head, rows)}"


def _costly(item: Costly, costs: bool) -> str:
    shown = {name: "never" if value >= NEVER else value for name, value in item.values.items()}
    known = " ".join(f"{name}={value}" for name, value in shown.items())
    text = f"  {item.blocks} blocks for request {item.request}"
    if item.asked_by is not None:
        text += f", asked for by {item.asked_by}"
    elif costs:
        text += ", never asked for"
    text += f"; first block {item.block}: {known}"
    return text if item.instead is None else f"{text}; rather block {item.instead}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _number(value: float) -> str:
    if value >= NEVER:
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
