"""The size of every modelling choice: published figures, the table, the command."""

from __future__ import annotations

import json

import pytest
from small_traces import dialogue_trace

from sim.bounds import optimum
from sim.cli import main
from sim.fidelity import CAPACITIES, CHOICES, fidelity
from sim.simulation import simulate

MEASURED = {
    "vLLM >= 0.23, serial": (12_988, 15_942, 34_185, 62_001, 84_689, 102_723),
    "vLLM <= 0.22: the partial tail holds a slot": (12_837, 15_645, 32_203, 60_971, 82_935, 102_165),
    "head-first recency: a prefix loses its head first": (12_933, 15_924, 33_812, 61_976, 84_647, 102_589),
    "partial blocks cached and hit like others": (12_847, 15_665, 32_260, 61_046, 83_035, 102_290),
    "the same, independent blocks (libCacheSim)": (12_831, 15_487, 31_840, 60_921, 82_939, 102_290),
    "engine sglang": (12_933, 15_924, 33_660, 61_568, 84_192, 102_468),
    "decode blocks private": (12_878, 15_756, 32_849, 61_238, 83_406, 102_226),
    "decode blocks inferred": (13_876, 16_792, 34_377, 63_354, 86_384, 105_447),
    "overlap": (12_890, 14_719, 33_363, 62_017, 84_633, 102_735),
    "overlap, decode blocks inferred": (12_904, 14_681, 32_520, 62_372, 85_676, 104_872),
    "offline optimum, serial": (51_666, 71_894, 97_903, 105_592, 105_592, 105_592),
}
"""Hit blocks on the conversation trace at `CAPACITIES`, from vLLM's own code; the optimum from another tool."""


def test_measured_figures_are_reproduced(real_trace):
    whole = real_trace("mooncake_conversation?partial_tail=block")
    found = fidelity(real_trace("mooncake_conversation"), with_partial_ids=whole)
    rows = {row.label: row.hit_blocks for row in found.rows}
    assert found.capacity_blocks == CAPACITIES
    assert {label: rows[label] for label in MEASURED} == MEASURED
    assert rows["CPU tier alone, blocks enter at the second request"][1:4] == (27_152, 48_056, 59_385)
    assert rows["LRU that never orphans"] == rows["vLLM >= 0.23, serial"]  # tail first never orphans, served one by one


def test_rows_are_replays():
    trace = dialogue_trace()
    found = fidelity(trace, [60, "50%"])
    assert found.capacity_blocks == (60, trace.n_blocks // 2)
    assert [row.label for row in found.rows[: len(CHOICES)]] == [label for label, _, _ in CHOICES]
    for row, (_, policy, options) in zip(found.rows, CHOICES, strict=False):
        assert row.hit_blocks[0] == simulate(trace, policy, 60, **options).hit_blocks
    assert found.rows[-1].hit_blocks[0] == optimum(trace, 60).hit_blocks
    lines = str(found).splitlines()
    assert len(lines) == len(found.rows) + 2
    change = 100 * (found.rows[1].hit_blocks[0] / found.rows[0].hit_blocks[0] - 1)
    assert f"{found.rows[1].hit_blocks[0]:,} ({change:+.1f}%)" in lines[3]


def test_command(capsys: pytest.CaptureFixture[str]):
    trace = "synthetic:chat?seed=1&requests=300"
    assert main(["fidelity", trace, "--capacity", "300", "10%", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["capacity_blocks"][0] == 300
    assert len(content["rows"]) >= len(CHOICES) + 1
    assert main(["fidelity", trace, "--capacity", "300"]) == 0
    assert "offline optimum" in capsys.readouterr().out
    assert main(["fidelity", trace, "--capacity", "none"]) == 1
    assert "capacity 'none'" in capsys.readouterr().err
