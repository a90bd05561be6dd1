"""`explain`: hand traces, a slow shadow oracle beside the twin, the exact account, and what is printed."""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import extra
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces
from test_twin import NAMES, compiled, examples

import sim
from sim.bounds import optimum
from sim.cli import main
from sim.explanation import SCHEMA, explain
from sim.groups import MOST_GROUPS, auc, by_label, by_size
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.shadow import foresee, replay_shadowed
from sim.simulation import Options, run_policy
from sim.twin import PolicyCache
from sim.twin_server import asks_of, serve
from workloads import load

ROOT = Path(__file__).parents[1]
NEVER = math.inf
CHAT = "synthetic:chat?seed=1&requests=400"
BYPASS = (
    "def priority(block, cache):\n    return block.released\n\n\ndef admit(block, request, cache):\n    return False\n"
)


# ---- the slow oracle -----------------------------------------------------------------------------------------------


def ahead(asks, trace, capacity: int) -> dict[tuple[int, int], tuple[float, bool]]:
    """Return per (request, block): (request, depth) of the next use as one number, and whether the optimum hits it."""
    best = optimum(trace, capacity).hit_blocks_per_request
    served = [i for i, ask in enumerate(asks) if ask.prompt_blocks <= capacity]
    found = {}
    for at, i in enumerate(served):
        for block in asks[i].blocks:
            later = next((j for j in served[at + 1 :] if block in asks[j].blocks), None)
            depth = None if later is None else asks[later].blocks.index(block)
            usable = later is not None and depth < asks[later].hit_limit
            found[i, block] = (later + depth / 1000, depth < best[later]) if usable else (NEVER, False)
    return found


class ShadowCache(PolicyCache):
    """The twin, which at every decision also looks ahead, by brute force."""

    def __init__(self, trace, asks, policy, capacity, oracle_admission=False) -> None:
        super().__init__(trace, asks, policy, capacity, Options())
        self.ahead = ahead(asks, trace, capacity)
        self.last: dict[int, int] = {}
        """Per block: the request whose view of the future counts."""
        self.coming: int | None = None
        """A block in the cache that is about to enter a second time."""
        self.judged: list[tuple[int, int, float, float, bool]] = []
        self.asked: list[tuple[int, int, bool, float, bool]] = []
        self.worthy = iter(())
        """Of the blocks about to be decided on, whether the oracle would admit them."""
        if oracle_admission:
            self.admits = lambda record, request, cache: next(self.worthy)

    def admit(self, i, ask, hits, now_s):
        self.coming = None
        self.last |= dict.fromkeys(ask.blocks[:hits], i)
        super().admit(i, ask, hits, now_s)
        self.last |= dict.fromkeys(ask.blocks, i)

    def decide(self, ask, hits):
        copy = hits == len(ask.blocks) - 1 and self.find(ask.blocks[hits]) is not None
        self.worthy = iter([not copy and self.ahead[self.current, block][1] for block in ask.blocks[hits:]])
        entering = super().decide(ask, hits)
        for depth, block in enumerate(ask.blocks[hits:]):
            view = (NEVER, False) if copy else self.ahead[self.current, block]
            self.asked.append((self.current, block, depth < len(entering), *view))
        if copy and entering:
            self.coming = ask.blocks[hits]
        else:
            self.last |= dict.fromkeys(ask.blocks[hits:], self.current)
        return entering

    def view(self, block: int) -> tuple[float, bool]:
        """Return next use and worth of one copy of a block in the cache."""
        twice = len(self.nodes[block]) > 1 or block == self.coming
        return (NEVER, False) if twice else self.ahead[self.last[block], block]

    def evict(self, node):
        farthest = max(self.view(other.block)[0] for other in self.candidates())
        next_use, wanted = self.view(node.block)
        self.judged.append((self.current, node.block, next_use, farthest, wanted))
        super().evict(node)


def number(next_use: np.ndarray, trace) -> list[float]:
    """Return positions in `block_ids` in the slow oracle's terms."""
    request_of = np.append(np.repeat(np.arange(trace.n_requests), trace.full_blocks), 0)
    depth = np.append(np.arange(trace.n_refs), 0) - trace.offsets[request_of]
    return np.where(next_use < trace.n_refs, request_of[next_use] + depth[next_use] / 1000, NEVER).tolist()


@cache
def admitting(name: str) -> bool:
    return "admit" in compiled(name).defined


