"""Breeding: behaviours tell no-ops, motifs do what they say, the screen chooses, a stuck run starts elsewhere."""

from __future__ import annotations

import ast
import json
import math
import random
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_operator import SEEDS

from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.registry import load_policy, policies
from sim.score import Cell, by_capacity
from sim.screening import Screen
from sim.search import merging, motifs, probe
from sim.search.breeder import Breeder
from sim.search.genome import Genome, fingerprint
from sim.search.ledger import Ledger
from sim.search.library import library
from sim.search.lineage import Lineages
from sim.search.memory import Known, Memory
from sim.search.operator import MOVES, PLAIN_MOVES, Operator, Partner
from sim.search.probe import Unsound, behaviour
from sim.search.probe_history import REGIMES, histories
from sim.search.service import Service
from sim.search.settings import Settings
from sim.search.simplify import simplify
from sim.search.variation import Variation
from workloads import load
from workloads.panel import Setup, make_panel
from workloads.panel_reduction import reduced

LRU = "def priority(block, cache):\n    return block.released\n"


def policy(text: str) -> Policy:
    return Policy.from_source(text)


def scored(expression: str) -> Policy:
    return policy(f"def priority(block, cache):\n    return {expression}\n")


# ---- the probe -----------------------------------------------------------------------------------------------------


def test_the_history_is_that_of_an_lru_cache_and_always_the_same():
    for regime, history in zip(REGIMES, histories(), strict=True):
        resident: dict[int, None] = {}
        for moment in history:
            assert [block for block, _ in moment.shown if block in resident] == [block for block, _ in moment.shown]
            assert all(block in resident for block, _ in moment.hits)
            for block, _ in moment.evicted:
                del resident[block]
            for block, values in moment.missing:
                assert values["inserted"] == values["last_access"] == moment.cache["now"]
                resident[block] = None
            assert len(resident) <= regime.capacity
            for _, values in moment.shown:
                assert 0 <= values["last_access"] <= moment.cache["now"]
                assert values["seen"] > values["hits"] >= 0
    histories.cache_clear()
    assert behaviour(policy(LRU)).mark == behaviour(policy(LRU)).mark


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("block.released", "3 * block.released + 7"),
        ("block.last_access + 5 * block.seen", "block.last_access + 5 * block.seen - cache.now"),
        ("block.seen", "math.log1p(block.seen) + 0 * block.depth"),
        ("-block.age", "block.last_access"),
        ("block.hits + block.tenant", "block.hits"),
        ("block.seen if cache.pressure >= 0 else block.depth", "block.seen"),
    ],
)
def test_what_changes_no_rank_is_no_other_behaviour(one, two):
    assert behaviour(scored(one)).mark == behaviour(scored(two)).mark


def test_shipped_policies_behave_differently_unless_they_are_lru_here():
    lru = {"lru", "trtllm_priority", "bailian_workload_aware", "continuum_ttl"}  # LRU on this history
    marks = {name: behaviour(load_policy(name)).mark for name in policies()}
    shared = [name for name, mark in marks.items() if mark == marks["lru"]]
    assert set(shared) <= lru
    assert len(set(marks.values())) == len(marks) - len(shared) + 1


def test_admission_and_slots_are_part_of_the_behaviour():
    second = LRU + "\n\ndef admit(block, request, cache):\n    return block.seen >= 2\n"
    fresh = LRU + "\n\ndef admit(block, request, cache):\n    return block.seen >= 1\n"
    assert behaviour(policy(second)).admitted != behaviour(policy(fresh)).admitted
    assert behaviour(policy(fresh)).mark == behaviour(policy(LRU)).mark, "it refuses nothing"
    assert behaviour(policy(second)).distance(behaviour(policy(LRU))) > 0.5
    counted = "def priority(block, cache):\n    return block.s0\n\n\ndef on_hit(block, request, cache):\n"
    once, twice = (policy(counted + f"    block.s0 += {step}\n") for step in ("1", "block.depth"))
    assert 0 < behaviour(once).distance(behaviour(twice)) < 0.5


def test_touch_scores_are_those_of_the_last_use():
    text = "def priority(block, cache):\n    return block.released + 90000 * cache.recent_hit_rate\n"
    lru = behaviour(policy(LRU)).mark
    assert behaviour(policy(text)).mark == lru, "equal for all blocks of a moment"
    assert behaviour(policy(f'SCORING = "touch"\n\n\n{text}')).mark != lru
    assert behaviour(policy(f'SCORING = "touch"\n\n\n{LRU}')).mark == lru


