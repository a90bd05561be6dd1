"""The hit ladder against published figures, calibration, realism, and the verbs of the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import extra

from sim.calibration import GOAL_SHARES, SEEDS, calibrated, difference
from sim.cli import main
from sim.ladder import fifo, ladder
from sim.realism import DISTRIBUTIONS, realism
from workloads import Trace
from workloads.fitted import fit, fitted
from workloads.spec import find_spec
from workloads.statistics import ks_distance
from workloads.synthetic import chat


@pytest.fixture(scope="module")
def chatting() -> Trace:
    return chat(3, requests=400)


PUBLISHED = {
    "lmcache_agent": ([2.56, 16.49, 27.19, 45.04, 70.56, 79.39], [8.42, 30.55, 43.32, 59.47, 76.62, 79.89]),
    "taubench_airline": ([17.89, 40.65, 41.26, 43.25, 56.81, 80.70], [17.89, 44.14, 49.88, 59.48, 77.68, 89.86]),
}
"""LRU and optimum at 0.1, 0.5, 1, 2, 5, 10 %: traces.md, sections 4.1 and 4.2."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_ladder_is_the_published_one(real_trace, name: str) -> None:
    found = ladder(real_trace(name))
    lru, optimum = PUBLISHED[name]
    assert found.lru[:6] == pytest.approx(lru, abs=0.011)
    assert found.optimum[:6] == pytest.approx(optimum, abs=0.011)


def test_fifo_lies_below_the_optimum(chatting: Trace) -> None:
    assert (fifo(chatting) <= ladder(chatting).optimum + 1e-9).all()


def test_a_trace_is_like_itself_and_unlike_another(chatting: Trace) -> None:
    same = realism(chatting, lambda _: chatting, [1, 2])
    assert same.worst_points == 0
    assert all(same.distances(name).max() == 0 for name in DISTRIBUTIONS)
    other = realism(chatting, lambda seed: fitted(seed, tables=fit(chatting)), [1])
    assert other.worst_points > 0
    assert 0 < other.distances("return time")[0] < 0.3


def test_distance_is_kolmogorovs() -> None:
    assert ks_distance(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])) == 0.5
    assert ks_distance(np.zeros(0), np.zeros(0)) == 0
    assert ks_distance(np.zeros(0), np.ones(1)) == 1


def test_calibration_is_deterministic_and_does_no_harm(chatting: Trace) -> None:
    tables = fit(chatting)
    once, again = calibrated(chatting, tables), calibrated(chatting, tables)
    assert once == again
    real = ladder(chatting, GOAL_SHARES)
    before, after = (
        max(np.abs(difference(ladder(fitted(seed, tables=given), GOAL_SHARES), real)).max() for seed in SEEDS)
        for given in (tables, once)
    )
    assert after <= before + 0.5


def test_command_line(tmp_path, chatting: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    chatting.save(tmp_path / "t.npz")
    given = ["trace", "fit", str(tmp_path / "t.npz"), "-o", str(tmp_path / "s.yaml"), "--no-calibration"]
    assert main([*given, "--licence", "MIT"]) == 0
    text = (tmp_path / "s.yaml").read_text()
    assert "licence: MIT" in text
    assert str(tmp_path) not in text
    assert find_spec(f"{tmp_path}/s.yaml").fields.requests == chatting.n_requests
    capsys.readouterr()
    given = ["trace", "realism", str(tmp_path / "s.yaml"), str(tmp_path / "t.npz"), "--seeds", "1"]
    assert main(given) == 0
    assert "points off at most" in capsys.readouterr().out
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ks_distance"].keys() == DISTRIBUTIONS.keys()
    assert found["reached"] == (found["worst_points"] <= 3)


def test_figure(tmp_path, chatting: Trace) -> None:
    extra("matplotlib")
    from sim.realism_figure import draw

    draw(realism(chatting, lambda _: chatting, [1]), tmp_path / "f.svg")
    assert b"<svg" in (tmp_path / "f.svg").read_bytes()


REFUSED = {
    "no trace": ["trace", "fit", "nosuch.npz", "-o", "s.yaml"],
    "no specification": ["trace", "realism", "nosuch.yaml", "ragpulse"],
    "no seeds": ["trace", "realism", "ragpulse", "t.npz", "--seeds", "0"],
    "no figure format": ["trace", "realism", "ragpulse", "t.npz", "--figure", "f.txt"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_command_line_refuses(name: str, tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(REFUSED[name]) == 1
    assert "kvevolve: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