@examples(120)
@given(random_traces(outputs=False), st.sampled_from(NAMES), st.integers(1, 25))
def test_the_shadow_oracle_equals_brute_force(trace, name, capacity):
    policy = compiled(name)
    known = foresee(trace, optimum(trace, capacity))
    plain = run_policy(prepare(trace), policy, capacity, Options(), log_evictions=10_000)
    found = replay_shadowed(trace, policy, known, Options(), logged=plain)
    asks = asks_of(trace, "none")
    slow = ShadowCache(trace, asks, policy.policy, capacity)
    served = serve(asks, trace.block_tokens, capacity, Options(), slow)
    assert found.hits.tolist() == plain.hits.tolist() == served.hits
    assert found.counts["evicted_blocks"] == plain.logged
    log = found.log.eviction
    assert log["block"].tolist() == plain.state.log_block[: plain.logged].tolist()
    uses, instead = number(log["next_use"], trace), number(log["instead_next_use"], trace)
    fast = list(zip(log["request"].tolist(), log["block"].tolist(), uses, instead, log["wanted"].tolist(), strict=True))
    assert fast == [(r, b, use, far, int(wanted)) for r, b, use, far, wanted in slow.judged]
    log = found.log.admission
    columns = (log[c].tolist() for c in ("request", "block", "admitted"))
    fast = list(zip(*columns, number(log["next_use"], trace), log["wanted"].tolist(), strict=True))
    assert fast == [(r, b, int(admitted), use, int(wanted)) for r, b, admitted, use, wanted in slow.asked]


@examples(80)
@given(random_traces(outputs=False), st.sampled_from(NAMES), st.integers(1, 25))
def test_the_account_is_exact_and_groups_sum_to_totals(trace, name, capacity):
    found = explain(trace, compiled(name), capacity)
    hits, account = found.hits, found.account
    lost = account["lost_to_evictions"] + account["lost_to_bypasses"]
    assert hits["optimum"] - hits["policy"] == lost - account["hit_by_policy_alone"]
    assert account["lost_to_evictions"] == found.evictions.hit_blocks_lost + found.no_better_victim
    result = sim.simulate(trace, compiled(name), capacity)
    assert (hits["policy"], found.looked_up_blocks) == (result.hit_blocks, result.looked_up_blocks)
    decisions = found.evictions.decisions, found.admitted.decisions, found.bypassed.decisions
    assert decisions == (result.evicted_blocks, result.admitted_blocks, result.bypassed_blocks)
    for kind in (found.evictions, found.admitted, found.bypassed):
        assert kind.hit_blocks_lost <= kind.mistakes <= kind.decisions
        assert sum(item.blocks for item in kind.costliest) <= kind.mistakes
        for groups in kind.groups.values():
            assert len(groups) <= MOST_GROUPS
            for total in ("decisions", "mistakes", "hit_blocks_lost"):
                assert sum(getattr(group, total) for group in groups) == getattr(kind, total)
        for one in kind.separations:
            assert 0 <= one.auc <= 1
    json.dumps(found.to_dict(), allow_nan=False)
    assert str(found).startswith(found.policy)


@examples(100)
@given(random_traces(outputs=False), st.sampled_from(NAMES), st.integers(1, 25))
def test_crossed_replays_keep_their_bounds(trace, name, capacity):
    hits = explain(trace, compiled(name), capacity).hits
    assert max(hits.values()) == hits["optimum"]
    if (trace.input_tokens % trace.block_tokens > 0).all():
        # No block is ever recomputed into a second copy: what the oracle keeps is what the optimum keeps.
        assert hits["oracle_both"] == hits["optimum"]
        if not admitting(name):
            assert hits["oracle_eviction"] == hits["optimum"], "a bypassed block takes room while its request runs"


@examples(60)
@given(random_traces(outputs=False), st.sampled_from(NAMES), st.integers(1, 25))
def test_oracle_admission_equals_brute_force(trace, name, capacity):
    known = foresee(trace, optimum(trace, capacity))
    fast = replay_shadowed(trace, compiled(name), known, Options(), oracle_admission=True)
    asks = asks_of(trace, "none")
    slow = ShadowCache(trace, asks, compiled(name).policy, capacity, oracle_admission=True)
    served = serve(asks, trace.block_tokens, capacity, Options(), slow)
    assert fast.hits.tolist() == served.hits
    assert fast.counts["bypassed_blocks"] == slow.counts["bypassed_blocks"]


# ---- by hand -------------------------------------------------------------------------------------------------------


