"""The parts of `kvevolve results`: on a small panel against independent replays, kept, resumed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import sim
from sim.cli import main
from sim.policy.program import Policy
from sim.results import ablation, admission, blocks, contenders, cost, edits, replays, table, transfer
from sim.results.contenders import Evolved
from sim.results.places import LRU_RUNNER, OPTIMUM_RUNNER, GapIntervals, measure, places_of
from sim.results.replays import Job, Runner
from workloads import load_panel

POLICY = """\
def priority(block, cache):
    return block.last_access - 0.5 * min(block.gap, 2000.0) + 40.0 * block.s0


def admit(block, request, cache):
    return block.seen >= 2.0 or request.new_blocks < 0.5 * cache.capacity_blocks


def on_hit(block, request, cache):
    block.s0 = min(block.s0 + 1.0, 5.0)
"""
PANEL = """\
format: kvevolve-panel/1
name: small-v1
capacities: [5%, 20%]
splits:
  train:
    - {name: chat_train, source: 'synthetic:chat?seed=11', options: {requests: 250}}
    - {name: rag_train, source: 'synthetic:rag?seed=11', options: {requests: 250}}
  validation:
    - {name: chat_validation, source: 'synthetic:chat?seed=12', options: {requests: 250}}
  test:
    - {name: chat_test, source: 'synthetic:chat?seed=13', options: {requests: 250}}
"""


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep replays of one test from the next; compiled kernels stay where they are."""
    kept = tmp_path / "cache"
    monkeypatch.setattr("sim.results.store.user_cache_dir", lambda: kept)
    return kept / "results"


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("panel") / "small.yaml"
    path.write_text(PANEL)
    return str(path)


@pytest.fixture
def mine() -> list[Evolved]:
    return [Evolved("mine", POLICY, Policy.from_source(POLICY).nodes)]


@pytest.fixture
def few_classics(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [Runner("zoo:arc"), Runner("gdsf", contenders.load_policy("gdsf").source)]
    monkeypatch.setattr(contenders, "classics", lambda: pool)
    monkeypatch.setattr(contenders, "sglang", lambda: [Runner(name, engine="sglang") for name in ("lru", "slru")])


def test_hits_are_those_of_the_simulator(panel: str, mine: list[Evolved]) -> None:
    test = load_panel("test", panel, purpose="report")
    measured = measure(test.traces, places_of(test), [mine[0].runner])
    trace = test.traces["chat_test"]
    for place in measured.places:
        policy = Policy.from_source(POLICY, "mine")
        mine_hits = sim.simulate(trace, policy, place.capacity_blocks).hit_tokens
        cell = measured.cell(mine[0].runner, place)
        assert cell.hit_tokens == mine_hits
        assert cell.lru_hit_tokens == sim.simulate(trace, "vllm", place.capacity_blocks).hit_tokens
        assert cell.optimum_hit_tokens == sim.optimum(trace, place.capacity_blocks).hit_tokens


def test_replays_are_kept_and_a_stopped_run_goes_on(
    panel: str, mine: list[Evolved], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = load_panel("test", panel, purpose="report")
    asked = [("chat_test", Job(runner, 60)) for runner in (LRU_RUNNER, mine[0].runner, OPTIMUM_RUNNER, LRU_RUNNER)]
    real, calls = replays.replay, []

    def stopping(trace: object, job: Job) -> replays.Outcome:
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(trace, job)  # type: ignore[arg-type]

    stopping.__qualname__ = "replay"
    monkeypatch.setattr(replays, "replay", stopping)
    with pytest.raises(KeyboardInterrupt):
        replays.replays(test.traces, asked)
    assert len(list(fresh_cache.glob("*.npz"))) == 1
    found = replays.replays(test.traces, asked)
    assert len(calls) == 4  # the first was kept, the one asked for twice was replayed once
    assert np.array_equal(found[0].hits, found[3].hits)
    for path in fresh_cache.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:40])
    again = replays.replays(test.traces, asked)
    assert len(calls) == 7
    assert all(np.array_equal(one.hits, other.hits) for one, other in zip(found, again, strict=True))


def test_intervals_hold_the_gap_and_are_paired(panel: str, mine: list[Evolved]) -> None:
    test = load_panel("test", panel, purpose="report")
    measured = measure(test.traces, places_of(test), [mine[0].runner])
    ends = GapIntervals(measured)
    for place in measured.places:
        low, high = ends.of(mine[0].runner, [place])
        assert low <= measured.cell(mine[0].runner, place).gap_closed <= high
        assert ends.of(LRU_RUNNER, [place]) == (0.0, 0.0)
        assert ends.of(OPTIMUM_RUNNER, [place]) == (1.0, 1.0)
        assert ends.difference(mine[0].runner, mine[0].runner, [place]) == (0.0, 0.0)