@pytest.mark.parametrize("expression", ["1 / (block.seen - block.seen)", "math.log(block.hits)", "block.gap ** 90"])
def test_scores_that_are_not_finite_are_unsound(expression):
    with pytest.raises(Unsound, match=r"not finite|cannot be computed"):
        behaviour(scored(expression))


def test_a_policy_that_would_hang_is_not_run():
    helpers = ["def f0(x):\n    return x + 1\n"]
    helpers += [f"def f{i}(x):\n    return f{i - 1}(x) + f{i - 1}(x)\n" for i in range(1, 40)]
    text = "\n\n".join([*helpers, "def priority(block, cache):\n    return f39(block.seen)\n"])
    with pytest.raises(Unsound, match="too many steps"):
        behaviour(policy(text))


@given(seed=st.integers(0, 10**9), name=st.sampled_from(sorted(SEEDS)), move=st.sampled_from(sorted(MOVES)))
@settings(max_examples=25)
def test_simplification_keeps_behaviour_with_hooks_and_slots(seed, name, move):
    variation = Variation(Genome.parse(SEEDS[name]), [(g, 1.0) for _, g in library()], random.Random(seed))
    MOVES[move][0](variation)
    try:
        raw = behaviour(Policy.from_source(variation.genome.source()))
    except (PolicyRejected, Unsound):
        return
    small = behaviour(Policy.from_source(simplify(variation.genome).source()))
    assert raw.distance(small) < 2e-3, "equal but for the rounding of sums"


# ---- motifs and merging --------------------------------------------------------------------------------------------


def varied(name: str, seed: int, source: str = LRU) -> Variation:
    donors = [(genome, 1.0) for _, genome in library()]
    variation = Variation(Genome.parse(source), donors, random.Random(seed))
    variation.changed = MOVES[name][0](variation)  # type: ignore[attr-defined]
    return variation


@pytest.mark.parametrize("name", sorted(set(MOVES) - set(PLAIN_MOVES)))
def test_motifs_give_policies_that_are_sound_and_mostly_behave_differently(name):
    ends: Counter[str] = Counter()
    parents = {one: behaviour(load_policy(one)).mark for one in ("marconi", "lru_frequency", "second_touch")}
    for seed in range(9):
        parent = sorted(parents)[seed % 3]
        source = load_policy(parent).source
        child = varied(name, seed, source)
        if not child.changed:  # type: ignore[attr-defined]
            ends["does not apply"] += 1
            continue
        try:
            found = behaviour(Policy.from_source(simplify(child.genome).source()))
            ends["changes" if found.mark != parents[parent] else "no-op"] += 1
        except (PolicyRejected, Unsound):
            ends["refused"] += 1
    assert ends["changes"] >= 2, ends


def test_a_session_hands_its_turn_count_on_along_the_prefix(monkeypatch):
    monkeypatch.setattr(motifs, "_CARRIED", ("turn count",))
    text = simplify(varied("session_state", 1).genome).source()
    hooks = {name: node for name, node in Genome.parse(text).functions.items() if name.startswith("on_")}
    assert set(hooks) == {"on_hit", "on_insert"}
    run = probe._Run(policy(text))
    for moment, still in zip(histories()[0], probe._still(0), strict=True):
        handed = run.blocks[moment.hits[-1][0]].s0 if moment.hits else 0.0
        run.serve(moment, still)
        assert {run.blocks[block].s0 for block, _ in moment.missing} == {handed + 1.0}
    assert max(record.s0 for record in run.blocks.values()) >= 4


@pytest.mark.parametrize(("one", "two"), [("gdsf", "lfu_aging"), ("marconi", "sae_per_block"), ("pgdsf", "lru_k")])
def test_a_switch_is_either_policy_with_hooks_and_slots_of_its_own(one, two, monkeypatch):
    for truth, chosen in (("0 < 1", one), ("0 > 1", two)):
        monkeypatch.setattr(merging, "regime", lambda rng, truth=truth: ast.parse(truth, mode="eval").body)
        donors = [(Genome.parse(load_policy(two).source), 1.0)]
        variation = Variation(Genome.parse(load_policy(one).source), donors, random.Random(1))
        assert merging.switch(variation)
        joined = Policy.from_source(variation.genome.source())
        assert behaviour(joined).mark == behaviour(load_policy(chosen)).mark


