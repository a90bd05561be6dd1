"""Policies that are good at one rule of the promotion gate and break another: each fails, and for that reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from promotion_panel import FEW, HONEST, LOSER, quick_gate, write_panel

from sim.policy.program import Policy
from sim.promotion.gate import check_lru, judge
from sim.promotion.verdict import NOT_TRIED, RULES, Verdict
from sim.score import Cell
from workloads.panel import load_panel

Judged = Callable[[str], Verdict]


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_panel(tmp_path_factory.mktemp("panel"))


@pytest.fixture(scope="module")
def judged(panel: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    file = tmp_path_factory.mktemp("policy") / "candidate.py"

    def run(source: str) -> Verdict:
        file.write_text(source)
        return judge(file, panel, against=FEW)

    with quick_gate(panel):
        yield run


def failing(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.failures}


def unless(condition: str) -> str:
    """Return the honest policy, turned into a loser where a condition holds."""
    return HONEST.replace("    return", f"    if {condition}:\n        return block.last_access\n    return")


def test_the_honest_policy_passes_every_rule(judged: Judged) -> None:
    verdict = judged(HONEST)
    assert verdict.passed, str(verdict)
    assert tuple(check.name for check in verdict.checks) == RULES
    assert verdict["twin"].figures["loop_one"]["evictions"] > 0
    assert set(verdict["baselines"].figures["baselines"]) == set(FEW)
    assert "passed" in str(verdict)


def test_lru_in_disguise_beats_nobody(judged: Judged) -> None:
    verdict = judged(LOSER)
    assert failing(verdict) == {"baselines"}
    assert verdict["baselines"].figures["score"] <= 0.0


def test_a_policy_that_knows_a_tenant_by_name(judged: Judged) -> None:
    verdict = judged(unless("block.tenant > 2.5 and block.tenant < 4.5"))
    assert failing(verdict) == {"renaming"}
    assert "tenants and request types renamed" in verdict["renaming"].reason


def test_comparing_tenants_with_each_other_is_fine(judged: Judged) -> None:
    hook = "def on_hit(block, request, cache):\n    block.s0 = 1.0 if block.tenant == request.tenant else 0.0\n"
    assert judged(hook + "\n\n" + HONEST).passed


def test_a_policy_that_knows_the_capacities(judged: Judged, panel: str) -> None:
    """In tokens, so that changing the block size alone does not show it."""
    known = [cell.capacity_blocks * 64 for cell in load_panel("validation", panel).cells]
    is_known = " or ".join(f"abs(cache.capacity_blocks * cache.block_tokens - {tokens}.0) < 512.0" for tokens in known)
    verdict = judged(unless(f"not ({is_known})"))
    assert failing(verdict) == {"capacity"}
    assert "gap closed falls from" in verdict["capacity"].reason


def test_a_policy_that_knows_the_block_size(judged: Judged) -> None:
    verdict = judged(unless("cache.block_tokens != 64.0"))
    assert failing(verdict) == {"block size"}


def test_a_policy_that_knows_how_fast_time_runs(judged: Judged) -> None:
    """It tells the seconds per request from the wait of each block; the panel's arrivals are half a second apart."""
    slow_or_fast = "block.gap < 1e6 and (block.gap_s < 0.36 * block.gap or block.gap_s > 0.7 * block.gap)"
    verdict = judged(unless(slow_or_fast))
    assert failing(verdict) == {"time"}


def test_a_policy_that_reads_the_clock(judged: Judged) -> None:
    verdict = judged(unless("block.last_access - 50.0 * math.floor(block.last_access / 50.0) < 20.0"))
    assert failing(verdict) == {"isolated"}
    assert "absolute time" in verdict["isolated"].reason
    assert verdict["baselines"].reason == NOT_TRIED


def test_a_slow_policy(judged: Judged) -> None:
    loop = (
        "    x = 0.001 * block.age\n    for i in range(64):\n        x = math.tanh(math.exp(-abs(x)) + math.log1p(x))\n"
    )
    verdict = judged(f"def priority(block, cache):\n{loop}    return 0.0 * x - block.age * -1.0\n")
    assert failing(verdict) == {"cost"}
    assert verdict["cost"].figures["ratio"] > 8.0
    assert verdict["time"].reason == NOT_TRIED
    assert not verdict.passed


def test_a_bloated_policy(judged: Judged) -> None:
    verdict = judged(HONEST.rstrip() + " + 0.0 * block.depth" * 60 + "\n")
    assert failing(verdict) == {"size"}


def test_a_policy_that_breaks_where_nobody_looked(judged: Judged, panel: str) -> None:
    cell = load_panel("validation", panel).cells[-1]
    there = f"{round(0.8 * cell.capacity_blocks)}.0"
    verdict = judged(
        f"def priority(block, cache):\n    return -block.last_access / abs(cache.capacity_blocks - {there})\n"
    )
    assert failing(verdict) == {"capacity"}
    assert "not finite" in verdict["capacity"].reason
    assert verdict["time"].reason == NOT_TRIED


def test_what_the_language_refuses(judged: Judged) -> None:
    verdict = judged("import os\n" + HONEST)
    assert failing(verdict) == {"contract"}
    assert "line 1: imports are not allowed" in verdict["contract"].reason
    assert (verdict.nodes, verdict.hit_tokens) == (0, ())


def test_a_policy_object_is_judged_like_its_file(judged: Judged, panel: str) -> None:
    del judged  # its fixture shares the fresh process
    verdict = judge(Policy.from_source(HONEST, "mine"), panel, against=FEW)
    assert verdict.passed, str(verdict)
    assert verdict.policy == "mine"


def cell(trace: str, hit: int, lru: int = 100, optimum: int = 200, prompt: int = 1000) -> Cell:
    return Cell(trace, 0.1, 10, prompt, lru, optimum, hit)


@pytest.mark.parametrize(
    ("cells", "passes"),
    [
        ([cell("a", 150), cell("b", 101)], True),
        ([cell("a", 190), cell("b", 99)], False),
        ([cell("a", 80), cell("a", 130)], True),  # a loss at one capacity, made good at another
        ([cell("a", 60), cell("a", 130)], False),
        ([cell("a", 92, optimum=105)], True),  # no gap to win, and less than a point lost
        ([cell("a", 85, optimum=105)], False),
    ],
)
def test_no_trace_may_be_worse_off_than_under_lru(cells: list[Cell], passes: bool) -> None:
    found = check_lru(cells)
    assert found.passed is passes
    assert len(found.figures["a"]["cells"]) == sum(each.trace == "a" for each in cells)
    assert passes or "worse off than under LRU" in found.reason