@pytest.mark.usefixtures("few_classics")
def test_the_table(panel: str, mine: list[Evolved], tmp_path: Path) -> None:
    report = table.report(panel, "test", mine)
    report.write(tmp_path, figures=False)
    stored = json.loads((tmp_path / "table.json").read_text())
    text = (tmp_path / "table.md").read_text()
    assert [cell["capacity"] for cell in stored["cells"]] == ["5%", "20%"]
    columns = stored["cells"][0]["columns"]
    assert columns["vLLM (LRU)"]["gap_closed"] == 0
    assert columns["optimum"]["gap_closed"] == 1
    assert 0 < columns["mine"]["prefill_mean_s"] < columns["mine"]["ttft_mean_s"]
    assert "ttft_mean_s" not in columns["optimum"]
    hindsight = columns["hindsight classic"]
    best = next(found for title, found in columns.items() if title.startswith("best classic"))
    assert hindsight["hit_tokens"] >= best["hit_tokens"]
    assert stored["engines"][next(title for title in stored["engines"] if title.startswith("SGLang"))] == "sglang"
    assert "| chat_test | 5%" in text
    assert f"{100 * columns['mine']['hit_tokens'] / stored['cells'][0]['prompt_tokens']:.2f}" in text
    low, high = stored["mean_gap_closed"]["chat_test"]["mine"]["interval"]
    assert low < stored["mean_gap_closed"]["chat_test"]["mine"]["gap_closed"] < high


@pytest.mark.usefixtures("few_classics")
def test_the_table_says_where_a_policy_loses(panel: str) -> None:
    source = "def priority(block, cache):\n    return -block.last_access\n"
    report = table.report(panel, "test", [Evolved("mru", source, 5)], latency=False)
    lost = next(each for each in report.tables if each.title.startswith("Where it loses"))
    measured = {cell["capacity"]: cell["columns"] for cell in report.data["cells"]}
    for _, _, capacity, to, behind, _, below in lost.rows:
        best = max(
            found["hit_tokens"] for title, found in measured[capacity.rstrip(" ~")].items() if title != "optimum"
        )
        mine = measured[capacity.rstrip(" ~")]["mru"]["hit_tokens"]
        assert mine < best
        assert float(behind) > 0
        assert (below == "yes") == (mine < measured[capacity.rstrip(" ~")]["vLLM (LRU)"]["hit_tokens"])
        assert to != "mru"
    assert len(lost.rows) == 2


@pytest.mark.usefixtures("few_classics")
def test_columns_are_chosen_on_validation(panel: str, mine: list[Evolved]) -> None:
    chosen = table.report(panel, "test", mine, latency=False).data["engines"]
    validation = load_panel("validation", panel)
    pool = contenders.classics()
    measured = measure(validation.traces, places_of(validation), pool)
    assert f"best classic: {max(pool, key=measured.score).name}" in chosen


COUNTED = """\
def priority(block, cache):
    return block.s0


def on_hit(block, request, cache):
    block.s0 += block.gap
"""


def test_fields_are_found_and_replaced() -> None:
    policy = Policy.from_source(POLICY, "mine")
    assert edits.fields_read(policy) == [
        ("block", "last_access"), ("block", "gap"), ("block", "seen"), ("block", "s0"), ("request", "new_blocks"),
        ("cache", "capacity_blocks"),
    ]  # fmt: skip
    assert "min(7.0, 2000.0)" in edits.without_field(policy, "block", "gap", 7.0).source
    counted = Policy.from_source(COUNTED, "counted")
    assert edits.fields_read(counted) == [("block", "gap"), ("block", "s0")]
    assert "block.s0 = 3.0 + block.gap" in edits.without_field(counted, "block", "s0", 3.0).source
    private = edits.without_field(policy, "block", "s0", 0.0).source
    assert "block.s0 = min(0.0 + 1.0, 5.0)" in private
    assert edits.without_admission(policy).functions.keys() == {"priority", "on_hit"}  # type: ignore[union-attr]
    assert edits.without_admission(edits.without_admission(policy)) is None  # type: ignore[arg-type]
    lru = edits.with_lru_eviction(Policy.from_source('SCORING = "touch"\n' + POLICY, "mine"))
    assert (lru.scoring, lru.functions.keys()) == ("evict", policy.functions.keys())


def test_ablation_of_a_field_that_does_nothing_loses_nothing(panel: str) -> None:
    source = "def priority(block, cache):\n    return block.last_access + 0.0 * block.depth - min(block.gap, 50.0)\n"
    report = ablation.report(panel, [Evolved("mine", source, 9)], 0)
    found = report.data["policies"]["mine"]
    assert found["without"]["block.depth"] == found["whole"]
    assert found["without"]["block.last_access"] != found["whole"]
    assert set(found["without"]) == {"block.last_access", "block.gap", "block.depth"}


