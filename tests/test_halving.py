"""Successive halving over cells: rungs, races, budgets in references, and the log a stopped tuning goes on from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import cli
from sim.fitness import TrainingObjective
from sim.marks import load_marks
from sim.policy.program import Policy
from sim.search import halving
from sim.search.replay_log import LoggedObjective, ReplayLog
from sim.search.rungs import rungs
from sim.search.trial import Candidate, Trial
from sim.search.tuner import Tuned, TuningFailed, tune
from workloads.panel import load_panel

SOURCE = (
    "def priority(block, cache):\n    return block.last_access + 100.0 * min(block.seen, 2.0) - 7.0 * block.depth\n"
)
SHARES = (0.02, 0.02, 0.06, 0.3, 0.3, 0.3)
GROUPS = ("small", "small", "small", "large", "large", "large")
TARGET = (1000.0, 3.0, 70.0)


class FakeCells:
    """Every cell likes TARGET, some a little beside it; counts replays."""

    shares, groups = SHARES, GROUPS

    def __init__(self, fails: Callable[[Sequence[float], int], bool] = lambda values, cell: False) -> None:
        self.replays: list[tuple[tuple[float, ...], int]] = []
        self.fails = fails

    def by_cell(self, policy: Policy) -> FakeCells:
        return self

    def replay(self, values: Sequence[float], cell: int) -> float:
        self.replays.append((tuple(values), cell))
        if self.fails(values, cell):
            return math.nan
        distance = sum(
            (math.log(value / target) - 0.1 * cell) ** 2 for value, target in zip(values, TARGET, strict=True)
        )
        return 100.0 / (1.0 + distance)

    def score(self, found: Sequence[float]) -> float:
        return sum(found) / len(found) if all(map(math.isfinite, found)) else -1.0

    @property
    def passes(self) -> float:
        return sum(SHARES[cell] for _, cell in self.replays)


def policy() -> Policy:
    return Policy.from_source(SOURCE, "toy")


def trial(cells: FakeCells, budget: float = 100.0) -> Trial:
    return Trial(cells, budget, math.inf, lambda better: None)


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.sampled_from("abc")), min_size=1, max_size=12))
def test_rungs_hold_every_cell_once(cells):
    total = sum(share for share, _ in cells)
    shares, groups = [share / total for share, _ in cells], [group for _, group in cells]
    found = rungs(shares, groups)
    assert sorted(cell for rung in found for cell in rung) == list(range(len(cells)))
    assert all(found)
    assert found == rungs(shares, groups)


@given(st.integers(1, 40), st.floats(0.0, 60.0))
def test_a_race_that_is_affordable_costs_no_more_and_another_candidate_would(count, passes):
    ladder = rungs(SHARES, GROUPS)
    size = halving.affordable(count, ladder, SHARES, passes)
    assert 0 <= size <= count
    assert halving.cost(size, ladder, SHARES) <= passes + 1e-6 or size == 0
    assert size == count or halving.cost(size + 1, ladder, SHARES) > passes - 1e-6


def test_survivors_come_first_and_only_they_see_all_cells():
    cells = FakeCells()
    running = trial(cells)
    running.finish(Candidate((100.0, 2.0, 7.0)))
    candidates = [Candidate(tuple(target * math.exp(i) for target in TARGET)) for i in (3, -2, 0, 1)]
    ranked = halving.race(running, candidates, rungs(SHARES, GROUPS))
    assert [round(math.log(candidate.values[0] / TARGET[0])) for candidate in ranked] == [0, 1, -2, 3]
    whole = [len(candidate.found) == len(SHARES) for candidate in ranked]
    assert whole == sorted(whole, reverse=True)
    assert whole[0]
    assert not whole[-1]
    assert running.best is ranked[0]
    assert running.spent == pytest.approx(cells.passes)


def test_tuning_by_halving_stays_in_the_budget_and_returns_what_all_cells_said():
    first, second = FakeCells(), FakeCells()
    one, two = tune(policy(), first, 40, seed=3), tune(policy(), second, 40, seed=3)
    assert one.policy.source == two.policy.source
    assert first.replays == second.replays
    assert one.passes == pytest.approx(first.passes)
    assert one.passes <= 40 + 1e-6
    assert len({values for values, _ in first.replays}) > 1.3 * one.evaluations, "most candidates never saw all cells"
    tuned = [literal.value for literal in one.policy.literals]
    assert one.score == pytest.approx(FakeCells().score([FakeCells().replay(tuned, i) for i in range(len(SHARES))]))
    assert one.score > one.start_score
    assert tune(policy(), FakeCells(), 40, seed=4).policy.source != one.policy.source


@pytest.mark.parametrize("budget", [1, 1.5, 2, 7, 13])
def test_small_budgets_hold_too_and_the_start_is_the_floor(budget):
    cells = FakeCells()
    found = tune(policy(), cells, budget, seed=1)
    assert cells.passes <= budget + 1e-6
    assert found.score >= found.start_score


def test_what_fails_in_a_cell_is_not_replayed_further_and_never_best():
    cells = FakeCells(lambda values, cell: cell == 1 and values[0] != 100.0 and values[0] > 150)
    found = tune(policy(), cells, 30, seed=2)
    assert found.policy.literals[0].value <= 150
    failed = {values for values, cell in cells.replays if cell == 1 and values[0] > 150}
    assert failed
    for values in failed:
        replayed = [cell for seen, cell in cells.replays if seen == values]
        assert replayed[-1] == 1, "nothing after the cell that failed"


def test_a_start_that_fails_everywhere_is_told():
    class Broken(FakeCells):
        def replay(self, values: Sequence[float], cell: int) -> float:
            raise KeyError("trace")

    with pytest.raises(TuningFailed) as caught:
        tune(policy(), Broken(), 5, seed=1)
    assert isinstance(caught.value.__cause__, KeyError)


def test_better_policies_are_told_as_they_are_found():
    told: list[tuple[str, float, float]] = []
    found = tune(
        policy(), FakeCells(), 30, seed=1, keep=lambda p, score, passes: told.append((p.source, score, passes))
    )
    assert told[0][0] == SOURCE
    assert [score for _, score, _ in told] == sorted(score for _, score, _ in told)
    assert told[-1][:2] == (found.policy.source, found.score)


# ---- the log of replays ----------------------------------------------------------------------------------------------

ABOUT = {"policy": "abc", "seed": 1}


def logged(path: Path, cells: FakeCells, budget: float) -> Tuned:
    log = ReplayLog(path, ABOUT)
    try:
        return tune(policy(), LoggedObjective(cells, log), budget, seed=5)
    finally:
        log.close()


@pytest.mark.parametrize("torn", [b"", b'{"values": [1.0, 2'])
def test_a_stopped_tuning_goes_on_without_repeating_replays(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    straight = FakeCells()
    wanted = tune(policy(), straight, 20, seed=5)

    class Stopped(FakeCells):
        def replay(self, values: Sequence[float], cell: int) -> float:
            if len(self.replays) == 50:
                raise KeyboardInterrupt
            return super().replay(values, cell)

    with pytest.raises(KeyboardInterrupt):
        logged(path, Stopped(), 20)
    with path.open("ab") as file:
        file.write(torn)
    again = FakeCells()
    found = logged(path, again, 20)
    assert (found.policy.source, found.history, found.passes) == (wanted.policy.source, wanted.history, wanted.passes)
    assert straight.replays[50:] == again.replays
    idle = FakeCells()
    assert logged(path, idle, 20).policy.source == wanted.policy.source
    assert not idle.replays


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no json\n", "line 1: no log"),
        (b'"text"\n', "line 1: no log"),
        (b"\xff\xfe", "line 1: no log"),
        (b'{"policy": "abc", "seed": 2}\n', "seed is 2 there and 1 here"),
        (b'{"policy": "abc"}\n', "line 1: no log"),
        (b'{"policy": "abc", "seed": 1}\n{"values": [1], "cell": "x", "found": 2}\n', "line 2: no replay"),
        (b'{"policy": "abc", "seed": 1}\n[]\n', "line 2: no replay"),
    ],
)
def test_a_file_that_is_no_log_of_this_tuning_is_refused_and_kept(tmp_path, content, told):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        ReplayLog(path, ABOUT)
    assert path.read_bytes() == content


# ---- the verb --------------------------------------------------------------------------------------------------------

PANEL = """\
format: kvevolve-panel/1
name: tiny-v1
capacities: [5%, 600]
splits:
  train:
    - {name: chat, source: 'synthetic:chat?seed=11', options: {requests: 300}}
    - {name: rag, source: 'synthetic:rag?seed=11', options: {requests: 100}}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    (tmp_path / "panel.yaml").write_text(PANEL)
    (tmp_path / "mine.py").write_text(SOURCE)
    return str(tmp_path / "panel.yaml"), str(tmp_path / "mine.py"), str(tmp_path / "out" / "tuned.py")