def test_what_cannot_be_joined_is_left_as_it_was():
    full = LRU + "\n\ndef on_hit(block, request, cache):\n" + "".join(f"    block.s{i} += 1\n" for i in range(4))
    before = Genome.parse(full)
    for name in ("gdsf", "t_lru"):
        variation = Variation(before.copy(), [(Genome.parse(load_policy(name).source), 1.0)], random.Random(2))
        assert not merging.switch(variation)
        assert variation.genome.source() == before.source()


def test_every_shipped_policy_is_a_donor():
    assert {name for name, _ in library()} == set(policies())
    operator, rng = Operator(library=[genome for _, genome in library()]), random.Random(4)
    taken = " ".join(operator.propose(SEEDS["lru"], [], rng).source for _ in range(150))
    assert any(word in taken for word in ("math.log2", "math.floor", "cache.block_tokens")), "no grammar draws these"


# ---- breeding ------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    score: float
    stage: str = "panel"
    refs: int = 100


class SizeScreen:
    """Prefers large policies."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def measure(self, source: str) -> Measured:
        self.asked.append(source)
        return Measured(Policy.from_source(source).nodes / 1000)


SCREEN = SizeScreen()


def size_screen() -> SizeScreen:
    return SCREEN


class FlatScreen:
    def measure(self, source: str) -> Measured:
        return Measured(0.1)


def breeder(**values: object) -> Breeder:
    SCREEN.asked.clear()
    quiet = {"screen": f"{__name__}:size_screen", "tune_fraction": 0, "settle_passes": 0, "opening": 0}
    return Breeder(Settings.from_mapping(quiet | values))


def breed(found: Breeder, count: int, seed: int = 1) -> list:
    rng, children = random.Random(seed), []
    for _ in range(count):
        children.append(found.breed(SEEDS["lru"], (), rng, 1.0, Ledger()))
    return children


def test_no_child_behaves_like_its_parent_or_any_program_before():
    found = breeder(screen_children=0)
    found.note(SEEDS["lru"], 0.0)
    found.note(SEEDS["frequency"], 0.01)
    marks = [behaviour(child.policy).mark for child in breed(found, 25)]
    marks += [behaviour(Policy.from_source(SEEDS[name])).mark for name in ("lru", "frequency")]
    assert len(set(marks)) == len(marks)
    assert not SCREEN.asked


def test_the_answer_is_the_best_on_the_screen_and_no_child_is_screened_twice():
    found = breeder(screen_children=3, explore=0)
    for _ in range(8):
        (child,) = breed(found, 1, seed=len(SCREEN.asked))
        waiting = [item.screened for item in found.memory.known.values() if not item.sent]
        assert child.screened is not None
        assert all(child.screened >= score for score in waiting)
    assert len(SCREEN.asked) == 24 == len(set(SCREEN.asked))


def test_exploring_answers_with_any_of_the_children():
    found = breeder(screen_children=4, explore=1)
    breed(found, 6)
    ranks = [item.screened for item in found.memory.known.values() if item.sent]
    assert min(ranks) < sorted(item.screened for item in found.memory.known.values())[12]


class Far:
    """Best where every literal is 40; each pass replays five references."""

    refs = 5

    def score(self, policy: Policy) -> float:
        return self.of_literals(policy)([literal.value for literal in policy.literals])

    def of_literals(self, policy: Policy):
        return lambda values: 0.5 - sum(abs(math.log(max(value, 1e-9) / 40.0)) for value in values) / 100.0


def test_an_answer_has_constants_that_fit_and_keeps_its_parents():
    given = {"objective": f"{__name__}:Far", "screen": f"{__name__}:FlatScreen", "settle_passes": 12}
    found, ledger = breeder(**given, screen_children=1), Ledger()
    found.note(SEEDS["frequency"], 0.2)
    for seed in range(12):
        child = found.breed(SEEDS["frequency"], (), random.Random(seed), 1.0, ledger)
        assert found.memory.known[fingerprint(child.policy.source)].sent
        if child.moves[-1] == "settled":
            kept = found.memory.known[fingerprint(child.policy.source)].parent
            assert kept is not None
    assert ledger.counts["settled"] == 12
    assert 0 < ledger.counts["refs settled"] <= 12 * 12 * 5
    parent, child = (
        Policy.from_source(f"def priority(block, cache):\n    return {text}\n")
        for text in ("3 * block.seen + 5 * block.depth", "3 * block.seen + 7 * block.depth + 3")
    )
    spent = found.tuning.settle(child, parent, 1)
    values = [literal.value for literal in spent.result.policy.literals]
    assert values[0] == 3, "its parent's"
    assert values[1:] != [7, 3]
    assert spent.to_dict()["refs"] == spent.refs == round(spent.result.passes * 5)


def test_a_run_opens_with_draws_and_shipped_policies():
    found = breeder(screen_children=2, opening=3)
    moves = [child.moves[0] for child in breed(found, 6)]
    assert set(moves[:3]) <= {"draw", "library"}
    assert set(moves[3:]) - {"draw", "library"}, "then it breeds; a draw that waited may still be an answer"


def test_runs_repeat_and_threads_share_a_breeder():
    first, second = ([c.policy.source for c in breed(breeder(screen_children=2), 5)] for _ in range(2))
    assert first == second
    shared, children = breeder(screen_children=2), []
    threads = [
        threading.Thread(target=lambda seed=seed: children.extend(breed(shared, 3, seed=seed))) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len({child.policy.source for child in children}) == 12


def test_a_stuck_run_starts_a_fresh_lineage_away_from_the_best_and_comes_home():
    found = breeder(screen_children=2, restart_after=3, taboo_distance=0.05, max_nodes=40)
    found.note(SEEDS["frequency"], 0.9)
    children = breed(found, 12)
    assert [child.lineage % 2 for child in children].count(1) >= 3
    (best, *_) = found.lineages.taboo
    assert best.source == SEEDS["frequency"]
    fresh = [item for item in found.memory.known.values() if item.lineage == 1]
    assert fresh
    assert min(item.behaviour.distance(best.behaviour) for item in fresh) >= 0.05
    assert any(child.moves[0] in ("library", "draw") for child in children if child.lineage == 1)
    assert found.memory.best().source == SEEDS["frequency"]


def known(name: str, score: float, lineage: int = 0) -> Known:
    return Known(SEEDS[name], name, behaviour(Policy.from_source(SEEDS[name])), screened=score, lineage=lineage)


def test_a_lineage_lasts_while_it_improves():
    memory, lineages = Memory(), Lineages(patience=2, radius=0.01)
    memory.add(known("lru", 0.1))
    assert [lineages.step(memory) for _ in range(2)] == [False, False]
    memory.add(known("depth", 0.2))
    assert [lineages.step(memory) for _ in range(3)] == [False, False, True]
    assert lineages.fresh
    assert not lineages.members(memory)
    assert lineages.forbids(known("depth", 0.0, 1))
    assert not lineages.forbids(known("lru", 0.0, 1))
    assert not any(Lineages(0, 0.1).step(memory) for _ in range(9))


def test_estimates_prefer_what_the_panel_said():
    memory = Memory()
    for name, screened, score in (("lru", 0.1, 0.05), ("depth", 0.2, None), ("gdsf", None, None)):
        memory.add(known(name, screened)).score = score  # type: ignore[arg-type]
    order = [item.mark for item in memory.ranked()]
    assert order == ["depth", "lru"]
    assert memory.estimate(memory.known["depth"]) == pytest.approx(0.15)
    assert memory.best().mark == "lru"


# ---- the record ----------------------------------------------------------------------------------------------------


def prompt() -> dict:
    from openevolve.config import Config
    from openevolve.prompt.sampler import PromptSampler

    user = PromptSampler(Config().prompt).build_prompt(
        current_program=SEEDS["frequency"], program_metrics={"combined_score": 0.02}
    )["user"]
    return {"model": "kvevolve-gp", "messages": [{"role": "user", "content": user}]}


def test_every_child_is_accounted_for(tmp_path: Path):
    chosen = Settings.from_mapping(
        {"screen": f"{__name__}:FlatScreen", "screen_children": 3, "restart_after": 2}
        | {"tune_fraction": 0, "settle_passes": 0, "opening": 0}
    )
    service = Service(chosen, tmp_path)
    for _ in range(6):
        service.complete(prompt())
    calls = [json.loads(line) for line in (tmp_path / "operator.jsonl").read_text().splitlines()]
    total: Counter[str] = Counter()
    for entry in calls:
        total.update({name: end["count"] for name, end in entry["ends"].items()})
        assert entry["ends"]["screened"]["count"] == 3
        assert entry["ends"]["screened out"]["count"] in (2, 3), "3 if one that waited was the answer"
        assert entry["ends"]["probed"]["seconds"] > 0
    assert total["refs screened"] == 1800
    assert total["duplicate behaviour"] > 0
    assert total["restart"] >= 1
    assert {entry["lineage"] for entry in calls} >= {0, 1}


def test_controls_neither_probe_nor_screen(tmp_path: Path):
    SCREEN.asked.clear()
    service = Service(Settings.from_mapping({"screen": f"{__name__}:size_screen"}), tmp_path)
    for model in ("kvevolve-plain", "kvevolve-random") * 5:
        service.complete(prompt() | {"model": model})
    calls = [json.loads(line) for line in (tmp_path / "operator.jsonl").read_text().splitlines()]
    assert not SCREEN.asked
    assert all(set(entry["ends"]) <= {"gate", "duplicate text"} for entry in calls)
    assert not any("tuning" in entry for entry in calls)
    moves = {move for entry in calls for move in entry["moves"]}
    assert moves <= {*PLAIN_MOVES, "leader", "draw"}


# ---- the screen ----------------------------------------------------------------------------------------------------


def test_a_reduced_panel_is_the_beginning_at_three_sizes():
    trace = load("synthetic:chat?seed=1&requests=300")
    panel = make_panel("mine-v1", "train", {"chat": trace}, Setup(warmup=60))
    small = reduced(panel, 2000)
    cut = small.traces["chat"]
    assert cut.n_refs <= 2000 < cut.n_refs + trace.offsets[cut.n_requests + 1] - trace.offsets[cut.n_requests]
    kept = [panel.cells[i].capacity_blocks for i in sorted({0, len(panel.cells) // 2, len(panel.cells) - 2})]
    assert [cell.capacity_blocks for cell in small.cells] == kept
    assert {cell.first_counted for cell in small.cells} == {60 * cut.n_requests // 300}
    assert small.fingerprint not in (panel.fingerprint, reduced(panel, 3000).fingerprint)
    assert reduced(panel, 10**9).traces["chat"] is trace
    assert reduced(panel, 1).traces["chat"].n_requests == 1


PANEL = """
format: kvevolve-panel/1
name: tiny-v1
capacities: [5%, 10%, 20%]
splits:
  train:
    - {name: chat, source: "synthetic:chat?seed=1&requests=250"}
  validation:
    - {name: other, source: "synthetic:chat?seed=2&requests=50"}