def test_a_wrong_eviction_by_hand():
    # Prompts of one block and a tail, 3 places. Request 2 needs two: block 0 (LRU's) goes. Among 0 and 1, block 1 is
    # never asked for again and 0 is by request 3: wrong. The optimum keeps 0 and hits it at 3: one hit block lost.
    # Request 3 evicts 1: right, 2 is as useless. Four blocks entered, none was hit. The first 0 was not in vain: the
    # optimum would have hit it; 1, 2 and, at request 3, 0 again were.
    trace = hand_trace([[0], [1], [2], [0]], [11] * 4)
    found = explain(trace, "lru", 3)
    assert found.hits == {"policy": 0, "oracle_eviction": 1, "oracle_admission": 1, "oracle_both": 1, "optimum": 1}
    assert (found.eviction_regret, found.admission_regret) == (1, 1)
    assert found.account == {"lost_to_evictions": 1, "lost_to_bypasses": 0, "hit_by_policy_alone": 0}
    assert (found.evictions.decisions, found.evictions.mistakes, found.evictions.hit_blocks_lost) == (2, 1, 1)
    assert (found.admitted.decisions, found.admitted.mistakes) == (4, 3)
    worst = found.evictions.costliest[0]
    assert (worst.request, worst.asked_by, worst.blocks, worst.block, worst.instead) == (2, 3, 1, 0, 1)
    assert dict(worst.values) == {"depth": 0, "age": 2, "seen": 1}
    assert "wrong: 1 (50.0%)" in str(found)


def test_a_missed_bypass_by_hand():
    # Nothing ever enters. The optimum keeps 0 and 1 between requests 0 and 1 (4 places, each request takes 3).
    trace = hand_trace([[0, 1], [0, 1]], [21, 21])
    found = explain(trace, Policy.from_source(BYPASS, "nothing"), 4)
    assert found.hits == {"policy": 0, "oracle_eviction": 0, "oracle_admission": 2, "oracle_both": 2, "optimum": 2}
    assert (found.bypassed.decisions, found.bypassed.mistakes, found.bypassed.hit_blocks_lost) == (4, 2, 2)
    assert (found.admitted.decisions, found.evictions.decisions) == (0, 0)
    worst = found.bypassed.costliest[0]
    assert (worst.request, worst.asked_by, worst.blocks, worst.block, worst.instead) == (0, 1, 2, 0, None)
    assert "Evictions: none" in str(found)
    assert "lost to bypasses" in str(found)


def test_an_unlucky_eviction_without_a_better_candidate_is_no_mistake():
    # One block each, 2 places. Request 1 needs both: 0 must go, whoever decides.
    found = explain(hand_trace([[0], [1], [0]], [11] * 3), "lru", 2)
    assert (found.evictions.decisions, found.evictions.mistakes, found.hits["optimum"]) == (2, 0, 0)


def test_auc_by_hand_and_by_pairs():
    # Positives 2, 3 against negatives 1, 2: wins 2>1, 3>1, 3>2, tie 2=2: 3.5 of 4.
    assert auc(np.array([2.0, 3.0, 1.0, 2.0]), np.array([True, True, False, False])) == 3.5 / 4
    assert math.isnan(auc(np.array([1.0, 2.0]), np.array([True, True])))
    rng = np.random.default_rng(5)
    values, positive = rng.integers(0, 9, 80).astype(float), rng.random(80) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in values[positive] for b in values[~positive]]
    assert auc(values, positive) == pytest.approx(np.mean(pairs))


def test_groups_by_hand():
    none = np.zeros(6, bool)
    sizes = by_size(np.array([0, 1, 3, 5, 7, 10**9], np.int32), np.arange(6) % 2 == 0, none)
    assert [(g.label, g.decisions, g.mistakes) for g in sizes] == [
        ("0", 1, 1), ("1", 1, 0), ("2-3", 1, 1), ("4-7", 2, 1), ("never", 1, 0)
    ]  # fmt: skip
    narrow = by_size(np.repeat(np.arange(300, 330, dtype=np.int32), 10), np.ones(300, bool), np.zeros(300, bool))
    assert [g.label for g in narrow] == ["300-304", "305-309", "310-314", "315-319", "320-324", "325-329"]
    assert [g.label for g in by_size(np.full(3, 10**9, np.int32), none[:3], none[:3])] == ["never"]
    labels = by_label(np.array([*range(20), 7], np.int32), "tenant", np.ones(21, bool), np.zeros(21, bool))
    assert len(labels) == MOST_GROUPS
    assert {g.label: g.decisions for g in labels}["tenant 7"] == 2
    assert labels[-1].label == "other"
    assert labels[-1].decisions == 21 - 2 - (MOST_GROUPS - 2)


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_labels_show_only_where_the_trace_has_them():
    prompts, tokens = [[0], [1], [2], [0]], [11] * 4
    assert set(explain(hand_trace(prompts, tokens), "lru", 3).evictions.groups) == {"depth", "age", "seen"}
    known = hand_trace(prompts, tokens, tenant=[4, 4, 5, 4], turn=[0, 0, 0, 1], session=[0, 1, 2, 0])
    found = explain(known, "lru", 3)
    assert set(found.evictions.groups) == {"depth", "age", "seen", "turn", "tenant"}
    assert [(g.label, g.decisions) for g in found.evictions.groups["tenant"]] == [("tenant 4", 2)]
    assert found.evictions.costliest[0].values["tenant"] == 4


