"""Marks: what a panel is measured against, and the file they are kept in."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable

import numpy as np
import pytest

from sim import marks
from sim.bounds import optimum
from sim.policy.compiler import Compiled, compile_policy
from sim.registry import BASELINES, load_policy, policies
from sim.score import NODE_CHARGE, score
from sim.simulation import simulate
from workloads import Trace
from workloads.locate import CACHE_VARIABLE
from workloads.panel import Panel, Setup, make_panel


def walks(seed: int, requests: int = 400, depth: int = 7, width: int = 4) -> Trace:
    rng = np.random.default_rng(seed)
    ids: dict[tuple[int, ...], int] = {}
    offsets, blocks = [0], []
    for _ in range(requests):
        path = tuple(np.minimum(rng.geometric(0.5, rng.integers(1, depth + 1)), width).tolist())
        blocks += [ids.setdefault(path[: k + 1], len(ids)) for k in range(len(path))]
        offsets.append(len(blocks))
    return Trace.build(
        name=f"walks{seed}",
        block_tokens=16,
        offsets=offsets,
        block_ids=blocks,
        arrival_s=np.arange(requests, dtype=float),
        input_tokens=np.diff(offsets) * 16 + 3,
        output_tokens=np.ones(requests),
    )


@functools.cache
def compiled(name: str) -> Compiled:
    return compile_policy(load_policy(name))


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """Compile each baseline once for this file: most tests here compute the marks twice."""
    monkeypatch.setattr(marks, "compile_policy", lambda policy: compiled(policy.name))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return make_panel("tiny-v1", "train", {"a": walks(1), "b": walks(2)}, Setup(("5%", "20%")))


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Note each time marks are computed."""
    calls: list[str] = []
    real = marks._compute

    def compute(*arguments):
        calls.append("computed")
        return real(*arguments)

    monkeypatch.setattr(marks, "_compute", compute)
    return calls


def kept(cache) -> list:
    return sorted((cache / "marks").iterdir())


def test_values(panel, own_cache):
    found = marks.load_marks(panel)
    assert len(found.marks) == len(panel.cells) == 4
    for cell, mark in zip(panel.cells, found.marks, strict=True):
        trace = panel.traces[cell.trace_name]
        assert mark.lru == simulate(trace, "vllm", cell.capacity_blocks).hit_tokens
        assert mark.optimum == optimum(trace, cell.capacity_blocks).hit_tokens
        assert set(mark.baselines) == set(BASELINES)
        assert mark.baselines["gdsf"] == simulate(trace, "gdsf", cell.capacity_blocks).hit_tokens
        assert mark.baselines["lru"] == mark.lru
        assert max(mark.lru, *mark.baselines.values()) <= mark.optimum


def test_baselines_are_charged_like_candidates(panel, own_cache):
    found = marks.load_marks(panel)
    scores = found.baseline_scores()
    assert set(scores) == {"vllm", *BASELINES}
    assert scores["vllm"].combined == 0.0
    assert scores["lru"].combined == score(found.cells([m.lru for m in found.marks]), load_policy("lru").nodes).combined
    assert scores["lru"].combined < 0.0
    assert scores["gdsf"].size_charge == pytest.approx(NODE_CHARGE * load_policy("gdsf").nodes)


def test_cells_pair_hits_with_marks_in_order(panel, own_cache):
    found = marks.load_marks(panel)
    cells = found.cells([1, 2, 3, 4])
    assert [cell.hit_tokens for cell in cells] == [1, 2, 3, 4]
    assert [cell.trace for cell in cells] == ["a", "a", "b", "b"]
    assert [cell.optimum_hit_tokens for cell in cells] == [mark.optimum for mark in found.marks]
    assert cells[0].prompt_tokens == panel.traces["a"].prompt_tokens
    with pytest.raises(ValueError, match="zip"):
        found.cells([1, 2, 3])


def test_second_load_reads_the_cache(panel, own_cache, computed):
    first = marks.load_marks(panel)
    second = marks.load_marks(panel)
    assert computed == ["computed"]
    assert first.marks == second.marks
    assert len(kept(own_cache)) == 1


def test_another_panel_has_another_file(panel, own_cache, computed):
    marks.load_marks(panel)
    marks.load_marks(make_panel("tiny-v1", "train", {"a": walks(1)}, Setup(("5%", "20%"))))
    marks.load_marks(make_panel("tiny-v1", "validation", dict(panel.traces), Setup(("5%", "20%"))))
    assert len(computed) == len(kept(own_cache)) == 3


def test_another_baseline_has_another_file(panel, own_cache, monkeypatch, tmp_path):
    before = marks._path(panel)
    changed = tmp_path / "lru.py"
    changed.write_text(policies()["lru"].read_text() + "# edited\n")
    monkeypatch.setattr(marks, "policies", lambda: {**policies(), "lru": changed})
    assert marks._path(panel) != before


def rows(path) -> list[dict]:
    return json.loads(path.read_text())


def with_rows(good: bytes, change: Callable[[list], list]) -> bytes:
    content = json.loads(good)
    return json.dumps(content | {"marks": change(content["marks"])}).encode()


DAMAGE = {
    "empty": lambda good: b"",
    "cut": lambda good: good[: len(good) // 2],
    "binary": lambda good: b"\xff\x00" + good,
    "no fields": lambda good: b"{}",
    "null": lambda good: b"null",
    "number": lambda good: b"7",
    "rows are numbers": lambda good: with_rows(good, lambda rows: [1, 2, 3, 4]),
    "another panel": lambda good: good.replace(b'"fingerprint": "', b'"fingerprint": "0'),
    "too few cells": lambda good: with_rows(good, lambda rows: rows[:-1]),
    "too many cells": lambda good: with_rows(good, lambda rows: rows * 2),
    "no optimum": lambda good: good.replace(b'"optimum"', b'"maximum"'),
    "another baseline": lambda good: good.replace(b'"gdsf"', b'"gdsx"'),
    "baselines are a list": lambda good: with_rows(good, lambda rows: [rows[0] | {"baselines": []}] * 4),
    "not a number": lambda good: good.replace(b'"lru": ', b'"lru": NaN, "x": ', 1),
    "infinite": lambda good: good.replace(b'"optimum": ', b'"optimum": Infinity, "x": ', 1),
    "negative": lambda good: with_rows(good, lambda rows: [row | {"lru": -5} for row in rows]),
    "optimum below LRU": lambda good: with_rows(good, lambda rows: [row | {"optimum": 0} for row in rows]),
    "deep": lambda good: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_computed_anew_and_replaced(damage, panel, own_cache, computed, caplog):
    good = marks.load_marks(panel)
    (path,) = kept(own_cache)
    sound = path.read_bytes()
    path.write_bytes(DAMAGE[damage](sound))
    with caplog.at_level(logging.WARNING):
        assert marks.load_marks(panel).marks == good.marks
    assert len(computed) == 2
    assert "computed anew" in caplog.text
    assert path.read_bytes() == sound
    assert kept(own_cache) == [path]


def test_interrupted_write_leaves_nothing(panel, own_cache, monkeypatch, caplog):
    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "replace", fail)
        first = marks.load_marks(panel)
    assert "cannot keep the marks" in caplog.text
    assert kept(own_cache) == [], "neither a partial file nor a temporary one"
    assert marks.load_marks(panel).marks == first.marks
    assert len(kept(own_cache)) == 1


def test_cache_that_cannot_be_written_is_reported_and_done_without(panel, tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocked))
    with caplog.at_level(logging.WARNING):
        assert len(marks.load_marks(panel).marks) == 4
    assert "cannot keep the marks" in caplog.text