HELPED = """\
def worth(age, gap):
    return -age if gap > 5.0 else -2.0 * age


def priority(block, cache):
    return worth(cache.now - block.last_access, block.gap)
"""


def test_fields_given_to_helpers_are_replaced() -> None:
    policy = Policy.from_source(HELPED, "helped")
    assert edits.fields_read(policy) == [("block", "last_access"), ("block", "gap"), ("cache", "now")]
    assert "worth(cache.now - block.last_access, 100.0)" in edits.without_field(policy, "block", "gap", 100.0).source


def test_ablation_uses_the_constant_that_does_best_on_train(panel: str) -> None:
    """What depends on a field only through a threshold loses nothing if a constant on the right side is found."""
    source = "def priority(block, cache):\n    return block.last_access if block.depth < 9e4 else 0.0 - block.depth\n"
    found = ablation.report(panel, [Evolved("mine", source, 9)], 0).data["policies"]["mine"]
    assert found["without"]["block.depth"] == found["whole"]
    assert found["loss"]["block.depth"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    loss = found["loss"]["block.last_access"]
    assert loss["interval"][0] <= loss["mean"] <= loss["interval"][1]


def test_a_constant_that_gives_no_number_is_not_chosen(panel: str) -> None:
    source = "def priority(block, cache):\n    return block.last_access / cache.request_blocks\n"
    found = ablation.report(panel, [Evolved("mine", source, 9)], 0).data["policies"]["mine"]
    assert "block.last_access / 0.0" not in found["sources"]["cache.request_blocks"]
    assert found["loss"]["cache.request_blocks"]["mean"] == pytest.approx(0.0, abs=0.05)


def test_admission_and_eviction(panel: str, mine: list[Evolved]) -> None:
    found = admission.report(panel, "validation", mine).data["mean_gap_closed"]
    assert set(found) == {"mine: whole", "mine: eviction alone", "mine: admission alone"}
    open_ = Evolved("open", edits.without_admission(Policy.from_source(POLICY)).source, 9)  # type: ignore[union-attr]
    both = admission.report(panel, "validation", [open_]).data["mean_gap_closed"]
    assert both == {"open: whole": found["mine: eviction alone"]}


def test_transfer_tunes_on_one_training_trace_at_a_time(panel: str, mine: list[Evolved]) -> None:
    pytest.importorskip("cmaes")
    report = transfer.traces(panel, "test", mine, passes=12)
    rows = report.data["mean_gap_closed"]
    assert list(rows) == ["mine", "mine @ chat_train", "mine @ rag_train"]
    assert rows["mine @ rag_train"]["train: rag_train"] >= rows["mine"]["train: rag_train"]
    assert set(rows["mine"]) == {
        "train: chat_train",
        "train: rag_train",
        "validation: chat_validation",
        "test: chat_test",
    }
    again = transfer.traces(panel, "test", mine, passes=12)
    assert again.data["sources"] == report.data["sources"]


def test_capacity_transfer_and_curves(panel: str, mine: list[Evolved]) -> None:
    report = transfer.capacities(panel, mine, passes=0)
    assert list(report.data["mean_gap_closed"]["mine"]) == ["5%", "20%"]
    curve = report.data["curves"]["chat_validation"]["mine"]
    assert len(curve) > 2  # sizes below the longest prompt are left out
    assert max(dict(curve)[20.0], -1.0) == report.data["mean_gap_closed"]["mine"]["20%"]


def test_block_sizes_keep_the_cache_as_large(panel: str, mine: list[Evolved]) -> None:
    validation = load_panel("validation", panel)
    own = validation.traces["chat_validation"].block_tokens
    found = blocks.report(panel, "validation", mine).data["mean_gap_closed"]["chat_validation"]["mine"]
    assert found[0][0] == own
    whole = measure(validation.traces, places_of(validation), [mine[0].runner])
    gaps = [max(cell.gap_closed, -1.0) for cell in whole.cells(mine[0].runner) if cell.counts]
    assert found[0][1] == pytest.approx(sum(gaps) / len(gaps))
    assert [size for size, _ in found] == sorted(size for size, _ in found)


def evaluation(**changes: object) -> str:
    line = {"metrics": {"combined_score": 0.1, "valid": 1.0}, "cpu_seconds": 3600.0, "refs": 10, "cached": False}
    return json.dumps(line | changes) + "\n"


def test_cost_adds_the_logs_up(tmp_path: Path) -> None:
    lines = [
        evaluation(),
        evaluation(metrics={"combined_score": 0.3, "valid": 1.0}),
        evaluation(cached=True),
        evaluation(metrics={"combined_score": -1.0, "valid": 0.0}),
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(lines) + '{"metr')  # killed while writing
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    calls = [{"usage": usage, "cost_usd": 0.5, "polish": {"passes": 7.5}}, {"usage": None}]
    (tmp_path / "llm.jsonl").write_text("".join(json.dumps(each) + "\n" for each in calls))
    ends = {"refs screened": {"count": 5, "seconds": 0.0}, "refs settled": {"count": 20}}
    proposals = [{"seconds": 1800.0, "tuning": {"refs": 70}}, {"seconds": 1800.0, "tuning": {"skipped": "late"}}]
    proposals[0]["ends"] = ends
    (tmp_path / "operator.jsonl").write_text("".join(json.dumps(each) + "\n" for each in proposals))
    found = cost.cost_of(tmp_path)
    assert (found["operator_hours"], found["operator_refs"], found["polish_passes"]) == (1.0, 95, 7.5)
    assert (found["evaluations"], found["cached"], found["invalid"], found["refs"]) == (3, 1, 1, 30)
    assert (found["cpu_hours"], found["best_score"], found["evaluations_to_best"]) == (3.0, 0.3, 2)
    assert (found["model_calls"], found["tokens"], found["cost_usd"]) == (2, 120, 0.5)
    assert "| all |" not in cost.report([tmp_path]).markdown()


def test_runs_of_one_name_are_told_apart_and_found_below(tmp_path: Path) -> None:
    for arm in ("full", "plain"):
        (tmp_path / arm / "seed-1").mkdir(parents=True)
        (tmp_path / arm / "seed-1" / "evaluations.jsonl").write_text(evaluation() * (1 + (arm == "full")))
    found = cost.report([tmp_path, tmp_path / "full" / "seed-1"]).data["runs"]
    assert {name: each["evaluations"] for name, each in found.items()} == {"full/seed-1": 2, "plain/seed-1": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no evaluation is logged"),
        ("{}\n", "line 1"),
        (evaluation() + "oops\n" + evaluation(), "line 2"),
        (evaluation(refs="many"), "line 1"),
        (evaluation(cpu_seconds=True), "line 1"),
        ("[1]\n", "line 1"),
        ("[" * 100_000 + "\n" + evaluation(), "line 1"),
    ],
)
def test_a_broken_log_names_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "evaluations.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        cost.cost_of(tmp_path)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name the directory of a run"):
        cost.cost_of(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pie"], "no part 'pie'"),
        (["transfer", "--passes", "-1"], "--passes -1"),
        (["table", "--policies", "nowhere.py"], "nowhere.py"),
        (["cost", "--runs", "nowhere"], "nowhere"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", *arguments, "--output", str(tmp_path), "--no-figures"]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_two_policies_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(POLICY)
    with pytest.raises(ValueError, match="two policies are called 'mine'"):
        contenders.evolved([tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"])


def test_the_command_writes_files_and_figures(
    panel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sim.promotion.looks.SHIPPED", tmp_path)
    policy = tmp_path / "mine.py"
    policy.write_text(POLICY)
    arguments = ["blocks", "capacity", "--passes", "0", "--policies", str(policy), "--traces", panel]
    assert main(["results", *arguments, "--panel", "validation", "--output", str(tmp_path / "out")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = ["blocks.md", "blocks.json", "blocks.png", "results.md", "capacity.md", "capacity.json", "capacity.png"]
    assert [path.name for path in written] == [*names, "capacity_curves.png", "results.md"]
    assert all(path.stat().st_size > 100 for path in written)
    page = written[-1].read_text()
    assert page.index("## Transfer between cache sizes") < page.index("## Transfer between block sizes")
    assert "validation split of panel small-v1; mine (sha256 " in page
    assert "the learnable ceiling: not computed yet, `kvevolve results ceiling`" in page
    assert "Not all parts" not in page
    policy.write_text(POLICY.replace("40.0", "41.0"))
    arguments = ["admission", "--policies", str(policy), "--traces", panel, "--panel", "test", "--no-figures"]
    assert main(["results", *arguments, "--output", str(tmp_path / "out")]) == 0
    assert "Not all parts" in written[-1].read_text()
    looks = [json.loads(line) for line in (tmp_path / "test_reads.jsonl").read_text().splitlines()]
    assert [look["name"] for look in looks] == ["mine"]


def test_the_peer_is_no_classic() -> None:
    names = [runner.name for runner in contenders.classics()]
    assert contenders.PEER not in names
    assert {"zoo:arc", "zoo:mq", "gdsf"} <= set(names)
    assert "zoo:belady" not in names