def test_separations_rank_the_field_that_decides_first_and_leave_clocks_out():
    found = explain(load(CHAT), "lru", "5%")
    for kind in (found.evictions, found.admitted):
        distance = [abs(one.auc - 0.5) for one in kind.separations]
        assert distance == sorted(distance, reverse=True)
        names = {one.field for one in kind.separations}
        assert "block.depth" in names
        assert not names & {"block.released", "block.last_access", "block.inserted", "block.tokens"}
    assert all(0 <= one.instead_higher <= 1 for one in found.evictions.separations)
    assert all(one.instead_higher is None for one in found.admitted.separations)
    assert "request.new_blocks" in {one.field for one in found.admitted.separations}
    assert "block.residence" not in {one.field for one in found.admitted.separations}


def test_the_oracles_choice_is_younger_than_what_lru_evicts():
    """LRU evicts the longest idle: no other candidate, the oracle's included, has a higher age."""
    found = explain(load(CHAT), "lru", "5%")
    age = next(one for one in found.evictions.separations if one.field == "block.age")
    assert found.evictions.mistakes > 100
    assert age.instead_higher < 0.5


def test_sampled_records_leave_totals_alone():
    trace, policy = load(CHAT), compiled("lru")
    known = foresee(trace, optimum(trace, "5%"))
    plain = run_policy(prepare(trace), policy, known.best.capacity_blocks, Options())
    whole = replay_shadowed(trace, policy, known, Options(), logged=plain)
    part = replay_shadowed(trace, policy, known, Options(), logged=plain, records=100)
    assert (whole.stride, part.stride > 1) == (1, True)
    assert (whole.log.eviction == part.log.eviction).all()
    assert (whole.log.victim[:: part.stride] == part.log.victim).all()
    assert (whole.log.request[:: part.stride] == part.log.request).all()


@pytest.mark.parametrize(
    "options", [{"mode": "overlap"}, {"decode": "infer"}, {"orphans": True}, {"engine": "vllm<=0.22"}], ids=str
)
def test_what_is_not_explained_is_refused(options):
    with pytest.raises(ValueError, match="is not explained"):
        explain(load(CHAT), "lru", "5%", **options)


def test_the_engines_own_lru_is_explained_by_the_contracts():
    assert sim.explain(load(CHAT), "native", "5%").to_dict() == explain(load(CHAT), "lru", "5%").to_dict()


def run(*arguments: str) -> int:
    return main(["explain", *arguments])


def test_json_is_stable(capsys):
    outputs = []
    for _ in range(2):
        assert run("second_touch", CHAT, "--json", "--costliest", "2") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    content = json.loads(outputs[0])
    assert content["schema"] == SCHEMA == "kvevolve-explanation/1"
    assert sorted(content) == [
        "account", "admission_regret", "admitted", "block_tokens", "bypassed", "capacity_blocks", "eviction_regret",
        "evictions", "hits", "looked_up_blocks", "no_better_victim", "policy", "requests", "schema", "trace",
    ]  # fmt: skip
    kind = content["bypassed"]
    names = ["costliest", "decisions", "groups", "hit_blocks_lost", "mistakes", "sampled_every", "separations"]
    assert sorted(kind) == names
    assert sorted(kind["groups"]["seen"][0]) == ["decisions", "hit_blocks_lost", "label", "mistakes"]
    assert sorted(kind["separations"][0]) == ["auc", "costly", "field", "instead_higher", "others"]
    assert len(kind["costliest"]) == 2
    assert sorted(kind["costliest"][0]) == ["asked_by", "block", "blocks", "instead", "request", "values"]


def test_the_report_fits_a_terminal(capsys):
    assert run("second_touch", CHAT) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 140
    for said in ("admission regret", "eviction regret", "lost to bypasses", "Evictions:", "Costliest, missed:"):
        assert said in text


def test_mistakes_end_with_1(capsys):
    assert run("no_such_policy", CHAT) == 1
    assert "no policy" in capsys.readouterr().err
    assert run("lru", CHAT, "--capacity", "150%") == 1
    assert "give blocks" in capsys.readouterr().err


def test_figures(tmp_path, capsys):
    extra("matplotlib")
    assert run("lru", CHAT, "--figures", str(tmp_path / "new")) == 0
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    said = capsys.readouterr().err
    assert names == [
        "admitted_by_group.png", "admitted_fields.png", "evictions_by_group.png", "evictions_fields.png", "replays.png"
    ]  # fmt: skip
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert str(path) in said


def test_figures_without_matplotlib_name_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("lru", CHAT, "--figures", str(tmp_path)) == 1
    assert "kvevolve[figures]" in capsys.readouterr().err
    assert "matplotlib.pyplot" not in sys.modules
