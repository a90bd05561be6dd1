"""The tables of the headline. Knows what was found and how it is shown; must not know how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim.options import Options
from sim.results.places import LRU_RUNNER, OPTIMUM_RUNNER, Place
from sim.results.report import Table, gap, percent, ranged

if TYPE_CHECKING:
    from sim.results.table import Found

READING = (
    "Gap closed is 0 for vLLM's LRU and 1 for the offline optimum, which knows the future; below 0 is worse than LRU."
)
METHOD = (
    "LRU is vLLM's own; vLLM runs nothing else. SGLang best and best classic are chosen on the validation split, by "
    "the panel's score: SGLang best of SGLang's own policies under SGLang's accounting (radix tree, whole segments "
    "leave), best classic of {classics} policies under vLLM's accounting. Best of the cell is the classic that hits "
    "most in this very cell: nobody can pick it beforehand. Peer is the production policy of prefix-cache-evolve, "
    "written in our contract from its published source. Intervals are 95%, by a paired bootstrap: the wider of "
    "drawing sessions and drawing time windows. Means are over the cells that count, each at least -1; cells marked ~ "
    "do not count, LRU is within a point of the optimum there."
)
OVERLOAD = 2.0
"""A cell is a queue, not a cache, if under LRU the mean TTFT is more than this many times the mean prefill."""


def tables(found: Found) -> list[Table]:
    """Return the tables, the shortest first."""
    shown = [_by_trace(found), _lost(found), _hits(found), _gaps(found), _prefill(found)]
    return [*shown, _served(found)] if found.served else shown


def _by_trace(found: Found) -> Table:
    chosen = {title: runner for title, runner in found.columns.chosen.items() if runner != LRU_RUNNER}
    title, classic = found.columns.classic
    policies, rivals = found.columns.policies, found.rivals()
    rows = []
    for trace, places in found.scored().items():
        leads = [ranged(found.mean(p.runner, places) - found.mean(classic, places),
                        found.ends(p.runner, places, classic)) for p in policies]  # fmt: skip
        won = []
        for each in policies:
            ahead = [p for p in places if found.best_of([each.runner, *rivals], p) == each.runner]
            won.append(f"{len(ahead)} of {len(places)}")
        numbers = [ranged(found.mean(runner, places), found.ends(runner, places)) for runner in chosen.values()]
        rows.append([trace, *numbers, *leads, *won])
    scores = [f"{found.measured.score(runner):+.3f}" for runner in chosen.values()]
    rows.append(["score (size not charged)", *scores, *[""] * 2 * len(policies)])
    head = ["trace", *chosen, *(f"{p.name}: lead on {title.partition(': ')[2]}" for p in policies),
            *(f"{p.name}: cells won" for p in policies)]  # fmt: skip
    note = (
        "A cell is won if nobody hits more there: no classic, nothing of SGLang's, not the peer. A lead whose interval "
        "holds 0 may be chance."
    )
    return Table("Mean gap closed by trace [95% interval]", head, rows, note)


def _lost(found: Found) -> Table:
    rivals, rows = found.rivals(), []
    for each in found.columns.policies:
        for place in found.measured.places:
            mine = found.measured.cell(each.runner, place)
            best = found.best_of(rivals, place)
            theirs = found.measured.cell(best, place)
            if mine.hit_tokens >= theirs.hit_tokens:
                continue
            behind = percent((theirs.hit_tokens - mine.hit_tokens) / max(mine.prompt_tokens, 1))
            lead = found.mean(each.runner, [place]) - found.mean(best, [place])
            by = ranged(lead, found.ends(each.runner, [place], best)) if mine.counts else ""
            rows.append([each.name, *_names(place, mine.counts), best.name, behind, by,
                         "yes" if mine.lost > 0 else ""])  # fmt: skip
    head = ["policy", "trace", "capacity", "to", "behind, points of prompt tokens", "gap closed, difference",
            "below LRU"]  # fmt: skip
    return Table("Where it loses: cells in which somebody hits more", head, rows or [["nowhere"] + [""] * 6])


def _names(place: Place, counts: bool) -> list[str]:
    return [place.trace, f"{place.label}{'' if counts else ' ~'}"]


def _hits(found: Found) -> Table:
    rows = []
    for place in found.measured.places:
        runners = [*found.columns.chosen.values(), found.best_of(found.columns.pool, place), OPTIMUM_RUNNER]
        cells = [found.measured.cell(runner, place) for runner in runners]
        numbers = [percent(cell.hit_tokens / max(cell.prompt_tokens, 1)) for cell in cells]
        numbers[-2] += f" {runners[-2].name}"
        rows.append([*_names(place, cells[-1].counts), *numbers])
    head = ["trace", "capacity", *found.columns.chosen, "best of the cell", "optimum"]
    return Table("Hit tokens, % of prompt tokens", head, rows)


def _gaps(found: Found) -> Table:
    chosen = {title: runner for title, runner in found.columns.chosen.items() if runner != LRU_RUNNER}
    rows = []
    for place in found.measured.places:
        cells = [found.measured.cell(runner, place) for runner in chosen.values()]
        numbers = [
            ranged(cell.gap_closed, found.ends(runner, [place])) if cell.counts else gap(cell.gap_closed)
            for cell, runner in zip(cells, chosen.values(), strict=True)
        ]
        rows.append([*_names(place, cells[0].counts), *numbers])
    return Table("Gap closed [95% interval]", ["trace", "capacity", *chosen], rows)


def _prefill(found: Found) -> Table:
    rate = Options().prefill_tokens_per_s
    runners = {**found.columns.chosen, "optimum": OPTIMUM_RUNNER}
    rows = [
        [*_names(place, found.measured.cell(OPTIMUM_RUNNER, place).counts),
         *(f"{found.measured.prefill_mean_s(runner, place, rate):.3f}" for runner in runners.values())]
        for place in found.measured.places
    ]  # fmt: skip
    note = f"Time to compute what was not hit, at {rate:,.0f} tokens/s: TTFT where nothing ever waits."
    return Table("TTFT estimate without load: mean prefill, s", ["trace", "capacity", *runners], rows, note)


def _served(found: Found) -> Table:
    assert found.served is not None
    rows, rate = [], Options().prefill_tokens_per_s
    for place in found.measured.places:
        seen = {title: found.served.latency(runner, place) for title, runner in found.columns.chosen.items()}
        idle_s = found.measured.prefill_mean_s(LRU_RUNNER, place, rate)
        queue = found.served.latency(LRU_RUNNER, place)["ttft_mean_s"] > OVERLOAD * idle_s
        names = _names(place, found.measured.cell(OPTIMUM_RUNNER, place).counts)
        rows.append([*names, *("queue" if queue else _seconds(each) for each in seen.values())])
    note = (
        "Requests run at the same time, hold their blocks and may have to wait for room. queue: the cache is so small "
        f"for the load that under LRU mean TTFT is more than {OVERLOAD:g} times the prefill; those figures, in the JSON"
        " file, tell of the waiting line."
    )
    return Table("TTFT estimate under load: mean (95th percentile), s", ["trace", "capacity", *seen], rows, note)


def _seconds(latency: Mapping[str, float]) -> str:
    return f"{latency['ttft_mean_s']:.3f} ({latency['ttft_p95_s']:.2f})"