def test_the_verb_writes_a_policy_that_scores_what_it_says(files, capsys, tmp_path):
    panel, mine, out = files
    more = ["--traces", panel, "-o", out, "--passes", "8", "--json", "--resume", str(tmp_path / "log.jsonl")]
    assert cli.main(["tune", mine, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    objective = TrainingObjective(load_marks(load_panel("train", panel)))
    assert told["score"] == objective.score(Policy.from_file(out)) >= told["start_score"]
    assert told["start_score"] == objective.score(Policy.from_file(mine))
    assert told["passes"] <= 8
    lines = (tmp_path / "log.jsonl").read_text().count("\n")
    assert cli.main(["tune", mine, *more]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert (tmp_path / "log.jsonl").read_text().count("\n") == lines


def test_an_interrupt_leaves_the_best_so_far(files, monkeypatch, capsys):
    panel, mine, out = files
    from sim.fitness import CellReplays

    original, done = CellReplays.replay, []

    def stopping(self, values, cell):
        done.append(cell)
        if len(done) > 20:
            raise KeyboardInterrupt
        return original(self, values, cell)

    monkeypatch.setattr(CellReplays, "replay", stopping)
    assert cli.main(["tune", mine, "--traces", panel, "-o", out]) == 130
    assert Policy.from_file(out)
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda panel, mine, out: ["tune", mine, "-o", mine, "--traces", panel], "is the file to be tuned"),
        (lambda panel, mine, out: ["tune", mine, "-o", panel, "--traces", panel], "is there and no policy"),
        (lambda panel, mine, out: ["tune", mine, "-o", out, "--passes", "0"], "at least 1"),
        (lambda panel, mine, out: ["tune", mine, "-o", out, "--passes", "nan"], "at least 1"),
        (lambda panel, mine, out: ["tune", mine, "-o", out, "--sigma", "-1"], "above 0"),
        (lambda panel, mine, out: ["tune", "fifo", "-o", out], "no numbers to tune"),
        (lambda panel, mine, out: ["tune", "nosuch", "-o", out], "no policy 'nosuch'"),
    ],
)
def test_the_verb_refuses_what_makes_no_sense(files, capsys, change, told):
    arguments = change(*files)
    before = {path: Path(path).read_bytes() for path in files[:2]}
    assert cli.main(arguments) == 1
    assert told in capsys.readouterr().err
    assert before == {path: Path(path).read_bytes() for path in files[:2]}
