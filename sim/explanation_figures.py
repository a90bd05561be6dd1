"""An `Explanation` as PNG figures: crossed replays, mistakes by group, what tells the costly ones.

Must not know how anything was found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.explanation_text import TITLES, telling
from sim.plotting import GRID, INK, MUTED, load, new_figure, save, thousands

if TYPE_CHECKING:
    from sim.decisions import Decisions
    from sim.explanation import Explanation

POLICY, ORACLE, MISTAKE, LOST = "#4477aa", "#ccbb44", "#bbbbbb", "#cc6677"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.left": False,
    "text.color": INK,
    "savefig.dpi": 150,
}


def draw(found: Explanation, folder: Path) -> list[Path]:
    """Write the figures as PNG files and return their paths.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        OSError: If the folder cannot be written.
    """
    style = load("matplotlib").rc_context(STYLE)
    head = f"{found.policy} on {found.trace}, {found.capacity_blocks:,} blocks"
    paths = []

    def keep(figure: Any, name: str) -> None:
        paths.append(folder / f"{name}.png")
        save(figure, paths[-1], bbox_inches="tight", facecolor="white")

    with style:
        keep(_replays(new_figure(7, 2.6), found, head), "replays")
        for kind, (title, mistake, costly, _) in TITLES.items():
            decisions = getattr(found, kind)
            if decisions.mistakes:
                keep(_groups(decisions, f"{title}, {mistake} · {head}", mistake), f"{kind}_by_group")
            shown = telling(decisions.separations)
            if shown:
                figure = new_figure(6.5, 1.1 + 0.3 * len(shown))
                keep(_separations(figure, shown, f"{title}: what tells the {costly}\n{head}", costly), f"{kind}_fields")
    return paths


def _replays(figure: Any, found: Explanation, head: str) -> Any:
    axes = figure.subplots()
    rows = [
        ("the policy decides alone", "policy", POLICY),
        ("the oracle admits", "oracle_admission", ORACLE),
        ("the oracle evicts", "oracle_eviction", ORACLE),
        ("the oracle does both", "oracle_both", ORACLE),
    ]
    base = found.hits["policy"]
    for place, (_, name, color) in enumerate(rows):
        hits = found.hits[name]
        axes.barh(place, hits, color=color, height=0.62)
        gain = f"  {hits - base:+,}" if place else ""
        label = axes.annotate(f"{hits:,}{gain}", (hits, place), (5, 0), textcoords="offset points", va="center")
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    best = found.hits["optimum"]
    axes.axvline(best, color=INK, linewidth=1, linestyle=":")
    axes.text(best, -0.62, f"optimum {best:,}", ha="center", va="bottom", color=INK)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlim(0, 1.3 * max(best, 1))
    axes.xaxis.set_major_formatter(thousands)
    axes.set_xlabel("hit blocks", color=MUTED)
    axes.set_title(f"Who decides · {head}", pad=20)
    _plain(axes)
    return figure


def _groups(decisions: Decisions, head: str, mistake: str) -> Any:
    """Draw a panel per field: share of mistakes per group, and where the lost hits are."""
    costs = decisions.hit_blocks_lost > 0
    fields = list(decisions.groups)
    heights = [len(decisions.groups[name]) for name in fields]
    figure = new_figure(9 if costs else 5.5, 0.9 + sum(0.24 * height + 0.45 for height in heights))
    grid = figure.subplots(len(fields), 1 + costs, squeeze=False, height_ratios=heights, sharex="col")
    for row, name in enumerate(fields):
        groups = decisions.groups[name]
        places = range(len(groups))
        shares = [group.mistakes / group.decisions for group in groups]
        grid[row][0].barh(places, shares, color=MISTAKE if costs else LOST, height=0.7)
        for place, (share, group) in enumerate(zip(shares, groups, strict=True)):
            grid[row][0].text(share, place, f" {share:.0%} of {group.decisions:,}", va="center", fontsize=8)
        grid[row][0].set_yticks(places, [group.label for group in groups])
        grid[row][0].set_ylabel(name, fontweight="bold", rotation=0, ha="right", va="center", labelpad=18)
        if costs:
            lost = [group.hit_blocks_lost for group in groups]
            grid[row][1].barh(places, lost, color=LOST, height=0.7)
            for place, value in enumerate(lost):
                grid[row][1].text(value, place, f" {value:,}", va="center", fontsize=8)
            grid[row][1].set_yticks([])
            grid[row][1].margins(x=0.2)
        for axes in grid[row]:
            axes.set_ylim(len(groups) - 0.4, -0.6)
            _plain(axes)
    grid[0][0].set_xlim(0, 1.32 * max(g.mistakes / g.decisions for gs in decisions.groups.values() for g in gs))
    step = 0.2 if grid[0][0].get_xlim()[1] > 0.5 else 0.1
    grid[0][0].set_xticks(
        [tick * step for tick in range(round(1 / step) + 1) if tick * step < grid[0][0].get_xlim()[1]]
    )
    grid[0][0].xaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    grid[-1][0].set_xlabel(f"share of decisions {mistake}", color=MUTED)
    if costs:
        grid[-1][1].set_xlabel("hit blocks lost", color=MUTED)
        grid[-1][1].xaxis.set_major_formatter(thousands)
    figure.tight_layout()
    figure.align_ylabels(grid[:, 0])
    figure.suptitle(head, x=0.02, y=1.0, ha="left", va="bottom", fontsize=10, fontweight="bold")
    return figure


def _separations(figure: Any, shown: Any, head: str, costly: str) -> Any:
    axes = figure.subplots()
    for place, one in enumerate(shown):
        axes.barh(place, one.auc - 0.5, left=0.5, color=LOST if one.auc > 0.5 else POLICY, height=0.62)
        side = "left" if one.auc > 0.5 else "right"
        axes.text(one.auc, place, f" {one.auc:.2f} ", va="center", ha=side)
    reach = max(0.15, 1.35 * max(abs(one.auc - 0.5) for one in shown))
    axes.axvline(0.5, color=INK, linewidth=1)
    axes.set_xlim(0.5 - reach, 0.5 + reach)
    axes.set_yticks(range(len(shown)), [one.field for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(f"AUC: ← lower where {costly} · 0.5 tells nothing · higher where {costly} →", color=MUTED)
    axes.set_title(head, pad=10)
    _plain(axes)
    return figure


def _plain(axes: Any) -> None:
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