"""


def test_the_screen_runs_policies_isolated_and_ranks_them(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(PANEL)
    screen = Screen(str(tmp_path / "tiny.yaml"), 6000)
    try:
        assert screen.panel.name == "tiny-v1-reduced"
        lru, mru = (screen.measure(load_policy(name).source) for name in ("lru", "mru"))
        assert lru.stage == "panel"
        assert abs(lru.score) < 0.001 < abs(mru.score)
        assert lru.refs > 0
        for text, stage in (
            ("import os\n", "gate"),
            ("def priority(block, cache):\n    return 1 / block.hits\n", "run"),
        ):
            found = screen.measure(text)
            assert (found.stage, found.score) == (stage, -1.0)
    finally:
        screen.close()


def test_a_trace_too_short_to_be_cut_is_screened_whole(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(PANEL)
    assert Screen(str(tmp_path / "tiny.yaml"), 100).panel.name == "tiny-v1"


# ---- features ------------------------------------------------------------------------------------------------------


def test_capacity_tilt_tells_small_caches_from_large_ones():
    def cells(gains: list[float]) -> list[Cell]:
        return [Cell("t", 0.0, 10 * (i + 1), 1000, 100, 300, 100 + round(200 * g)) for i, g in enumerate(gains)]

    scarce = by_capacity(cells([0.5, 0.5, -0.9, 0.0, 0.0]))
    assert (scarce["scarce_gap_closed"], scarce["ample_gap_closed"]) == (0.5, 0.0)
    assert scarce["capacity_tilt"] == -by_capacity(cells([0.0, 0.0, 0.9, 0.5, 0.5]))["capacity_tilt"] > 0.8
    assert by_capacity(cells([0.4])) == {"scarce_gap_closed": 0.0, "ample_gap_closed": 0.0, "capacity_tilt": 0.0}
    assert by_capacity([]) == by_capacity([Cell("t", 0.0, 10, 1000, 100, 101, 0)])


def test_known_partners_are_donors():
    found = breeder(screen_children=0)
    found.note(SEEDS["gdsf"], 0.5)
    rng = random.Random(7)
    sources = " ".join(
        found.breed(SEEDS["lru"], [Partner(SEEDS["depth"], 0.1)], rng, 1.0, Ledger()).policy.source for _ in range(20)
    )
    assert "cache.s0" in sources
