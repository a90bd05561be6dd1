"""A panel for traffic of one's own, its refusals, and the part that is held out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_traces import hand_trace

from sim import held_out, jsonlines, specialist
from sim.marks import Marks, load_marks
from sim.policy.program import Policy
from sim.registry import load_policy
from sim.specialist import GAP, Traffic, panel_text, write_panel
from workloads import panel_file
from workloads.panel import Panel, load_panel

CHAT = "synthetic:chat?seed=4&requests=500"


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "panel.yaml"
    write_panel(panel_text(Traffic((CHAT, "synthetic:rag?seed=4&requests=500"), "5%,300")), path)
    return path


def test_the_past_trains_and_the_future_judges(panel: Path) -> None:
    said = yaml.safe_load(panel.read_text())
    assert said["name"] == "own-chat-and-1-more-v1"
    assert said["capacities"] == ["5%", 300]
    assert f"the last {GAP:.0%} before each cut left out" in said["about"]
    parts = [said["splits"][split][0]["cut"]["requests"] for split in ("train", "validation", "test")]
    assert parts == [[0, 290], [300, 390], [400, 500]]
    splits = [load_panel(split, str(panel), purpose="report") for split in ("train", "validation", "test")]
    arrivals = [panel.traces[f"chat_{panel.split}"].arrival_s for panel in splits]
    assert all(past[-1] < future[0] for past, future in pairwise(arrivals))
    assert all(list(s.traces) == [f"chat_{s.split}", f"rag_{s.split}"] for s in splits)


def test_nothing_is_replayed_on_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def marked(panel: Panel) -> Marks:
        asked.append(panel.split)
        return load_marks(panel)

    monkeypatch.setattr(specialist, "load_marks", marked)
    panel_text(Traffic((CHAT,), "5%"))
    assert asked == ["train", "validation"]


def test_sessions_without_a_clock_are_cut_by_name(tmp_path: Path, trace_path) -> None:
    trace_path("taubench_airline")
    path = tmp_path / "panel.yaml"
    write_panel(panel_text(Traffic(("taubench_airline",), "2%")), path)
    train, validation, test = (panel_file.find(str(path)).traces(split)[0] for split in ("train", "validation", "test"))
    assert [entry.cut["sessions"] for entry in (train, validation, test)] == [[0.0, 0.6], [0.6, 0.8], [0.8, 1.0]]
    assert [entry.options["window_s"] for entry in (train, validation, test)] == [360.0, 120.0, 120.0]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fresh = [[2 * i, 2 * i + 1] for i in range(400)]
    hand_trace(fresh, [20] * 400).save(tmp_path / "fresh.npz")
    loop = [[i % 3] for i in range(400)]
    hand_trace(loop, [15] * 400).save(tmp_path / "loop.npz")
    rare = [[0], *([i + 1] for i in range(398)), [0]]
    hand_trace(rare, [15] * 400).save(tmp_path / "rare.npz")
    hand_trace(loop[:100], [15] * 100).save(tmp_path / "short.npz")
    return tmp_path


@pytest.mark.parametrize(
    ("traffic", "says"),
    [
        (Traffic(("short.npz",)), "too short: 100 requests, and 279 are the least"),
        (Traffic(("fresh.npz",)), "no block is asked for twice.*per-request salt"),
        (
            Traffic(("loop.npz",), "40"),
            r"(?s)nothing to win on the train part.*LRU hits %.*give smaller --capacities",
        ),
        (Traffic(("rare.npz",), "5%"), "(?s)nothing to win on the train part.*hardly anything repeats"),
        (Traffic(("missing.jsonl",)), "missing.jsonl: no such file"),
        (Traffic(("mooncake_conversatio",)), "did you mean 'mooncake_conversation'"),
        (Traffic((CHAT, CHAT)), "two traces are called 'chat'.*name=other"),
        (Traffic((CHAT,), "banana"), "made of --trace, --capacities and --model.*expected a share of the"),
        (Traffic((CHAT,), "0%"), "expected a share of the distinct blocks"),
        (Traffic((CHAT,), ""), "expected a share of the distinct blocks"),
        (Traffic((CHAT,), "1GiB"), "expected a model that says what fits into 1GiB"),
        (Traffic((CHAT,), "1GiB", "no-such-model"), "no-such-model"),
        (Traffic((CHAT,), cut="sessions"), "its requests are on a clock, not sessions"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(files: Path, traffic: Traffic, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        panel_text(traffic)


def test_a_file_is_found_from_wherever_the_panel_lies(files: Path) -> None:
    paths = [[int(block)] for block in np.random.default_rng(1).integers(0, 60, 600)]
    hand_trace(paths, [15] * 600).save(files / "mine.npz")
    write_panel(panel_text(Traffic(("mine.npz",), "20%")), files / "run" / "panel.yaml")
    assert load_panel("train", str(files / "run" / "panel.yaml")).traces["mine_train"].n_requests == 348


def test_the_held_out_part_is_read_once_for_each_policy_and_logged(panel: Path, tmp_path: Path) -> None:
    first = Policy.from_source(load_policy("lru").source, "evolved")
    columns = [load_policy("lru_frequency"), first]
    text = held_out.report(tmp_path, str(panel), columns, first)
    assert "HELD OUT (own-chat-and-1-more-v1 test" in text
    assert "evolved does NOT beat every baseline on the held-out part" in text
    assert held_out.report(tmp_path, "no such panel", columns, first) == text
    second = Policy.from_source(load_policy("mru").source, "evolved")
    again = held_out.report(tmp_path, str(panel), [columns[0], second], second)
    assert "worse than LRU: " in again
    assert "read 2 of this part in this run" in again
    assert [entry["read"] for entry in jsonlines.read(tmp_path / held_out.FILE)] == [1, 2]


def test_a_held_out_part_without_a_gap_is_said_to_have_none(tmp_path: Path) -> None:
    text = """
format: kvevolve-panel/1
name: small-v1
capacities: [100%]
splits:
  test: [{name: chat, source: "synthetic:chat?seed=9&requests=60"}]
"""
    (tmp_path / "panel.yaml").write_text(text)
    policy = Policy.from_source(load_policy("lru").source, "evolved")
    assert "nothing could be won" in held_out.report(tmp_path, str(tmp_path / "panel.yaml"), [policy], policy)
